"""Install a bundle into a root file system: this device's own, or a mounted one.

Afterwards the root has

    /var/lib/edgepack/releases/<digest>/     the verified release
    /var/lib/edgepack/current                link to it, switched atomically
    /usr/local/bin/edgepack-runtime          link to the program in `current`
    /etc/systemd/system/edgepack.service     enabled in multi-user.target

A release gets its final name only when all of it is verified and on disk, and `current` is switched
last but for the unit: until then, the device keeps its previous release.
"""

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from device_runtime.bundle import requirements
from device_runtime.bundle.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    RUNTIME_ENTRY,
    SIGNATURE_NAME,
    decode,
)
from device_runtime.bundle.reader import Bundle, open_bundle
from device_runtime.bundle.release import OnBytes, Release, disk_error, open_release
from device_runtime.durable import Folder, aside_name, open_folder
from device_runtime.errors import BundleError, InstallError, ResourceError
from device_runtime.update import config
from device_runtime.update.keyring import Keyring
from device_runtime.update.target import Target

STATE = "var/lib/edgepack"
PROGRAMS = "usr/local/bin"
PROGRAM_NAME = "edgepack-runtime"
UNIT_NAME = "edgepack.service"
UNITS = "etc/systemd/system"
LOCK = ".lock"
SPARE_BYTES = 64 << 20
"""Space that an installation leaves free on the target's disk."""

UNIT = f"""\
[Unit]
Description=edgepack: a language model served on this device
After=network.target

[Service]
Type=exec
ExecStart=/{STATE}/current/{RUNTIME_ENTRY} serve
EnvironmentFile=-/etc/edgepack/runtime.env
Restart=on-failure
RestartSec=2
TimeoutStopSec=30
KillMode=mixed
DynamicUser=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictSUIDSGID=yes
LockPersonality=yes

[Install]
WantedBy=multi-user.target
"""

