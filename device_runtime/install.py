"""Install a bundle into a root file system: this device's own, or one that is mounted somewhere.

Afterwards the root has

    /var/lib/edgepack/releases/<digest>/     the verified release
    /var/lib/edgepack/current                link to it, switched atomically
    /usr/local/bin/edgepack-runtime          link to the program in `current`
    /etc/systemd/system/edgepack.service     enabled in multi-user.target

A release appears under its final name only when all of it is checked and on disk, and `current`
moves last but for the unit: at every moment before that, the device has what it had.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from device_runtime.bundle import Bundle, OnBytes, Release, disk_error, open_bundle, open_release
from device_runtime.durable import Folder, aside_name, open_folder
from device_runtime.errors import BundleError, InstallError, ResourceError
from device_runtime.manifest import RUNTIME_ENTRY

STATE = "var/lib/edgepack"
PROGRAMS = "usr/local/bin"
PROGRAM_NAME = "edgepack-runtime"
UNIT_NAME = "edgepack.service"
UNITS = "etc/systemd/system"
SPARE_BYTES = 64 << 20
"""What an installation leaves free on the target's disk."""

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

# e_machine of an ELF header, as the ELF specification numbers them.
ELF_MACHINES = {0x3E: "x86_64", 0xB7: "aarch64", 0x28: "armv7l", 0x03: "i686", 0xF3: "riscv64"}
# Programs of which every Linux root has at least one.
PROBES = ("usr/bin/env", "bin/sh", "sbin/init", "usr/bin/ls", "bin/busybox")


def install(
    bundle_path: Path, root: Path = Path("/"), *, on_bytes: OnBytes | None = None
) -> Release:
    """Verify a bundle and make it the current release of a root file system.

    Args:
        bundle_path: the `.epk` file.
        root: the target's root folder.
        on_bytes: called with the number of bytes of each piece of data as it is read.

    Raises:
        BundleError: the bundle is damaged or hostile; the target is as it was.
        InstallError: the bundle does not fit the target.
        ResourceError: too little space, or the target cannot be written to.
    """
    with open_bundle(bundle_path) as bundle:
        check_target(bundle, root)
        try:
            with _folder(inside(root, STATE)) as state, _alone(state):
                with _folder(state.path / "releases") as releases:
                    release = _place(bundle, releases, on_bytes)
                state.link("current", f"releases/{release.digest}")
                _link_into_system(root)
        except OSError as error:
            raise disk_error(error, root) from None
    return release


def check_target(bundle: Bundle, root: Path) -> None:
    """Refuse a target that the bundle cannot run on.

    Raises:
        InstallError: it is no root file system, or its architecture or C library does not fit.
        ResourceError: it has too little space.
    """
    kit = bundle.manifest.kit
    if kit is None:
        raise InstallError(
            "this bundle holds only a model, no runtime to install",
            hint="Build it without --model-only, with a profile that has a runtime.",
        )
    if not all((root / name).is_dir() for name in ("etc", "usr")) or not any(
        inside(root, name).is_file() for name in ("etc/os-release", "usr/lib/os-release")
    ):
        raise InstallError(
            f"{root} is no root file system (no etc, usr and os-release there)",
            hint="Mount the device's root partition and give its mount point.",
        )
    machine = machine_of(root)
    if machine != kit.machine:
        raise InstallError(
            f"the bundle's runtime is for {kit.machine}, {root} is {machine or 'of unknown kind'}",
            hint="Build the bundle with a profile for that device.",
        )
    glibc = glibc_of(root)
    if glibc is not None and _version(glibc) < _version(kit.min_glibc):
        raise InstallError(
            f"the bundle's runtime needs glibc {kit.min_glibc}; {root} has {glibc}",
            hint="Use a newer operating system on the device.",
        )
    available = os.statvfs(_existing(inside(root, STATE)))
    free = available.f_bavail * available.f_frsize
    needed = bundle.manifest.installed_size + SPARE_BYTES
    if free < needed:
        raise ResourceError(
            f"{root} has {free >> 20} MiB free; the release needs {needed >> 20} MiB",
            hint="Remove what is not needed there, or use a smaller model.",
        )


