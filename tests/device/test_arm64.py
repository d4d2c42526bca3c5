"""The Raspberry Pi bundle on a real arm64 Debian, its programs run by qemu."""

from pathlib import Path

import pytest

from device_runtime.update.target import Target
from tests.device import emulated
from tests.device.emulated import on_device
from tests.support.commands import edgepack, refused
from tests.support.targets import verify_unit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.requires("root", "mmdebstrap", "qemu-aarch64-static", "systemd-analyze"),
]


@pytest.fixture(scope="module")
def device(pi_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minimal arm64 Debian with the bundle flashed into it. It has no Python."""
    return emulated.device(pi_bundle, tmp_path_factory.mktemp("arm64") / "root", "systemd")


def test_installed_program_is_arm64_and_verifies_its_release(device: Path) -> None:
    with Target(device).file("usr/local/bin/edgepack-runtime") as file:
        assert file.read(20)[18:20] == b"\xb7\x00"
    done = on_device(device, "edgepack-runtime", "verify")
    assert done.status == 0, done.err


def test_doctor_finds_nothing_in_the_way(device: Path) -> None:
    done = on_device(device, "edgepack-runtime", "doctor")
    assert done.status == 0, done.out + done.err
    assert "fail" not in done.out


def test_generates_real_tokens(device: Path) -> None:
    done = on_device(device, "edgepack-runtime", "generate", "Hi", "--max-tokens", "5")
    assert done.status == 0, done.err
    assert len(done.out.split()) >= 2, done.out


def test_systemd_accepts_the_unit(device: Path) -> None:
    assert verify_unit(device) == (0, [])


def test_bundle_for_another_machine_is_refused(host_bundle: Path, device: Path) -> None:
    before = (device / "var/lib/edgepack/current").readlink()
    refused(edgepack("flash", host_bundle, device), 8, "x86_64", "aarch64")
    assert (device / "var/lib/edgepack/current").readlink() == before
