"""Build a kit for another architecture: in a small Debian of that architecture, through qemu.

Debian packages are only unpacked; PyInstaller then runs in a chroot. The mounts it needs are in a
separate mount namespace: the kernel drops them with the namespace's last process, however that
ends, so no mount is ever left behind.
"""

import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from packager import cache, console
from packager.errors import KitError
from packager.kit.freeze import Environment
from packager.kit.platforms import Cross, Platform
from packager.run import run

_PACKAGES = (
    "base-files", "dash", "bash", "coreutils", "grep", "sed", "gawk", "libc-bin", "binutils",
    "python3", "libstdc++6", "libgomp1", "ca-certificates",
)  # fmt: skip

# Debian's packages must be signed with its archive keys: for this root, apt trusts no others.
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_REFUSED = (
    "Debian's packages are taken only if their lists have a valid signature of Debian. Check the "
    "network, the time of this machine, and its package sources: apt-get update"
)

_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_RULES = Path("/usr/lib/binfmt.d")

# All builds share the root, so it is read-only: only the work folder is writable.
# The host's /sys must not be mounted: ONNX Runtime would detect the host's processor.
# The shell stays as PID 1: a crashed program does not end if it is the first process of its
# namespace, and qemu would wait for that for ever.
_ENTER = """
set -e
root=$1 work=$2 wheels=$3; shift 3
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$work" "$root/work"
mount --bind "$wheels" "$root/wheels"
mount -o remount,bind,ro "$root/wheels"
for device in null urandom; do mount --bind "/dev/$device" "$root/dev/$device"; done
cd "$root"
PATH="$PATH:/usr/sbin:/sbin" chroot "$root" /usr/bin/env -i "$@"
exit 0
"""


# The packages are unpacked without dpkg, so they are recorded as it would: the files of each, and
# its version.
_RECORD = """
set -e
for deb in "$1"/var/cache/apt/archives/*.deb; do
    name=$(dpkg-deb --field "$deb" Package)
    dpkg-deb --fsys-tarfile "$deb" | tar --list | sed 's|^[.]||' > "$1/var/lib/dpkg/info/$name.list"
    dpkg-deb --field "$deb" Package Source Version Architecture >> "$1/var/lib/dpkg/status"
    echo >> "$1/var/lib/dpkg/status"
done
"""


def python(target: Platform) -> str:
    """Return the minor version of the Python to freeze."""
    return _cross(target).python


def origin(target: Platform) -> dict[str, str]:
    """Return the foreign inputs of the kit, beside edgepack's own."""
    return {"suite": _cross(target).suite}


def wheel_options(target: Platform) -> list[str]:
    """Return pip's options for the platform's wheels."""
    cross = _cross(target)
    tags = [part for tag in cross.wheel_tags for part in ("--platform", tag)]
    abi = f"cp{cross.python.replace('.', '')}"
    return [
        *("--python-version", cross.python, "--implementation", "cp"),
        *("--abi", abi, "--abi", "abi3", "--abi", "none", *tags, "--platform", "any"),
    ]


@contextmanager
def environment(target: Platform, work: Path, wheels: Path) -> Iterator[Environment]:
    """Provide a Debian of the platform, emulated.

    Raises:
        KitError: this machine lacks programs or permissions for the emulation.
        CommandError: Debian's packages cannot be downloaded.
    """
    check(target)
    cross = _cross(target)
    root = _root(cross)
    register_emulator(cross)

    def run_there(argv: Sequence[str], variables: Mapping[str, str], what: str) -> str:
        return run(
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
                *("sh", "-c", _ENTER, "enter", *map(str, (root, work, wheels))),
                *(f"{name}={value}" for name, value in variables.items()),
                *argv,
            ],
            what=what,
        )

    yield Environment(
        python=f"/usr/bin/python{cross.python}",
        work="/work",
        wheels="/wheels",
        root=root,
        run=run_there,
    )


