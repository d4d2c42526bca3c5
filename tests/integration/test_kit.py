"""Freezing the runtime for this machine, and in the emulated Debian."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from packager import cache, kit
from packager.errors import CommandError
from packager.kit import rootfs
from tests.support.frozen import frozen_modules
from tests.support.serving import eventually

HOST = f"linux-{os.uname().machine}-cpu"
ARM64 = kit.PLATFORMS["linux-aarch64-cpu"]

emulated = pytest.mark.requires("root", "mmdebstrap", "qemu-aarch64-static")


def mounts(*folders: Path) -> list[str]:
    """The mounts of these folders; other tests may mount things at the same time."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if any(f"{folder}" in line for folder in folders)]


@pytest.mark.slow
def test_kit_holds_the_runtime_and_nothing_of_the_host() -> None:
    made = kit.ensure(HOST)
    modules = frozen_modules(made.folder)
    top = {name.split(".")[0] for name in modules}
    assert {"device_runtime", "onnxruntime_genai", "uvicorn", "numpy", "ssl"} <= top
    assert not top & {"torch", "transformers", "onnx", "pip", "setuptools", "packager", "rich"}
    assert {package.name for package in made.packages} >= {"python", "numpy", "onnxruntime-genai"}
    assert all(package.license for package in made.packages)
    assert (made.folder / "_internal/licenses/onnxruntime/LICENSE").is_file()
    modes = {path.stat().st_mode & 0o777 for path in made.folder.rglob("*") if path.is_file()}
    assert modes <= {0o644, 0o755}


@pytest.mark.slow
def test_freezing_twice_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kit.ensure(HOST).description
    folder = tmp_path / "another-folder"
    folder.mkdir()
    monkeypatch.setenv("EDGEPACK_CACHE", str(folder))
    assert kit.ensure(HOST).description == before
    assert sorted(path.name for path in folder.iterdir()) == ["kit", "wheels"]


@pytest.mark.slow
@emulated
def test_arm64_kit_is_made_here() -> None:
    made = kit.ensure(ARM64.name)
    assert made.facts.machine == "aarch64"
    program = (made.folder / "edgepack-runtime").read_bytes()
    assert program[18:20] == (183).to_bytes(2, "little")  # ELF's e_machine: EM_AARCH64
    assert "device_runtime.cli" in frozen_modules(made.folder)
    assert mounts(cache.root()) == []


@pytest.mark.slow
@emulated
def test_failing_program_leaves_no_mount(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "wheels").mkdir()
    with rootfs.environment(ARM64, tmp_path / "work", tmp_path / "wheels") as there:
        machine = there.run(["uname", "-m"], {"PATH": "/usr/bin:/usr/sbin"}, "Asking").strip()
        assert machine == "aarch64"
        with pytest.raises(CommandError) as caught:
            script = "echo out > /work/file; echo said; touch /etc/evil; exit 3"
            there.run(["sh", "-c", script], {"PATH": "/usr/bin:/usr/sbin"}, "Failing")
        assert "said" in caught.value.log
        assert "Read-only file system" in caught.value.log
    assert (tmp_path / "work/file").read_text() == "out\n"
    assert mounts(cache.root(), tmp_path) == []
    shutil.rmtree(tmp_path / "work")


@pytest.mark.slow
@emulated
def test_interrupted_program_leaves_no_mount(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "wheels").mkdir()
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from packager.kit import PLATFORMS, rootfs\n"
        "work, wheels = map(Path, sys.argv[1:])\n"
        "with rootfs.environment(PLATFORMS['linux-aarch64-cpu'], work, wheels) as there:\n"
        "    there.run(['sh', '-c', 'touch /work/started; sleep 600'],\n"
        "              {'PATH': '/usr/bin:/usr/sbin'}, 'Sleeping')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "work", tmp_path / "wheels"],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    eventually((tmp_path / "work/started").exists)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    assert mounts(cache.root(), tmp_path) == []
    shutil.rmtree(tmp_path / "work")
