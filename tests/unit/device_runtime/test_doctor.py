"""What `edgepack-runtime doctor` makes of a device."""

import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from device_runtime import doctor
from device_runtime.bundle.kit_facts import CudaFacts, KitFacts
from device_runtime.doctor import gpu
from device_runtime.server.listener import bind
from device_runtime.update.install import install
from device_runtime.update.target import Target
from device_runtime.vulkan import Gpu, Gpus
from tests.support import bundles, statuses
from tests.support.commands import edgepack_runtime
from tests.support.targets import ELF_X86_64, make_root

CUDA = CudaFacts(
    version="13", jetpack="7", libraries=("libcudart.so.13",), gpus=("8.7", "9.0", "12.0+")
)
KIT = KitFacts(name="linux-aarch64-cuda", machine="aarch64", digest="0" * 64, min_glibc="2.36")
MEMINFO = (
    "MemTotal:        1000000 kB\nMemFree: 1 kB\nMemAvailable:     500000 kB\nSwapTotal: 0 kB\n"
)


@pytest.mark.parametrize(
    ("needed_kb", "status"), [(500_000, "ok"), (500_001, "warn"), (1_000_001, "fail")]
)
def test_memory(needed_kb: int, status: str) -> None:
    check = doctor.memory(MEMINFO, needed_kb << 10)
    assert check.status == status
    assert bool(check.advice) == (status != "ok")


def test_disk_without_room_for_an_update_keeps_nothing_from_running() -> None:
    assert doctor.disk(100, 100).status == "ok"
    assert doctor.disk(99, 100).status == "warn"


@pytest.mark.parametrize(("allowed", "status"), [([], "ok"), ([100], "ok"), ([200, 99], "fail")])
def test_limit_of_a_control_group(allowed: list[int], status: str) -> None:
    check = doctor.control_groups(allowed, 100)
    assert check.status == status
    assert bool(check.advice) == (status != "ok")


def test_sensors_of_the_board() -> None:
    well = statuses.status().board
    assert {check.status for check in doctor.sensors(well)} == {"ok"}
    ill = msgspec.structs.replace(well, under_voltage=True, throttled=True)
    assert [check.status for check in doctor.sensors(ill)] == ["warn", "warn"]
    assert all(check.advice for check in doctor.sensors(ill))
    assert doctor.sensors(msgspec.structs.replace(well, under_voltage=None, throttled=None)) == []


def test_clock() -> None:
    assert doctor.clock(datetime.fromtimestamp(100, UTC)).status == "warn"
    assert doctor.clock(datetime(2027, 1, 1, tzinfo=UTC)).status == "ok"


def test_address_to_listen_on() -> None:
    with bind("127.0.0.1:0") as bound:
        port = bound.getsockname()[1]
        taken = doctor.port(f"127.0.0.1:{port}")
    assert taken.status == "warn"
    assert f"127.0.0.1:{port}" in taken.found
    assert "edgepack-runtime status" in taken.advice
    assert doctor.port(f"127.0.0.1:{port}").status == "ok"
    assert doctor.port("192.0.2.1:8080").status == "warn"  # no machine has it (RFC 5737)


def test_architecture() -> None:
    assert doctor.machine("aarch64", KIT).status == "ok"
    assert doctor.machine("x86_64", KIT).status == "fail"


def test_other_hardware_may_run_what_was_installed_on_it_by_force() -> None:
    manifest = bundles.draft().replaced(compatible=("nvidia,tegra234",)).manifest
    assert doctor.hardware(("nvidia,p3701-0000", "nvidia,tegra234"), manifest).status == "ok"
    check = doctor.hardware(("raspberrypi,5-model-b", "brcm,bcm2712"), manifest)
    assert check.status == "warn"
    assert "nvidia,tegra234; the device is raspberrypi,5-model-b, brcm,bcm2712" in check.found
    assert check.advice
    assert doctor.hardware((), manifest).status == "warn"


@pytest.mark.parametrize(
    ("found", "status"),
    [("glibc 2.36", "ok"), ("glibc 2.100", "ok"), ("glibc 2.9", "fail"), ("none", "fail")],
)
def test_c_library(found: str, status: str) -> None:
    assert doctor.c_library(found, KIT).status == status


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "fail", "6 (Jetson"),
        (
            "# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic",
            "ok",
            "7 (Jetson Linux 39.2.0)",
        ),
        ("# R99 (release), REVISION: 1.0, GCID: 1, BOARD: generic", "warn", "R99"),
        ("something else\n", "warn", "something else"),
        (None, "warn", "not a Jetson"),
    ],
)
def test_jetpack(text: str | None, status: str, words: str) -> None:
    check = gpu.jetpack(text, CUDA)
    assert check.status == status
    assert words in check.found


