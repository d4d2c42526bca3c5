"""Fixtures that every part of the suite shares."""

import os
import shutil
from pathlib import Path

import pytest

from tests import tiny_model

PACKAGES = {
    "mosquitto": "mosquitto",
    "qemu-aarch64-static": "qemu-user-static",
    "mmdebstrap": "mmdebstrap",
    "systemd-analyze": "systemd",
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose tool is missing, or fail it where all tools are promised."""
    for marker in item.iter_markers("requires"):
        for tool in marker.args:
            if tool == "root":
                missing = os.geteuid() != 0
                reason = "needs root"
            else:
                missing = shutil.which(tool) is None
                reason = f"needs {tool}: apt-get install {PACKAGES.get(tool, tool)}"
            if missing and os.environ.get("EDGEPACK_TESTS_REQUIRE") == "all":
                pytest.fail(reason, pytrace=False)
            if missing:
                pytest.skip(reason)


@pytest.fixture(scope="session")
def tiny_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model as a Hugging Face folder. Do not write into it."""
    return tiny_model.make_hf(tmp_path_factory.mktemp("tiny") / "hf")


@pytest.fixture(scope="session")
def tiny_onnx(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as an fp32 ONNX GenAI folder. Do not write into it."""
    work = tmp_path_factory.mktemp("tiny-onnx")
    return tiny_model.make_onnx(tiny_hf, work / "onnx", work / "cache")
