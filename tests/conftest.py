"""Fixtures that every part of the suite shares."""

import logging
import os
import platform
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_runtime.bundle.reader import open_bundle
from device_runtime.bundle.release import Release
from packager.jobs import harness
from tests.support import jobs, releases, tiny_model, tiny_vision
from tests.support.commands import edgepack

PACKAGES = {
    "debugfs": "e2fsprogs",
    "ip": "iproute2",
    "losetup": "mount",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "setpriv": "util-linux",
    "sfdisk": "fdisk",
    "openssl": "openssl",
    "mosquitto": "mosquitto",
    "npm": "npm",
    "sshd": "openssh-server",
    "sudo": "sudo",
    "qemu-aarch64-static": "qemu-user-static",
    "qemu-x86_64-static": "qemu-user-static",
    "mmdebstrap": "mmdebstrap",
    "systemd-analyze": "systemd",
    "docker-registry": "docker-registry",
}


# The tests share the processors with others, where busy-waiting threads multiply the time.
os.environ.setdefault("OMP_WAIT_POLICY", harness.OFFLINE["OMP_WAIT_POLICY"])

# A shell starts its background jobs with SIGINT ignored, and what is ignored stays so in the
# programs that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose tool is missing, or fail it where all tools are promised."""
    for marker in item.iter_markers("requires"):
        for tool in marker.args:
            if tool == "root":
                missing = os.geteuid() != 0
                reason = "needs root"
            elif tool == "loop":
                missing = not Path("/dev/loop-control").exists()
                reason = "needs loop devices"
            elif tool == "cgroups":
                missing = not os.access("/sys/fs/cgroup", os.W_OK)
                reason = "needs control groups that can be written"
            else:
                missing = shutil.which(tool) is None
                reason = f"needs {tool}: apt-get install {PACKAGES.get(tool, tool)}"
            if missing and os.environ.get("EDGEPACK_TESTS_REQUIRE") == "all":
                pytest.fail(reason, pytrace=False)
            if missing:
                pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def own_keys(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder of signing keys for the tests: their builds make and use no key of the user's."""
    os.environ["EDGEPACK_KEYS"] = str(tmp_path_factory.mktemp("keys"))


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """A command that a test runs in this process sets up the log; the next test has its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of edgepack for one test alone; nothing has made the folder yet."""
    monkeypatch.setenv("EDGEPACK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def jobs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in the process of the tests: one of their own imports torch and transformers anew.

    How they do in processes of their own is in `test_harness.py` and in whatever runs `edgepack`.
    """
    monkeypatch.setattr(harness, "_process", jobs.here)


@pytest.fixture
def anyio_backend() -> str:
    """The event loop of the service, for tests with the mark anyio."""
    return "asyncio"


@pytest.fixture(scope="session")
def tiny_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model as a Hugging Face folder. Do not write into it."""
    return tiny_model.make_hf(tmp_path_factory.mktemp("tiny") / "hf")


@pytest.fixture(scope="session")
def tiny_onnx(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as an fp32 ONNX GenAI folder. Do not write into it."""
    work = tmp_path_factory.mktemp("tiny-onnx")
    return tiny_model.make_onnx(tiny_hf, work / "onnx", work / "cache")


@pytest.fixture(scope="session")
def seeing_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model that sees, as an fp32 ONNX GenAI folder. Do not write into it."""
    work = tmp_path_factory.mktemp("tiny-vision")
    return tiny_vision.make(work / "onnx", work)


@pytest.fixture(scope="session")
def seeing_release(seeing_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release with the tiny model that sees. Do not write into it."""
    return releases.release(
        tmp_path_factory.mktemp("seeing") / "release",
        seeing_onnx,
        context_length=tiny_vision.POSITIONS,
        vision=tiny_vision.VISION,
    )


def build_bundle(profile: str, folder: Path) -> Path:
    """A bundle of the default model, from the user's own cache: minutes once, then seconds."""
    path = folder / f"{profile}.epk"
    outcome = edgepack("build", "--profile", profile, "-o", path)
    assert outcome.status == 0, outcome.err
    return path


@pytest.fixture(scope="session")
def host_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model for this machine, with its frozen runtime."""
    return build_bundle(f"cpu-{platform.machine()}", tmp_path_factory.mktemp("host-bundle"))


@pytest.fixture(scope="session")
def pi_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model for a Raspberry Pi, with the frozen arm64 runtime."""
    return build_bundle("raspberry-pi", tmp_path_factory.mktemp("pi-bundle"))


@pytest.fixture(scope="session")
def host_release(host_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The unpacked host bundle. Do not write into it."""
    with open_bundle(host_bundle) as bundle:
        return bundle.unpack(tmp_path_factory.mktemp("host-release"))


@pytest.fixture(scope="session")
def default_model(host_release: Release) -> Path:
    """The default model as the INT4 ONNX GenAI folder that is in the host bundle."""
    return host_release.model_folder