# Folders left behind by an interrupted installation: names from `aside_name`, and from version 0.1.
_LEFTOVER = re.compile(r"\.[0-9a-f]{40}\.[0-9a-f]{16}|\.(damaged-)?[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Permissions for an installation.

    Attributes:
        other_hardware: may install a bundle that is for other hardware than the device's.
        downgrade: may replace the current release by one with a lower sequence.
        unsigned: may install a bundle that no trusted key has signed.
        keys: PEMs of keys that a device without keys trusts from now on.
    """

    other_hardware: bool = False
    downgrade: bool = False
    unsigned: bool = False
    keys: tuple[bytes, ...] = ()


STRICT = Policy()
"""The default: no special permissions."""


def install(
    bundle_path: Path,
    root: Path = Path("/"),
    *,
    policy: Policy = STRICT,
    on_bytes: OnBytes | None = None,
) -> Release:
    """Verify a bundle and make it the current release of a root file system.

    Args:
        bundle_path: the `.epk` file.
        root: the target's root folder.
        policy: permissions for the installation.
        on_bytes: called with the size of each chunk of data as it is read.

    Raises:
        BundleError: the bundle is damaged or hostile; the target is unchanged.
        InstallError: the bundle does not fit the target, or too few keys that the target trusts
            have signed it.
        ResourceError: too little space, or the target cannot be written to.
    """
    target = Target(root)
    with open_bundle(bundle_path) as bundle:
        try:
            check_target(bundle, target, policy)
            keyring = Keyring(target, first=policy.keys)
            signers = keyring.check(bundle, config.read(target), allow_unsigned=policy.unsigned)
            with target.folder(STATE, make=True) as state, _alone(state):
                check_update(bundle, target, policy)
                with target.folder(f"{STATE}/releases", make=True) as releases:
                    release = _place(bundle, releases, on_bytes)
                if signers and release.signature != bundle.signature:
                    # The same release may come again with other signatures.
                    with open_folder(release.folder) as folder:
                        _write(folder, SIGNATURE_NAME, bundle.signature)
                keyring.keep_first()
                state.link("current", f"releases/{release.digest}")
                _link_into_system(target)
        except OSError as error:
            raise disk_error(error, root) from None
    return release


def check_target(bundle: Bundle, target: Target, policy: Policy) -> None:
    """Refuse a target that the bundle cannot run on.

    The board of a root file system that is mounted on another machine is not known: only facts from
    its own files are checked there.

    Raises:
        InstallError: it is not a root file system, or its architecture, C library or hardware does
            not match.
        ResourceError: it has too little free space.
    """
    kit = bundle.manifest.kit
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
    glibc = target.glibc
    if glibc is not None:
        _require(target, requirements.c_library(glibc, kit))
    if not policy.other_hardware:
        _require(target, requirements.hardware(target.board, kit.machine, bundle.manifest))
    free = target.free_bytes(STATE)
    needed = bundle.manifest.installed_size + SPARE_BYTES
    if free < needed:
        raise ResourceError(
            f"{target.root} has {free >> 20} MiB free; the release needs {needed >> 20} MiB",
            hint="Free some space there, or use a smaller model.",
        )


def check_update(bundle: Bundle, target: Target, policy: Policy) -> None:
    """Refuse a bundle that is older than the current release of the same id.

    A current release that cannot be read does not prevent the update.

    Raises:
        InstallError: the bundle's sequence is lower.
    """
    data = target.read(f"{STATE}/current/{MANIFEST_NAME}", MAX_MANIFEST_BYTES + 1)
    if data is None or policy.downgrade:
        return
    with suppress(BundleError):
        _require(target, requirements.update(decode(data), bundle.manifest))


def _require(target: Target, unmet: requirements.Unmet | None) -> None:
    if unmet is not None:
        raise InstallError(f"cannot install into {target.root}: {unmet.problem}", hint=unmet.hint)


@contextmanager
def _alone(state: Folder) -> Iterator[None]:
    """Hold the lock that allows one installation at a time."""
    entry = state.stat(LOCK)
    if entry is not None and not stat.S_ISREG(entry.st_mode):
        raise InstallError(
            f"{state.path / LOCK} is not a plain file",
            hint="Remove it: installations use a file of that name as their lock.",
        )
    with state.file(LOCK, make=True) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InstallError(
                "another installation is running on this target", hint="Wait for it to end."
            ) from None
        yield


def _place(bundle: Bundle, releases: Folder, on_bytes: OnBytes | None) -> Release:
    """Put the release under its digest; keep an existing one that is intact."""
    final = releases.path / bundle.digest
    entry = releases.stat(bundle.digest)
    if entry is not None and stat.S_ISDIR(entry.st_mode):
        with suppress(BundleError):
            release = open_release(final)
            release.verify(on_bytes)
            releases.sync()
            return release
    for name in releases.names():
        if _LEFTOVER.fullmatch(name):
            releases.remove(name)
    aside = aside_name(bundle.digest)
    try:
        _unpack(bundle, releases, aside, on_bytes)
        _publish(releases, aside, bundle.digest)
    except BaseException:
        with suppress(OSError):
            releases.remove(aside)
        raise
    return open_release(final)


def _unpack(bundle: Bundle, releases: Folder, aside: str, on_bytes: OnBytes | None) -> None:
    """Write the release into a new folder and flush all of it to disk."""
    with releases.make_folder(aside) as folder:
        bundle.unpack(folder.path, on_bytes)
        for base, _, _ in os.walk(folder.path):
            # Readable by the service's own user, whatever the installing user's umask.
            Path(base).chmod(0o755)
            with open_folder(Path(base)) as written:
                written.sync()


def _publish(releases: Folder, aside: str, name: str) -> None:
    """Give a complete release its name; a damaged one keeps that name until this moment."""
    damaged = aside_name(name)
    replaced = releases.stat(name) is not None
    if replaced:
        releases.rename(name, damaged)
    releases.rename(aside, name)
    if replaced:
        releases.remove(damaged)


def _link_into_system(target: Target) -> None:
    with target.folder(PROGRAMS, make=True) as programs:
        programs.link(PROGRAM_NAME, f"/{STATE}/current/{RUNTIME_ENTRY}")
    with target.folder(UNITS, make=True) as units:
        _write(units, UNIT_NAME, UNIT.encode())
    with target.folder(f"{UNITS}/multi-user.target.wants", make=True) as wants:
        wants.link(UNIT_NAME, f"/{UNITS}/{UNIT_NAME}")


def _write(folder: Folder, name: str, content: bytes) -> None:
    """Write a file that every user may read, whatever the umask."""
    with folder.written_aside(name) as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(content)
