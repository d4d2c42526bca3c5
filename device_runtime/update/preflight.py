"""Checks before an installation writes anything: does the bundle fit this target, now?"""

from contextlib import suppress
from dataclasses import dataclass

from device_runtime.bundle import requirements
from device_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, decode
from device_runtime.bundle.source import Source
from device_runtime.errors import BundleError, InstallError, ResourceError
from device_runtime.update import config, hold
from device_runtime.update.journal import read_history
from device_runtime.update.keyring import Keyring
from device_runtime.update.links import STATE
from device_runtime.update.releases import Releases
from device_runtime.update.target import Target

SPARE_BYTES = 64 << 20
"""Space that an installation leaves free on the target's disk."""
MAX_FAILURES = 2
"""Failed trials after which a release is not tried again."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Permissions for an installation.

    Attributes:
        force: may install a bundle that is for other hardware than the device's, that is another
            product than its current release, or that has failed there.
        downgrade: may replace the current release by one with a lower sequence.
        unsigned: may install a bundle that no trusted key has signed.
        keys: PEMs of keys that a device without keys trusts from now on.
    """

    force: bool = False
    downgrade: bool = False
    unsigned: bool = False
    keys: tuple[bytes, ...] = ()


STRICT = Policy()
"""The default: no special permissions."""


def check_target(source: Source, target: Target, policy: Policy) -> None:
    """Refuse a target that the bundle cannot run on.

    Processor, memory and board are known of a running system alone: a root file system that is
    mounted on another machine may end up in any board.

    Raises:
        InstallError: it is not a root file system, or its architecture, C library, processor,
            memory or hardware does not match.
    """
    manifest = source.manifest
    kit = manifest.kit
    if kit is None:
        raise InstallError(
            "this bundle contains only a model, without a runtime to install",
            hint="Build it without --model-only, with a profile that has a runtime.",
        )
    if not target.is_system:
        raise InstallError(
            f"{target.root} is not a root file system (no etc, usr and os-release there)",
            hint="Mount the device's root partition and pass its mount point.",
        )
    _require(target, requirements.architecture(target.machine, kit))
    if target.glibc is not None:
        _require(target, requirements.c_library(target.glibc, kit))
    _require(target, requirements.processor(target.processor, kit))
    if policy.force:
        return
    if target.memory_bytes is not None:
        _require(target, requirements.memory(target.memory_bytes, manifest))
    _require(target, requirements.hardware(target.board, kit.machine, manifest))


def check_signature(source: Source, target: Target, policy: Policy) -> Keyring:
    """Refuse a bundle that too few of the keys that the target trusts have signed.

    Returns:
        The target's keyring.

    Raises:
        BundleError: the signature is malformed, or wrong.
        InstallError: there are too few signatures, or the target's rules or keys are not valid.
    """
    keyring = Keyring(target, first=policy.keys)
    keyring.check(source, config.read(target), allow_unsigned=policy.unsigned)
    return keyring


def check_update(source: Source, target: Target, policy: Policy) -> None:
    """Refuse a bundle that the state of the target speaks against.

    A current release that cannot be read does not prevent the update.

    Raises:
        InstallError: installations are on hold, the bundle is of another product or older than the
            current release, or it has failed here too often.
    """
    reason = hold.reason(target)
    if reason is not None:
        raise InstallError(
            f"{target.root} holds installations: {reason}",
            hint=f"Try again later, or remove /{' or /'.join(hold.FILES)} there.",
        )
    installed = current_manifest(target)
    if installed is not None and not policy.force:
        _require(target, requirements.product(installed, source.manifest))
    if installed is not None and not policy.downgrade:
        _require(target, requirements.update(installed, source.manifest))
    if not policy.force:
        _check_failures(source, target)


def check_space(source: Source, target: Target, releases: Releases) -> None:
    """Refuse a disk without room for the release; releases without a role make room first.

    Raises:
        ResourceError: there is too little space.
    """
    while True:
        needed = _needed_bytes(source.manifest, releases) + SPARE_BYTES
        free = target.free_bytes(STATE)
        if free >= needed:
            return
        if not releases.prune(0):
            raise ResourceError(
                f"{target.root} has {free >> 20} MiB free; the release needs {needed >> 20} MiB",
                hint="Free some space there, or use a smaller model.",
            )


def current_manifest(target: Target) -> Manifest | None:
    """Read the manifest of the current release; None if there is none that can be read."""
    data = target.read(f"{STATE}/current/{MANIFEST_NAME}", MAX_MANIFEST_BYTES + 1)
    with suppress(BundleError):
        return decode(data) if data is not None else None
    return None


def _check_failures(source: Source, target: Target) -> None:
    with suppress(FileNotFoundError), target.folder(STATE) as state:
        failure = read_history(state).failure(source.digest)
        if failure is not None and failure.count >= MAX_FAILURES:
            raise InstallError(
                f"this release has failed {failure.count} times on {target.root}, last because "
                f"{failure.reason}",
                hint="Build another release; to try this one once more, pass --force.",
            )


def _needed_bytes(manifest: Manifest, releases: Releases) -> int:
    """Return the space that a release takes beside those that it shares files with, bytes.

    Compressed bytes are stored whole before they are decompressed, one blob at a time.
    """
    own = [r for r in manifest.records if r.blob is not None and releases.shared(r) is None]
    stored = (r.blob.size for r in own if r.blob is not None and r.blob.compression != "none")
    return sum(record.size for record in own) + max(stored, default=0)


def _require(target: Target, unmet: requirements.Unmet | None) -> None:
    if unmet is not None:
        raise InstallError(f"cannot install into {target.root}: {unmet.problem}", hint=unmet.hint)