def test_processor_that_lacks_a_feature_of_the_kits_libraries() -> None:
    kit = msgspec.structs.replace(KIT, cpu=("asimd", "asimddp"))
    assert doctor.processor({"asimd", "asimddp"}, kit).status == "ok"
    check = doctor.processor({"asimd"}, kit)
    assert (check.status, "lacks asimddp" in check.found) == ("fail", True)


def test_processor_that_is_not_known_is_a_warning() -> None:
    assert doctor.processor(None, KIT).status == "ok"
    check = doctor.processor(None, msgspec.structs.replace(KIT, cpu=("asimd",)))
    assert (check.status, check.found, "asimd" in check.advice) == ("warn", "unknown", True)


def test_units_that_were_edited_or_disabled_are_a_warning(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root", ELF_X86_64)
    assert doctor.unit_files(Target(root)).found == "not installed"
    install(bundles.draft().write(tmp_path / "b.epk"), root)
    assert doctor.unit_files(Target(root)).status == "ok"
    unit = root / "etc/systemd/system/edgepack.service"
    unit.write_text(unit.read_text() + "# mine\n")
    check = doctor.unit_files(Target(root))
    assert (check.status, "was edited" in check.found) == ("warn", True)


def test_libraries_that_cannot_be_loaded_are_named() -> None:
    assert gpu.libraries(["libc.so.6"], CUDA).status == "ok"
    check = gpu.libraries(["libc.so.6", "libno-such.so.1"], CUDA)
    assert check.status == "fail"
    assert "libno-such.so.1" in check.found
    assert "libc.so.6" not in check.found


@pytest.mark.parametrize(
    ("capability", "status"),
    [("8.7", "ok"), ("8.6", "fail"), ("8.9", "fail"), ("11.0", "fail"), ("12.1", "ok")],
)
def test_gpu_must_be_one_that_the_runtime_has_code_for(capability: str, status: str) -> None:
    assert gpu.gpu(capability, "", CUDA).status == status


def test_missing_gpu_says_why() -> None:
    check = gpu.gpu(None, "no driver", CUDA)
    assert (check.status, check.found) == ("fail", "no driver")


@pytest.mark.parametrize(
    ("listed", "status", "words"),
    [
        (Gpus(gpus=(Gpu(name="Orin", driver=1, software=False),)), "ok", "Orin"),
        (
            Gpus(gpus=(Gpu(name="llvmpipe", driver=1, software=True),)),
            "warn",
            "llvmpipe computes on the CPU",
        ),
        (Gpus(problem="there is no Vulkan loader"), "warn", "there is no Vulkan loader"),
    ],
)
def test_gpu_with_a_vulkan_driver(listed: Gpus, status: str, words: str) -> None:
    check = gpu.vulkan(listed)
    assert (check.status, check.found) == (status, words)
    assert ("libvulkan1" in check.advice) == (status == "warn")


def test_damaged_release_is_a_failure_with_advice(tmp_path: Path) -> None:
    from device_runtime.bundle.reader import open_bundle

    path = bundles.draft(None).write(tmp_path / "b.epk")
    (tmp_path / "release").mkdir()
    with open_bundle(path) as bundle:
        release = bundle.unpack(tmp_path / "release")
    well = edgepack_runtime("doctor", "--release", release.folder)
    assert well.status == 0, well.out + well.err
    assert "intact" in well.out
    (release.model_folder / "empty").write_bytes(b"x")
    damaged = edgepack_runtime("doctor", "--json", "--release", release.folder)
    assert damaged.status == 9
    (check,) = (c for c in json.loads(damaged.out)["checks"] if c["status"] == "fail")
    assert check["name"] == "release"
    assert "model/empty" in check["found"]
    assert check["advice"]
    shown = edgepack_runtime("doctor", "--release", release.folder)
    assert "->" in shown.out


def test_foreign_kit_is_a_failure(tmp_path: Path) -> None:
    from device_runtime.bundle.reader import open_bundle

    path = bundles.draft("riscv64").write(tmp_path / "b.epk")
    (tmp_path / "release").mkdir()
    with open_bundle(path) as bundle:
        release = bundle.unpack(tmp_path / "release")
    outcome = edgepack_runtime("doctor", "--release", release.folder)
    assert outcome.status == 9
    assert "riscv64" in outcome.out
