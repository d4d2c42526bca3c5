"""The bundle for boards with a GPU on an emulated arm64 Debian, which has none."""

import json
from pathlib import Path

import pytest

from tests.device import emulated
from tests.device.emulated import on_device
from tests.support.commands import edgepack_quickly

pytestmark = [
    pytest.mark.slow,
    pytest.mark.requires("root", "mmdebstrap", "qemu-aarch64-static"),
]

PROGRAM = "/usr/local/bin/edgepack-runtime"


@pytest.fixture(scope="module")
def device(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm64-gpu")
    built = edgepack_quickly(
        *("build", "--profile", "jetson-orin", "--model", tiny_hf, "-o", folder / "orin.epk")
    )
    assert built.status == 0, built.err
    return emulated.device(folder / "orin.epk", folder / "root")


def test_plug_in_loads_and_the_cpu_answers(device: Path) -> None:
    command = (PROGRAM, "generate", "--raw", "--max-tokens", "8", "hello")
    expected = on_device(device, *command)
    assert expected.status == 0, expected.err
    answer = on_device(device, "/usr/bin/env", "EDGEPACK_PROCESSOR=gpu", *command)
    assert (answer.status, answer.out) == (0, expected.out)
    # ONNX Runtime has taken the plug-in, and lists no GPU for it.
    assert answer.err.count("ONNX Runtime lists no GPU") == 2


def test_doctor_says_what_the_gpu_needs(device: Path) -> None:
    outcome = on_device(device, PROGRAM, "doctor", "--json")
    (check,) = (check for check in json.loads(outcome.out)["checks"] if check["name"] == "GPU")
    assert check["status"] == "warn"
    assert "libvulkan.so.1 cannot be loaded" in check["found"]
    assert "libvulkan1" in check["advice"]
