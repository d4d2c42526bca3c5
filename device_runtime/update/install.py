"""Install a bundle into a root file system: this device's own, or a mounted one.

Afterwards the root has

    /var/lib/edgepack/releases/<digest>/     the verified release
    /var/lib/edgepack/current                link to it, switched atomically
    /var/lib/edgepack/previous               link to the release before it
    /var/lib/edgepack/pending.json           the release is on trial
    /usr/local/bin/edgepack-runtime          link to the program in `current`
    /etc/systemd/system/edgepack*.service    the service, and the guard that ends the trial

A release gets its final name only when all of it is verified and on disk, and `current` is switched
after everything else is in place: until then, the device keeps its previous release.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from device_runtime.bundle.delta import open_update
from device_runtime.bundle.folder import BundleFolder
from device_runtime.bundle.manifest import SIGNATURE_NAME
from device_runtime.bundle.release import OnBytes, Release, disk_error, open_release
from device_runtime.bundle.requirements import uses_gpu
from device_runtime.bundle.source import Shared, Source
from device_runtime.durable import Folder, aside_name, open_folder
from device_runtime.errors import BundleError
from device_runtime.update import config, first_boot, incoming, links, switch, units
from device_runtime.update.first_boot import FirstBoot
from device_runtime.update.journal import read_pending
from device_runtime.update.links import STATE
from device_runtime.update.preflight import (
    STRICT,
    Policy,
    check_signature,
    check_space,
    check_target,
    check_update,
)
from device_runtime.update.releases import Releases
from device_runtime.update.services import Services
from device_runtime.update.target import Target

__all__ = ["STRICT", "Installed", "Policy", "install"]


@dataclass(frozen=True, kw_only=True)
class Installed(Release):
    """The release that an installation made the current one.

    Attributes:
        on_trial: whether the guard still has to find it good.
        notes: what the installation left as it is, one sentence each.
    """

    on_trial: bool
    notes: tuple[str, ...]


def install(
    bundle: Path | Source,
    root: Path = Path("/"),
    *,
    policy: Policy = STRICT,
    services: Services | None = None,
    settings: FirstBoot | None = None,
    on_bytes: OnBytes | None = None,
) -> Installed:
    """Verify a bundle and make it the current release of a root file system.

    Args:
        bundle: the `.epk` file, complete or an update, a folder with the members of a bundle, or an
            open bundle.
        root: the target's root folder.
        policy: permissions for the installation.
        services: the services of the running system; None if the root is not that of one.
        settings: settings to write with the release; None to write none.
        on_bytes: called with the size of each chunk of data as it is read.

    Raises:
        BundleError: the bundle is damaged or hostile; the target is unchanged.
        InstallError: the bundle does not fit the target, or too few keys that the target trusts
            have signed it.
        ResourceError: too little space, or the target cannot be written to.
        ServiceError: the release is installed, but the service could not be restarted.
    """
    target = Target(root)
    with _opened(bundle) as source:
        try:
            check_target(source, target, policy)
            check_signature(source, target, policy)
            with target.folder(STATE, make=True) as state, switch.alone(state):
                switch.recover(target, state)
                # Again: the guard may have changed the keys before it gave up the lock.
                keyring = check_signature(source, target, policy)
                check_update(source, target, policy)
                keep = config.read(target).keep_releases
                release, repaired = _place(source, target, state, on_bytes)
                if keyring.signers(source) and release.signature != source.signature:
                    # The same release may come again with other signatures.
                    with open_folder(release.folder) as folder:
                        folder.write(SIGNATURE_NAME, source.signature)
                keyring.keep_first()
                new_units = units.place(target, gpu=uses_gpu(source.manifest))
                new_settings = settings is not None and first_boot.write(target, settings)
                switched = links.read(state, "current") != release.digest
                serves = units.starts(target) or (
                    services is not None and services.is_active(units.SERVICE)
                )
                if switched:
                    switch.begin(target, state, release.digest)
                    if not serves:  # nobody would find out how it does
                        switch.commit(target, state, keep=keep)
                Releases(target, state).prune(keep)
                on_trial = read_pending(state) is not None
        except OSError as error:
            raise disk_error(error, root) from None
    if services is not None:
        if new_units or new_settings:
            services.reload()
        if serves and (switched or repaired or new_settings):
            services.restart(units.SERVICE)
            if on_trial:
                services.restart(units.GUARD)
    return Installed(
        folder=release.folder,
        manifest=release.manifest,
        digest=release.digest,
        on_trial=on_trial,
        notes=tuple(units.notes(target)),
    )


@contextmanager
def _opened(bundle: Path | Source) -> Iterator[Source]:
    if isinstance(bundle, Source):
        yield bundle
    elif bundle.is_dir():
        yield BundleFolder(bundle)
    else:
        with open_update(bundle) as opened:
            yield opened


def _place(
    source: Source, target: Target, state: Folder, on_bytes: OnBytes | None
) -> tuple[Release, bool]:
    """Put the release under its digest; keep an existing one that is intact.

    Returns:
        The release, and whether a damaged one was replaced.
    """
    installed = Releases(target, state)
    installed.sweep()
    release = installed.open(source.digest)
    with installed.folder(make=True) as releases:
        if release is not None:
            with suppress(BundleError):
                release.verify(on_bytes)
                releases.sync()
                return release, False
        check_space(source, target, installed)
        source.build_on(installed.content)
        aside = aside_name(source.digest)
        try:
            with incoming.contents(source, releases) as offered:
                shared = incoming.either(installed.shared, offered)
                _unpack(source, releases, aside, shared, on_bytes)
            damaged = _publish(releases, aside, source.digest)
        except BaseException:
            with suppress(OSError):
                releases.remove(aside)
            raise
        return open_release(releases.path / source.digest), damaged


def _unpack(
    source: Source, releases: Folder, aside: str, shared: Shared, on_bytes: OnBytes | None
) -> None:
    """Write the release into a new folder and flush all of it to disk."""
    with releases.make_folder(aside) as folder:
        # Closed until the folders in it have their modes: root runs what is there.
        os.fchmod(folder.descriptor, 0o700)
        source.unpack(folder.path, on_bytes, shared)
        for base, _, _ in os.walk(folder.path, topdown=False):
            # Readable by the service's own user, whatever the installing user's umask.
            Path(base).chmod(0o755)
            with open_folder(Path(base)) as written:
                written.sync()


def _publish(releases: Folder, aside: str, name: str) -> bool:
    """Give a complete release its name; return whether a damaged one had it until now."""
    if releases.stat(name) is None:
        releases.rename(aside, name)
        return False
    releases.exchange(aside, name)
    releases.remove(aside)
    return True
