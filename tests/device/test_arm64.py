"""The Raspberry Pi bundle on a real arm64 Debian, its programs run by qemu."""

import subprocess
from pathlib import Path

import pytest

from device_runtime.install import inside
from packager.kit import rootfs
from packager.kit.platforms import PLATFORMS
from tests.commands import edgepack, refused

pytestmark = [
    pytest.mark.slow,
    pytest.mark.requires("root", "mmdebstrap", "qemu-aarch64-static", "systemd-analyze"),
]


@pytest.fixture(scope="module")
def device(pi_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minimal arm64 Debian with the bundle flashed into it. It has no Python."""
    root = tmp_path_factory.mktemp("arm64") / "root"
    cross = PLATFORMS["linux-aarch64-cpu"].cross
    assert cross is not None
    rootfs.register_emulator(cross)
    subprocess.run(
        [
            *("mmdebstrap", "--variant=extract", "--architectures=arm64", "--quiet"),
            "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
            "--include=base-files,dash,coreutils,libc-bin,systemd",
            *(cross.suite, str(root), *rootfs.debian_sources(cross.suite)),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    outcome = edgepack("flash", pi_bundle, root)
    assert outcome.status == 0, outcome.err
    return root


def on_device(root: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the device; its mounts vanish with it."""
    return subprocess.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c"),
            'mount -t proc proc "$1/proc" && exec chroot "$@"',
            *("enter", str(root), *argv),
        ],
        env={"PATH": "/usr/local/bin:/usr/bin:/usr/sbin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_installed_program_is_arm64_and_verifies_its_release(device: Path) -> None:
    with inside(device, "usr/local/bin/edgepack-runtime").open("rb") as file:
        assert file.read(20)[18:20] == b"\xb7\x00"
    done = on_device(device, "edgepack-runtime", "verify")
    assert done.returncode == 0, done.stderr


def test_generates_real_tokens(device: Path) -> None:
    done = on_device(device, "edgepack-runtime", "generate", "Hi", "--max-tokens", "5")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) >= 2, done.stdout


def test_systemd_accepts_the_unit(device: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={device}", "edgepack.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "edgepack" in line]
    assert (done.returncode, complaints) == (0, [])


def test_bundle_for_another_machine_is_refused(host_bundle: Path, device: Path) -> None:
    before = inside(device, "var/lib/edgepack/current")
    refused(edgepack("flash", host_bundle, device), 8, "x86_64", "aarch64")
    assert inside(device, "var/lib/edgepack/current") == before