def inside(root: Path, path: str) -> Path:
    """Where a path of the target lies as seen from here.

    Links on the way are followed as the target would, an absolute one from its own root: on a
    mounted disk, `/var -> /data/var` must not lead into the file system of this machine.

    Raises:
        InstallError: the links go round in a circle.
    """
    done: list[str] = []
    left = [part for part in reversed(path.split("/")) if part]
    for _ in range(1000):
        if not left:
            return root.joinpath(*done)
        part = left.pop()
        if part == "..":
            del done[-1:]
            continue
        here = root.joinpath(*done, part)
        if not here.is_symlink():
            done.append(part)
            continue
        target = str(here.readlink())
        if target.startswith("/"):
            done = []
        left += [step for step in reversed(target.split("/")) if step not in ("", ".")]
    raise InstallError(f"the links of {path} in {root} go round in a circle")


def machine_of(root: Path) -> str | None:
    """Architecture of a root file system as `uname -m` says it, from a program's ELF header."""
    for name in PROBES:
        path = inside(root, name)
        if path.is_file():
            with path.open("rb") as file:
                header = file.read(20)
            if header.startswith(b"\x7fELF"):
                return ELF_MACHINES.get(int.from_bytes(header[18:20], "little"))
    return None


def glibc_of(root: Path) -> str | None:
    """Version of a root's GNU C library, `2.36`; None where none is found."""
    for folder in ("lib/aarch64-linux-gnu", "lib/x86_64-linux-gnu", "lib64", "lib"):
        path = inside(root, f"{folder}/libc.so.6")
        if path.is_file():
            found = re.search(rb"GNU C Library .{0,80}?version (\d+\.\d+)", path.read_bytes())
            return found[1].decode() if found else None
    return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _folder(path: Path) -> Folder:
    """Open a folder, made with those around it where it is missing."""
    if path.is_dir():
        return open_folder(path)
    with _folder(path.parent) as parent:
        return parent.make_folder(path.name)


@contextmanager
def _alone(state: Folder) -> Iterator[None]:
    """One installation at a time."""
    with (state.path / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InstallError(
                "another installation is running on this target", hint="Wait for it to end."
            ) from None
        yield


def _place(bundle: Bundle, releases: Folder, on_bytes: OnBytes | None) -> Release:
    """Put the release under its digest; one that is there and whole is kept."""
    final = releases.path / bundle.digest
    if final.is_dir():
        with suppress(BundleError):
            release = open_release(final)
            release.verify(on_bytes)
            return release
    for abandoned in releases.path.glob(".*"):
        releases.remove(abandoned.name)
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
    """Write the release into a new folder, all of it on disk at the end."""
    with releases.make_folder(aside) as folder:
        bundle.unpack(folder.path, on_bytes)
        for base, _, _ in os.walk(folder.path):
            # Readable by the service's own user, whatever the umask of the one who installs.
            Path(base).chmod(0o755)
            with open_folder(Path(base)) as written:
                written.sync()


def _publish(releases: Folder, aside: str, name: str) -> None:
    """Give a whole release its name; a damaged one keeps it until this moment."""
    damaged = aside_name(name)
    replaced = releases.stat(name) is not None
    if replaced:
        releases.rename(name, damaged)
    releases.rename(aside, name)
    if replaced:
        releases.remove(damaged)
        releases.sync()


def _link_into_system(root: Path) -> None:
    with _folder(inside(root, PROGRAMS)) as programs:
        programs.link(PROGRAM_NAME, f"/{STATE}/current/{RUNTIME_ENTRY}")
    with _folder(inside(root, UNITS)) as units, units.written_aside(UNIT_NAME) as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(UNIT.encode())
    with _folder(inside(root, f"{UNITS}/multi-user.target.wants")) as wants:
        wants.link(UNIT_NAME, f"/{UNITS}/{UNIT_NAME}")
