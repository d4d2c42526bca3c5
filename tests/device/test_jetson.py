"""The Jetson bundle on an emulated arm64 Debian, which has neither CUDA nor a GPU."""

import json
from pathlib import Path

import pytest

from device_runtime.bundle.manifest import Manifest
from device_runtime.bundle.reader import open_bundle
from tests.device import emulated
from tests.device.emulated import on_device
from tests.support.commands import edgepack_quickly, refused

pytestmark = [
    pytest.mark.slow,
    pytest.mark.requires("root", "mmdebstrap", "qemu-aarch64-static"),
]


@pytest.fixture(scope="module")
def bundle(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle for a Jetson; the runtime is what is looked at here."""
    path = tmp_path_factory.mktemp("jetson") / "jetson.epk"
    outcome = edgepack_quickly(
        "build", "--profile", "jetson-orin-cuda", "--model", tiny_hf, "-o", path
    )
    assert outcome.status == 0, outcome.err
    assert "8.7" in outcome.err, "the GPU of an Orin is not served; nothing said so"
    return path


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    with open_bundle(bundle) as opened:
        return opened.manifest


@pytest.fixture(scope="module")
def device(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return emulated.device(bundle, tmp_path_factory.mktemp("jetson-device") / "root")


def test_bundle_has_the_providers_and_nothing_of_cuda(manifest: Manifest) -> None:
    names = {Path(record.path).name for record in manifest.records}
    assert "libonnxruntime_providers_cuda.so" in names
    assert "libonnxruntime-genai-cuda.so" in names
    foreign = ("libcuda", "libcublas", "libcudnn", "libcurand", "libcufft", "libnv")
    assert not [name for name in names if name.startswith(foreign)]


def test_manifest_says_what_the_device_must_have(manifest: Manifest) -> None:
    assert manifest.kit is not None
    assert manifest.kit.name == "linux-aarch64-cuda"
    cuda = manifest.kit.cuda
    assert cuda is not None
    assert (cuda.version, cuda.jetpack) == ("13", "7")
    assert {"libcuda.so.1", "libcudart.so.13", "libcublas.so.13"} <= set(cuda.libraries)
    assert cuda.serves("12.1")
    assert not cuda.serves("8.7")


def test_program_starts_and_verifies_its_release(device: Path) -> None:
    done = on_device(device, "edgepack-runtime", "verify")
    assert done.status == 0, done.err


def test_doctor_says_what_is_missing(device: Path) -> None:
    done = on_device(device, "edgepack-runtime", "doctor", "--json")
    assert done.status == 9, done.err
    found = json.loads(done.out)
    assert found["ok"] is False
    checks = {check["name"]: check for check in found["checks"]}
    assert checks["release"]["status"] == checks["architecture"]["status"] == "ok"
    assert checks["C library"]["found"] == "glibc 2.36"
    assert checks["JetPack"]["status"] == "warn"
    assert checks["CUDA libraries"]["status"] == "fail"
    assert "libcudart.so.13" in checks["CUDA libraries"]["found"]
    assert "JetPack 7" in checks["CUDA libraries"]["advice"]
    assert checks["GPU"]["status"] == "fail"


@pytest.mark.parametrize("command", [("generate", "Hi"), ("serve", "--listen", "127.0.0.1:0")])
def test_without_a_gpu_there_is_one_clear_error(device: Path, command: tuple[str, ...]) -> None:
    """`serve` ends too, instead of starting its inference process again and again."""
    done = on_device(device, "edgepack-runtime", *command)
    refused(done, 11, "NVIDIA GPU", "edgepack-runtime doctor")
    assert len([line for line in done.err.splitlines() if line.startswith("error:")]) == 1
