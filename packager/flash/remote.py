"""Facts about a device that is reached over SSH, asked before anything is sent."""

import re
from dataclasses import dataclass

from device_runtime.bundle import requirements
from device_runtime.bundle.manifest import Manifest
from device_runtime.update.links import STATE
from device_runtime.update.preflight import Policy
from device_runtime.update.units import PROGRAM_NAME, PROGRAMS
from packager.errors import FlashError
from packager.flash.connection import Connection

PROGRAM = f"/{PROGRAMS}/{PROGRAM_NAME}"

# For any POSIX shell and any implementation of coreutils. The shell reads it from its standard
# input, so nothing else may; a login shell may print lines of its own before it.
_SCRIPT = f"""\
LC_ALL=C
export LC_ALL
echo edgepack: start
echo "machine=$(uname -m)"
echo "glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null </dev/null)"
echo "board=$(tr '\\0' ' ' 2>/dev/null </proc/device-tree/compatible)"
echo "free=$(df -Pk . | {{ read -r _; read -r _ _ _ free _; echo "$free"; }})"
test -x {PROGRAM} && echo program=1
echo "current=$(readlink /{STATE}/current)"
if test "$(id -u)" = 0; then echo root=1
elif command -v sudo >/dev/null; then
  if sudo -n true >/dev/null 2>&1 </dev/null; then echo sudo=free; else echo sudo=password; fi
fi
echo edgepack: end
"""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about a device.

    Attributes:
        machine: architecture as `uname -m` reports it.
        glibc: version of the GNU C library, `2.36`; None if there is none.
        board: names of the board in its device tree, most specific first.
        free: free space on the disk of the user's home, bytes.
        has_program: an edgepack runtime is installed.
        current: digest of the current release; empty if there is none.
        is_root: the user is root.
        sudo: the user may use sudo: `free` without a password, `password`, or empty.
    """

    machine: str
    glibc: str | None
    board: tuple[str, ...]
    free: int
    has_program: bool
    current: str
    is_root: bool
    sudo: str


def ask(device: Connection) -> Facts:
    """Ask a device, in one round trip.

    Raises:
        FlashError: it does not answer as a Linux system does.
    """
    output = device.run("sh", _SCRIPT.encode())
    _, started, rest = output.partition("edgepack: start\n")
    text, ended, _ = rest.partition("edgepack: end\n")
    answers = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if not started or not ended or not answers.get("machine"):
        raise FlashError(
            f"{device.address.shown} does not run commands as a Linux system does",
            hint="The user needs a login shell: try it with ssh.",
        )
    glibc = re.fullmatch(r"glibc (\d{1,4}(?:\.\d{1,4}){1,2})", answers.get("glibc", ""), re.ASCII)
    free = answers.get("free", "")
    return Facts(
        machine=answers["machine"],
        glibc=glibc[1] if glibc else None,
        board=tuple(answers.get("board", "").split()),
        free=int(free) * 1024 if free.isdecimal() else 0,
        has_program="program" in answers,
        current=answers.get("current", "").rpartition("/")[2],
        is_root="root" in answers,
        sudo=answers.get("sudo", ""),
    )


def check(device: Connection, facts: Facts, manifest: Manifest, policy: Policy) -> None:
    """Refuse a device that the bundle cannot run on; the installer there checks the rest.

    Raises:
        FlashError: the device does not meet a requirement.
    """
    kit = manifest.kit
    if kit is None:
        raise FlashError(
            "this bundle contains only a model, without a runtime to install",
            hint="Build it without --model-only, with a profile that has a runtime.",
        )
    unmet = requirements.architecture(facts.machine, kit)
    unmet = unmet or requirements.c_library(facts.glibc, kit)
    if not policy.force:
        unmet = unmet or requirements.hardware(facts.board, kit.machine, manifest)
    if unmet is not None:
        raise FlashError(
            f"cannot install on {device.address.shown}: {unmet.problem}", hint=unmet.hint
        )
