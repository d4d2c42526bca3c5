"""Root file systems of devices, as small as may be."""

import re
import subprocess
from pathlib import Path

from device_runtime.bundle.release import Release, open_release
from device_runtime.update.target import Target
from packager import flash as flashing
from packager.flash.request import FlashRequest

ELF_X86_64 = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00"
ELF_AARCH64 = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00"


def make_root(root: Path, elf: bytes, *, allow_unsigned: bool = True) -> Path:
    """Make the least that is taken for a root file system; as most tests need it, it allows
    unsigned bundles."""
    (root / "etc/edgepack").mkdir(parents=True)
    (root / "etc/edgepack").chmod(0o755)
    if allow_unsigned:
        (root / "etc/edgepack/update.toml").write_text("allow_unsigned = true\n")
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/lib").mkdir()
    (root / "usr/lib/os-release").write_text("ID=test\n")
    (root / "etc/os-release").symlink_to("/usr/lib/os-release")
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/env").write_bytes(elf)
    return root


def verify_unit(root: Path) -> tuple[int, list[str]]:
    """Let systemd check the unit in a root file system: exit status, and lines about edgepack.

    What systemd 254 has brought is unknown to earlier ones, which ignore it.
    """
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "edgepack.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    later = re.compile("Unknown key (name )?'(RestartSteps|RestartMaxDelaySec)'")
    lines = [line for line in done.stderr.splitlines() if "edgepack" in line]
    return done.returncode, [line for line in lines if not later.search(line)]


def flash(bundle: Path, target: str) -> Release:
    """Flash a bundle into a folder; returns the release that is current there afterwards."""
    digest = flashing.flash(FlashRequest(bundle=bundle, target=target)).release
    with Target(Path(target)).folder(f"var/lib/edgepack/releases/{digest}") as folder:
        return open_release(folder.path)
