"""The request for a flash, and its result."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from device_runtime.bundle.source import Shared, Source, nothing_shared
from device_runtime.update.first_boot import FirstBoot
from device_runtime.update.preflight import STRICT, Policy
from packager.errors import FlashError
from packager.units import GIGA

MAX_SIZE = 256 * GIGA
"""Largest block device that is overwritten unless the user allows a larger one, bytes."""


@dataclass(frozen=True, kw_only=True)
class FlashRequest:
    """The user's request for a flash.

    Attributes:
        bundle: the `.epk` file.
        target: the target as the user wrote it: a folder, a disk image, a block device or
            `ssh://[USER@]HOST[:PORT]`.
        policy: permissions for the installation.
        settings: settings of the device to write with the release; None to write none.
        grow: bytes to add to the root file system of an image; None to leave its size.
        max_size: largest block device that may be overwritten, bytes.
        yes: overwrite a block device without asking.
        dry_run: write nothing, and return what would be written.
        output: disk image to write instead of changing the target; None to change it.
        sudo_password: file with the password for sudo on an SSH target; None to be asked for it.
        delta_from: bundle that an SSH target has: only the difference travels, if it is smaller;
            None to send the blobs that the target lacks.
    """

    bundle: Path
    target: str
    policy: Policy = STRICT
    settings: FirstBoot | None = None
    grow: int | None = None
    max_size: int = MAX_SIZE
    yes: bool = False
    dry_run: bool = False
    output: Path | None = None
    sudo_password: Path | None = None
    delta_from: Path | None = None

    def refuse(self, kind: str, **options: object) -> None:
        """Refuse options that a kind of target does not have.

        Args:
            kind: the kind of target, `a mounted root file system`.
            options: values by the name of the option, `grow=request.grow`; None and False are
                not set.

        Raises:
            FlashError: an option is set.
        """
        for name, value in options.items():
            if value is not None and value is not False:
                raise FlashError(
                    f"--{name.replace('_', '-')} is not for {kind}",
                    hint="Leave the option out; edgepack flash --help says what it is for.",
                )


@dataclass(frozen=True, kw_only=True)
class FlashResult:
    """The outcome of a flash; with `dry_run`, the one that it would have.

    Attributes:
        target: the target as the user wrote it; the image that was written, if that is another.
        release: digest of the release.
        id: id of the bundle.
        version: version of the bundle.
        moved: bytes read from the bundle for the target, by component (`runtime`, `model`,
            `tokenizer`); under `other` the manifest, the SBOM and the settings, or
            an update file with all of them.
        dry_run: nothing was written.
    """

    target: str
    release: str
    id: str
    version: str
    moved: Mapping[str, int]
    dry_run: bool = False

    @property
    def total(self) -> int:
        """Sum of `moved`, bytes."""
        return sum(self.moved.values())


def result(request: FlashRequest, bundle: Source, moved: Mapping[str, int]) -> FlashResult:
    """Describe a flash of a bundle; see `FlashResult.moved`."""
    return FlashResult(
        target=str(request.output or request.target),
        release=bundle.digest,
        id=bundle.manifest.id,
        version=bundle.manifest.version,
        moved=dict(moved),
        dry_run=request.dry_run,
    )


def whole(request: FlashRequest, bundle: Source, shared: Shared = nothing_shared) -> Counter[str]:
    """Sum up a bundle that is moved as a whole, as `FlashResult.moved` does.

    Args:
        request: the request.
        bundle: its bundle.
        shared: offers the files that the target has: their blobs are not read.
    """
    moved: Counter[str] = Counter(runtime=0, model=0, tokenizer=0)
    components = {
        r.blob.sha256: r.component
        for r in bundle.manifest.records
        if r.blob is not None and shared(r) is None
    }
    for digest, component in components.items():
        moved[component] += bundle.manifest.blobs[digest].size
    moved["other"] = len(bundle.manifest_bytes) + len(bundle.signature) + len(bundle.sbom)
    moved["other"] += len(msgspec.json.encode(request.settings)) if request.settings else 0
    return moved
