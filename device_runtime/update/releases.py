"""The releases on a target: listed, shared with new ones, pruned and removed."""

import errno
import re
import stat
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

import msgspec

from device_runtime.bundle.manifest import Manifest, Record
from device_runtime.bundle.release import Release, open_release
from device_runtime.durable import Folder, aside_name
from device_runtime.errors import BundleError, InstallError
from device_runtime.update import links
from device_runtime.update.journal import (
    HISTORY,
    PENDING,
    REQUESTED,
    read_history,
    read_pending,
)
from device_runtime.update.links import RELEASES, STATE
from device_runtime.update.target import Target

INCOMING = "incoming"
"""Folder of partial transfers, in the state folder."""

_DIGEST = re.compile(r"[0-9a-f]{64}")

State = Literal["current", "on trial", "previous", "failed", "kept", "damaged"]


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A release in the list of those on a device.

    Attributes:
        digest: digest of the release.
        id: name of its line of bundles; empty if its manifest is damaged.
        version: its version; empty if its manifest is damaged.
        sequence: its sequence.
        state: its role; `kept` for a release that could serve but has no role.
        size: size of its files, bytes; files shared with other releases are counted in each.
        tokens_per_s: decode speed in its trial; None if it was not measured.
        reason: reason of its latest failure; empty if it has not failed.
    """

    digest: str
    id: str
    version: str
    sequence: int
    state: State
    size: int
    tokens_per_s: float | None
    reason: str


class Releases:
    """The releases in the state folder of a target.

    Changes need the lock (`switch.alone`).
    """

    def __init__(self, target: Target, state: Folder) -> None:
        self._target = target
        self._state = state
        self._content: dict[tuple[str, int], str] | None = None

    def folder(self, *, make: bool = False) -> Folder:
        """Open the folder of the releases.

        Args:
            make: create it if it is missing, instead of raising OSError.
        """
        return self._target.folder(f"{STATE}/{RELEASES}", make=make)

    def listing(self) -> list[Listed]:
        """List the releases: those with a role first, then by sequence, the highest first."""
        history = read_history(self._state)
        listed = []
        for digest in self._digests():
            release = self.open(digest)
            manifest = release.manifest if release else None
            failure = history.failure(digest)
            listed.append(
                Listed(
                    digest=digest,
                    id=manifest.id if manifest else "",
                    version=manifest.version if manifest else "",
                    sequence=manifest.sequence if manifest else 0,
                    state=self._state_of(digest, manifest, failed=failure is not None),
                    size=manifest.installed_size if manifest else 0,
                    tokens_per_s=history.speeds.get(digest),
                    reason=failure.reason if failure else "",
                )
            )
        order = ("on trial", "current", "previous")
        return sorted(
            listed,
            key=lambda item: (
                order.index(item.state) if item.state in order else len(order),
                -item.sequence,
                item.digest,
            ),
        )

    def open(self, digest: str) -> Release | None:
        """Open a release; None if it is missing or its manifest is damaged."""
        with suppress(BundleError, OSError), self.folder() as folder:
            folder.folder(digest).close()  # a link may lead into another machine's files
            release = open_release(folder.path / digest)
            return release if release.digest == digest else None
        return None

    def shared(self, record: Record) -> Path | None:
        """Return a file of a release that should have a record's content and mode, or None."""
        return self._file(record.sha256, (record.mode,))

    def content(self, sha256: str) -> Path | None:
        """Return a file of a release that should have the content with a digest, or None."""
        return self._file(sha256, (0o644, 0o755))

    def _file(self, sha256: str, modes: Iterable[int]) -> Path | None:
        """Find a file by content and mode.

        No link is followed on the way to the file: on a card it may lead into this machine.
        """
        if self._content is None:
            self._content = {
                (record.sha256, record.mode): f"{digest}/{record.path}"
                for digest in self._digests()
                if (release := self.open(digest))
                for record in release.manifest.records
                if record.link is None
            }
        path = next(filter(None, (self._content.get((sha256, mode)) for mode in modes)), None)
        if path is None:
            return None
        with ExitStack() as opened, suppress(OSError):
            folder = opened.enter_context(self.folder())
            *parents, name = path.split("/")
            for parent in parents:
                folder = opened.enter_context(folder.folder(parent))
            entry = folder.stat(name)
            if entry is not None and stat.S_ISREG(entry.st_mode):
                return folder.path / name
        return None

    def prune(self, keep: int) -> list[str]:
        """Remove releases until `keep` are left, and return the digests of those removed.

        Releases with a role and the one on trial stay, however many they are. Of the others, all
        that are damaged or failed are removed, then those with the lowest sequences: the clock,
        which would tell the oldest, is wrong on many devices.
        """
        spare = [item for item in self.listing() if item.digest not in self.protected()]
        usable = [item for item in spare if item.state == "kept"]
        room = max(0, keep - len(self.protected()))
        removed = [item.digest for item in spare if item not in usable[:room]]
        for digest in removed:
            self._remove(digest)
        return removed

    def remove(self, digest: str) -> None:
        """Remove an installed release.

        Raises:
            InstallError: it has a role.
        """
        if digest in self.protected():
            raise InstallError(
                f"release {digest} is in use",
                hint="Only releases that are neither current, previous nor on trial are removed; "
                "purge --all removes everything.",
            )
        self._remove(digest)

    def sweep(self) -> None:
        """Remove what interrupted changes left behind."""
        files = map(re.escape, (PENDING, HISTORY, REQUESTED))
        self._state.sweep("|".join((*links.ROLES, *files)))
        with suppress(FileNotFoundError), self.folder() as releases:
            releases.sweep("[0-9a-f]{40}")

    def collect(self, keep: int) -> list[str]:
        """Remove all that no release needs, and prune the releases as `prune` does.

        Partial transfers are removed, too: an upload that is resumed later starts again.
        """
        self.sweep()
        for name in (INCOMING, *(f"{name}.corrupt" for name in (PENDING, HISTORY, REQUESTED))):
            if self._state.stat(name) is not None:
                self._state.remove(name)
        return self.prune(keep)

    def protected(self) -> set[str]:
        """Return the digests of the releases that must stay."""
        pending = read_pending(self._state)
        roles = [links.read(self._state, role) for role in links.ROLES]
        if pending is not None:
            roles += [pending.release, pending.previous, pending.older]
        return {digest for digest in roles if digest is not None}

    def _digests(self) -> list[str]:
        with suppress(FileNotFoundError), self.folder() as folder:
            return sorted(name for name in folder.names() if _DIGEST.fullmatch(name))
        return []

    def _remove(self, digest: str) -> None:
        # Under its own name a release is whole, at every moment.
        aside = aside_name(digest)
        with self.folder() as folder:
            try:
                folder.rename(digest, aside)
            except OSError as error:
                # In an overlay (a container's, say), a folder of a lower layer keeps its name.
                if error.errno != errno.EXDEV:
                    raise
                aside = digest
            folder.remove(aside)
        self._content = None

    def _state_of(self, digest: str, manifest: Manifest | None, *, failed: bool) -> State:
        pending = read_pending(self._state)
        if pending is not None and pending.release == digest:
            return "on trial"
        for role in ("current", "previous"):
            if links.read(self._state, role) == digest:
                return role
        if manifest is None:
            return "damaged"
        return "failed" if failed else "kept"
