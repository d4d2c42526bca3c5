"""A kit from wheels of the user's own: this machine's, with CUDA libraries that are made up.

The freezing of arm64 takes minutes; what differs here is the architecture alone.
"""

import os
import sys
import zipfile
from pathlib import Path

import pytest

from packager import kit
from packager.errors import KitError
from packager.kit import lock
from packager.kit.platforms import PLATFORMS, Platform
from packager.run import run
from tests.support import wheels

NAME = f"linux-{os.uname().machine}-cuda"
MACHINES = {"x86_64": wheels.X86_64, "aarch64": wheels.AARCH64}


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    """A platform with CUDA, of this machine's architecture."""
    cuda = PLATFORMS["linux-aarch64-cuda"].cuda
    engine = ("onnxruntime", "onnxruntime-genai")
    made = Platform(name=NAME, machine=os.uname().machine, engine=engine, cuda=cuda)
    monkeypatch.setitem(PLATFORMS, NAME, made)
    return made


@pytest.fixture
def folder(platform: Platform, tmp_path: Path) -> Path:
    """The engine's wheels with made-up libraries for CUDA; ONNX Runtime's is for Python 3.10."""
    versions = lock.versions()
    run(
        [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--dest", tmp_path),
            *(f"{name}=={versions[name]}" for name in platform.engine),
        ],
        what="Fetching the wheels",
    )
    assert platform.cuda is not None
    library = wheels.elf(
        ["libcudart.so.12"], wheels.fat_binary((2, 87)), MACHINES[platform.machine]
    )
    for path in list(tmp_path.glob("*.whl")):
        package = path.name.partition("-")[0]
        change(path, {n: library for n in platform.cuda.libraries if n.startswith(f"{package}/")})
        if package == "onnxruntime":
            path.rename(tmp_path / f"onnxruntime-1.99-cp310-cp310-linux_{platform.machine}.whl")
    return tmp_path


def change(path: Path, members: dict[str, bytes]) -> None:
    """Write a wheel again with these members, whose names join the record."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()} | members
    (record,) = (name for name in content if name.endswith(".dist-info/RECORD"))
    content[record] += "".join(f"{name},,\n" for name in members).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


@pytest.mark.slow
def test_wheels_that_fit_are_frozen_and_used(folder: Path, own_cache: Path) -> None:
    frozen = kit.with_wheels(NAME, folder)
    assert frozen.folder.is_relative_to(own_cache)
    assert kit.ensure(NAME) == frozen
    assert frozen.facts.cuda is not None
    assert (frozen.facts.cuda.version, frozen.facts.cuda.jetpack) == ("12", "6")
    assert frozen.facts.cuda.gpus == ("8.7",)
    given = {wheel.name: wheel for wheel in frozen.facts.wheels}
    assert given["onnxruntime"].version == "1.99"
    packages = {package.name: package for package in frozen.packages}
    for name, wheel in given.items():
        assert (packages[name].origin, packages[name].sha256) == (wheel.file, wheel.sha256)
        assert packages[name].files
    assert packages["numpy"].origin == ""
    assert (frozen.folder / "_internal/onnxruntime/capi/libonnxruntime_providers_cuda.so").is_file()
    with pytest.raises(KitError, match=r"11\.0"):
        kit.check_gpu(frozen.facts, ["nvidia,tegra264"])
