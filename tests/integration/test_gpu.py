"""The frozen runtime with support for GPUs, on a GPU of software."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from device_runtime.bundle.manifest import RUNTIME_ENTRY
from device_runtime.bundle.reader import open_bundle
from tests.support import software_gpu
from tests.support.commands import edgepack_quickly
from tests.support.serving import Serving
from tests.support.software_gpu import within

pytestmark = [pytest.mark.slow, pytest.mark.requires(*software_gpu.PACKAGES)]

PROMPT = "hello world"
NO_HALF = "requires f16 but the device does not support it"


@pytest.fixture(scope="module")
def release(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of the tiny model for any PC with a GPU."""
    folder = tmp_path_factory.mktemp("gpu")
    outcome = edgepack_quickly(
        *("build", "--profile", "x86_64-gpu", "--model", tiny_hf, "-o", folder / "gpu.epk")
    )
    assert outcome.status == 0, outcome.err
    with open_bundle(folder / "gpu.epk") as bundle:
        (folder / "release").mkdir()
        return bundle.unpack(folder / "release").folder


def generate(release: Path, place: Sequence[str]) -> tuple[str, str]:
    """The answer to the prompt, and the log."""
    done = subprocess.run(
        [*place, release / RUNTIME_ENTRY, "generate", "--raw", "--max-tokens", "24", PROMPT],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_gpu_gives_the_tokens_of_the_cpu(release: Path) -> None:
    expected, log = generate(release, within("cpu"))
    assert log == ""
    answer, log = generate(release, within("gpu"))
    assert answer == expected
    # This driver has no fp16 arithmetic: the graph of the CPU runs on it.
    assert NO_HALF in log
    assert "processor=gpu-fp16" in log
    assert "processor=gpu " not in log


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (within(loader=False), "there is no Vulkan loader: libvulkan.so.1 cannot be loaded"),
        (within(driver=False), "no Vulkan driver can be used"),
        (within(listed=False), "ONNX Runtime lists no GPU"),
        (within("auto"), "SwiftShader Device (Subzero) computes on the CPU"),
    ],
    ids=["loader", "driver", "listed", "software"],
)
def test_device_without_a_gpu_serves_with_the_cpu_and_says_why(
    release: Path, place: list[str], reason: str
) -> None:
    with Serving(release, within=place) as server:
        status = server.get("/v1/status")
        assert server.chat().status_code == 200
    assert status["processor"]["name"] == "cpu"
    assert reason in status["processor"]["reason"]
    assert status["self_check"] is None or status["self_check"]["passed"]


def test_service_takes_the_gpu_that_it_is_told_to(release: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with Serving(release, "--state-folder", str(tmp_path), within=within("gpu")) as server:
            status = server.get("/v1/status")
            assert server.chat().status_code == 200
        assert status["processor"]["name"] == "gpu"
        assert software_gpu.NAME in status["processor"]["gpu"]
        assert status["processor"]["reason"].endswith("tokens/s on the GPU")
        # The second start goes by what the first has found.
        remembered = json.loads((tmp_path / "processor.json").read_bytes())
        assert remembered["state"] == status["processor"]