def check(target: Platform) -> None:
    """Check that this machine can build the kit; report everything that it lacks at once.

    Raises:
        KitError: this machine lacks programs or permissions, or only a machine of the platform can
            build the kit.
    """
    cross = _cross(target)
    emulated = shutil.which(f"{cross.emulator}-static") is not None
    available = {
        "mmdebstrap": shutil.which("mmdebstrap") is not None,
        "debian-archive-keyring": _KEYRING.is_file(),
        "qemu-user-static": emulated and (_registered(cross) or _rule(cross).is_file()),
    }
    missing = [package for package, installed in available.items() if not installed]
    lacks = [*missing, *(["root"] if os.geteuid() != 0 else [])]
    if lacks:
        here = [f"`apt-get install {' '.join(missing)}`"] if missing else []
        here += ["run edgepack as root"] if os.geteuid() != 0 else []
        raise KitError(
            f"the kit {target.name} cannot be built on this {platform.machine()} machine "
            f"without {' and '.join(lacks)}",
            hint=f"{elsewhere(target)} To freeze it here: {', then '.join(here)}.",
        )


def _cross(target: Platform) -> Cross:
    if target.cross is None:
        raise KitError(
            f"the kit {target.name} can only be built on {target.machine}; "
            f"this machine is {platform.machine()}",
            hint=elsewhere(target),
        )
    return target.cross


def elsewhere(target: Platform) -> str:
    """Say how to get a kit that this machine cannot freeze."""
    return (
        f"Install it: pip install {target.requirement}. Or freeze it on another machine: `edgepack "
        f"kit export {target.name} kit.tar` there, `edgepack kit import kit.tar` here."
    )


def _root(cross: Cross) -> Path:
    """Create the root file system (cached): Debian packages unpacked, none of their scripts run."""
    sources = debian_sources(cross.suite)

    def make(folder: Path) -> None:
        with console.step(f"Unpacking Debian {cross.suite} for {cross.debian}"):
            run(
                [
                    *("mmdebstrap", "--variant=extract", f"--architectures={cross.debian}"),
                    "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
                    f"--extract-hook={_RECORD}",
                    f"--keyring={_KEYRING}",
                    '--aptopt=Dir::Etc::TrustedParts "/dev/null"',
                    f"--include={','.join((*_PACKAGES, f'libpython{cross.python}'))}",
                    *(cross.suite, str(folder), *sources),
                ],
                what="Unpacking Debian",
                hint=_REFUSED,
            )
        shutil.rmtree(folder / "dev")
        for name in ("dev", "work", "wheels"):
            (folder / name).mkdir()
        for name in ("null", "urandom"):  # mount points for the host's devices
            (folder / "dev" / name).touch()

    inputs = {
        "debian": cross.debian,
        "suite": cross.suite,
        "packages": [*_PACKAGES, cross.python],
        "record": _RECORD,
        "sources": sources,
    }
    return cache.stage("rootfs", inputs, make)


def debian_sources(suite: str) -> list[str]:
    """List the host's own apt sources of the suite; if empty, mmdebstrap uses its default."""
    if shutil.which("apt-get") is None:
        return []
    listed = run(
        [
            *("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"),
            "Created-By: Packages",
        ],
        what="Reading the apt sources",
    )
    releases = (suite, f"{suite}-updates", f"{suite}-security")
    sources = {tuple(line.split()) for line in listed.splitlines() if len(line.split()) == 3}
    return sorted(
        f"deb {uri} {release} main"
        for uri, release, component in sources
        if release in releases and component == "main"
    )


def register_emulator(cross: Cross) -> None:
    """Register qemu with the kernel for the architecture's programs, as systemd does at boot.

    The registration holds the emulator open (flag F), so that a chroot needs no copy of it.
    """
    if _registered(cross):
        return
    cache.root().mkdir(parents=True, exist_ok=True)
    # The kernel refuses to mount or to register anything twice.
    with cache.locked(cache.root() / ".emulator.lock"):
        if not (_BINFMT / "register").exists():
            run(
                ["mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT],
                what="Preparing emulation",
            )
        if not _registered(cross):
            (_BINFMT / "register").write_text(_rule(cross).read_text().strip())


def _registered(cross: Cross) -> bool:
    return (_BINFMT / cross.emulator).exists()


def _rule(cross: Cross) -> Path:
    """Return the path of the registration in qemu's Debian package."""
    return _RULES / f"{cross.emulator}.conf"
