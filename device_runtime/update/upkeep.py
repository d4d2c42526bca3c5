"""Upkeep of the releases of a root file system: list them, go back, collect, purge, uninstall."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from device_runtime.bundle.release import Release, disk_error, open_release
from device_runtime.durable import Folder
from device_runtime.errors import InstallError
from device_runtime.update import config, links, switch, units
from device_runtime.update.journal import HISTORY, REQUESTED, clear_pending
from device_runtime.update.links import RELEASES, STATE
from device_runtime.update.releases import Listed, Releases
from device_runtime.update.services import Services
from device_runtime.update.target import Target


def listing(root: Path) -> list[Listed]:
    """List the releases; empty if there are none.

    Raises:
        ResourceError: they cannot be read.
    """
    target = Target(root)
    try:
        with target.folder(STATE) as state:
            return Releases(target, state).listing()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise disk_error(error, root) from None


def go_back(root: Path, services: Services | None = None) -> Release:
    """Make the previous release the current one, without a trial.

    Raises:
        InstallError: there is none.
        BundleError: it is damaged.
        ResourceError: the root cannot be written to.
        ServiceError: the service could not be restarted.
    """
    with _changed(root) as (target, state):
        digest = switch.back(target, state)
        with Releases(target, state).folder() as releases:
            release = open_release(releases.path / digest)
    if services is not None and (units.starts(target) or services.is_active(units.SERVICE)):
        services.restart(units.SERVICE)
    return release


def collect(root: Path) -> list[str]:
    """Remove leftovers, partial transfers and old releases; return the digests of the latter.

    Raises:
        InstallError: nothing is installed, an installation is running, or update.toml is not valid.
        ResourceError: the root cannot be written to.
    """
    with _changed(root) as (target, state):
        switch.recover(target, state)
        units.sweep(target)
        return Releases(target, state).collect(config.read(target).keep_releases)


def purge(root: Path, digest: str) -> str:
    """Remove a release without a role.

    Args:
        root: the root file system.
        digest: the release's digest, or its first characters.

    Returns:
        The digest.

    Raises:
        InstallError: there is no such release, more than one, or it is in use.
        ResourceError: the root cannot be written to.
    """
    with _changed(root) as (target, state):
        releases = Releases(target, state)
        digests = [item.digest for item in releases.listing() if item.digest.startswith(digest)]
        if len(digests) != 1:
            raise InstallError(
                f"{len(digests) or 'no'} releases have a digest that starts with {digest!r}",
                hint="edgepack-runtime releases --json lists the releases with their digests.",
            )
        releases.remove(digests[0])
        return digests[0]


def uninstall(root: Path, services: Services | None = None) -> list[str]:
    """Remove all that installations have put there; the configuration in /etc/edgepack stays.

    Returns:
        Notes on what stays, one sentence each.

    Raises:
        InstallError: nothing is installed, or an installation is running.
        ResourceError: the root cannot be written to.
        ServiceError: the service could not be stopped.
    """
    with _changed(root) as (target, state):
        if services is not None:
            services.stop(units.REQUESTS)
            services.stop(units.GUARD)
            services.stop(units.SERVICE)
        units.remove(target)
        clear_pending(state)
        for role in links.ROLES:
            links.point(state, role, None)
        releases = Releases(target, state)
        releases.collect(0)
        emptied: list[str] = []
        with suppress(FileNotFoundError), releases.folder() as folder:
            emptied += [] if folder.names() else [RELEASES]
        for name in (HISTORY, REQUESTED, switch.LOCK, *emptied):
            if state.stat(name) is not None:
                state.remove(name)
        left = state.names()
    if not left:
        with suppress(OSError), target.folder(STATE.rpartition("/")[0]) as around:
            around.remove(STATE.rpartition("/")[2])
    if services is not None:
        services.reload()
    others = [f"/{STATE}/{name} stays: others have put files there" for name in left]
    return [*units.notes(target), *others]


@contextmanager
def _changed(root: Path) -> Iterator[tuple[Target, Folder]]:
    """Open the state folder, alone.

    Raises:
        InstallError: there is none, or an installation is running.
        ResourceError: the root cannot be written to.
    """
    target = Target(root)
    try:
        with ExitStack() as opened:
            try:
                state = opened.enter_context(target.folder(STATE))
            except FileNotFoundError:
                raise InstallError(
                    f"nothing is installed on {root}",
                    hint="Install a bundle first: edgepack-runtime install FILE.epk",
                ) from None
            opened.enter_context(switch.alone(state))
            yield target, state
    except OSError as error:
        raise disk_error(error, root) from None
