"""The runtime on processors that have what its libraries need, and on those that do not.

From source: a frozen program starts itself again, and so leaves the emulator.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from device_runtime.bundle.kit_facts import KitFacts
from device_runtime.bundle.release import Release
from packager import kit
from tests.support import releases
from tests.support.commands import Outcome, edgepack_runtime, environment, refused

X86_64 = "linux-x86_64-cpu"
V2 = ("cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3")
LEVEL_1 = "fpu cmov cx8 fxsr mmx sse sse2 syscall"

native = pytest.mark.skipif(os.uname().machine != "x86_64", reason="needs x86-64")
emulated = pytest.mark.requires("root", "qemu-x86_64-static")


def release_that_needs(folder: Path, model: Path, *features: str) -> Release:
    """A release of a model, of a kit for this machine that needs these features."""
    facts = KitFacts(
        name="kit", machine=os.uname().machine, digest="0" * 64, min_glibc="2.36", cpu=features
    )
    return releases.release(folder / "release", model, kit=facts)


def generate(release: Release, *features: str) -> Outcome:
    """Generate on an emulated processor with the first level of x86-64 and these features."""
    cpuinfo = release.folder.parent / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {LEVEL_1} {' '.join(features)}\n")
    switches = [f"{'+' if name in features else '-'}{name}" for name in V2]
    cpu = ",".join(("kvm64", *switches))
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c"),
            'mount --bind "$1" /proc/cpuinfo && shift && exec "$@"',
            *("enter", cpuinfo, "qemu-x86_64-static", "-cpu", cpu),
            *(sys.executable, "-m", "device_runtime", "generate", "Hi", "--max-tokens", "3"),
            *("--release", release.folder),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@native
@pytest.mark.slow
def test_kit_records_what_numpy_was_compiled_for() -> None:
    assert kit.ensure(X86_64).facts.cpu == V2


@native
@emulated
def test_libraries_run_with_exactly_these_features(tmp_path: Path, tiny_onnx: Path) -> None:
    release = release_that_needs(tmp_path, tiny_onnx, *V2)
    done = generate(release, *V2)
    assert done.status == 0, done.err
    assert done.out.strip()


@native
@emulated
@pytest.mark.parametrize(
    "lacking",
    # On every processor, SSE 4.2 comes with 4.1 and that with SSSE3: the C library relies on it.
    ["cx16", "lahf_lm", "pni", "popcnt", "sse4_2", "sse4_1, sse4_2", "sse4_1, sse4_2, ssse3"],
)
def test_processor_with_a_feature_less_is_refused(
    tmp_path: Path, tiny_onnx: Path, lacking: str
) -> None:
    release = release_that_needs(tmp_path, tiny_onnx, *V2)
    done = generate(release, *(name for name in V2 if name not in lacking))
    refused(done, 11, f"needs a processor with {', '.join(V2)}; the device's lacks {lacking}\n")


@native
@emulated
def test_library_would_end_the_program_without_the_check(tmp_path: Path, tiny_onnx: Path) -> None:
    release = release_that_needs(tmp_path, tiny_onnx)
    assert generate(release).status == -signal.SIGILL


@pytest.mark.parametrize("command", ["generate Hi", "chat --alone", "serve"])
def test_commands_check_before_they_load_the_libraries(
    tmp_path: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    release = release_that_needs(tmp_path, tiny_onnx, "made_up")
    done = edgepack_runtime(*command.split(), "--release", release.folder)
    refused(done, 11, "the device's lacks made_up")
    assert "device_runtime.commands.engine" in done.err
    assert "numpy" not in done.err
