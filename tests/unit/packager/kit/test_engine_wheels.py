"""Wheels of the user's own for a kit: those that fit are taken, the others are refused."""

import hashlib
import os
import platform
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from device_runtime.bundle.kit_facts import WheelFacts
from packager import kit
from packager.errors import CommandError, KitError
from packager.kit import engine_wheels, rootfs
from packager.kit.freeze import Environment
from packager.report import tables
from tests.support import kits, wheels
from tests.support.commands import edgepack
from tests.support.wheels import genai, runtime, wheel

CUDA = kit.PLATFORMS["linux-aarch64-cuda"]


def check(folder: Path) -> tuple[str, ...]:
    """Check the wheels for a kit with Python 3.11; return their titles."""
    return tuple(each.title for each in engine_wheels.check(folder, CUDA, "3.11"))


def refused(folder: Path) -> str:
    with pytest.raises(KitError) as caught:
        check(folder)
    assert caught.value.hint
    return f"{caught.value} {caught.value.hint}"


def test_wheels_of_a_board_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime may be for another Python: only its libraries are taken."""
    runtime(tmp_path, version="1.31.1+jp6")
    genai(tmp_path)
    wheel(tmp_path, "numpy-2.4-cp310-cp310-linux_aarch64.whl", {})
    assert check(tmp_path) == ("onnxruntime-gpu 1.31.1+jp6", "onnxruntime-genai-cuda 0.18.0")
    assert "CUDA 12, with code for GPUs of compute capability 8.7" in capsys.readouterr().err


def test_module_for_several_pythons_fits(tmp_path: Path) -> None:
    runtime(tmp_path)
    genai(tmp_path, tag="cp310-abi3-manylinux_2_28_aarch64.manylinux2014_aarch64")
    assert check(tmp_path)


@pytest.mark.parametrize("tag", ["cp310-cp310", "cp312-cp312", "cp312-abi3", "pp311-pypy311_pp73"])
def test_module_for_another_python(tmp_path: Path, tag: str) -> None:
    runtime(tmp_path)
    genai(tmp_path, tag=f"{tag}-linux_aarch64")
    message = refused(tmp_path)
    assert f"is for {tag}; this kit is frozen with Python 3.11" in message


@pytest.mark.parametrize("make", [runtime, genai])
def test_wheel_for_another_architecture(tmp_path: Path, make: Any) -> None:
    runtime(tmp_path)
    genai(tmp_path)
    right = make(tmp_path)
    right.rename(tmp_path / right.name.replace("aarch64", "x86_64"))
    assert "is for linux_x86_64; the kit is for aarch64" in refused(tmp_path)


def test_libraries_for_another_architecture_than_the_name_says(tmp_path: Path) -> None:
    runtime(tmp_path, machine=wheels.X86_64)
    genai(tmp_path)
    message = refused(tmp_path)
    assert "libonnxruntime.so.1.31.1 in onnxruntime_gpu-1.31.1" in message
    assert "is not a library for aarch64" in message


def test_runtime_that_is_older_than_the_other_wheel_needs(tmp_path: Path) -> None:
    runtime(tmp_path, version="1.23.0")
    genai(tmp_path)
    message = refused(tmp_path)
    assert "onnxruntime-genai-cuda 0.18.0 needs onnxruntime-gpu>=1.30.0" in message
    assert "the other wheel is onnxruntime-gpu 1.23.0" in message


def test_genai_that_is_too_old_for_edgepack(tmp_path: Path) -> None:
    runtime(tmp_path)
    genai(tmp_path, version="0.9.1")
    message = refused(tmp_path)
    assert "needs ONNX Runtime GenAI >=0.18; the wheel is onnxruntime-genai-cuda 0.9.1" in message


def test_wheels_for_different_cudas(tmp_path: Path) -> None:
    runtime(tmp_path, cuda="libcudart.so.13")
    genai(tmp_path)
    assert "for CUDA 12 and 13" in refused(tmp_path)


def test_wheels_with_code_for_different_gpus(tmp_path: Path) -> None:
    runtime(tmp_path, code=((2, 90),))
    genai(tmp_path)
    assert "no code for the same GPU" in refused(tmp_path)


@pytest.mark.parametrize("library", ["libonnxruntime.so", "providers_cuda"])
def test_build_without_a_library(tmp_path: Path, library: str) -> None:
    runtime(tmp_path, without=library)
    genai(tmp_path)
    message = refused(tmp_path)
    assert "onnxruntime_gpu-1.31.1-cp310-cp310-linux_aarch64.whl lacks " in message
    assert library in message
    assert "--build_shared_lib" in message


def test_folder_without_one_of_the_wheels(tmp_path: Path) -> None:
    runtime(tmp_path)
    assert "one wheel of ONNX Runtime GenAI; it has none" in refused(tmp_path)


def test_folder_with_two_builds(tmp_path: Path) -> None:
    runtime(tmp_path)
    runtime(tmp_path, version="1.30.0")
    genai(tmp_path)
    message = refused(tmp_path)
    assert "must have one wheel of ONNX Runtime; it has onnxruntime_gpu-1.30.0" in message


def test_file_that_is_not_a_wheel(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.whl").write_bytes(b"")
    assert "onnxruntime.whl is not a wheel" in refused(tmp_path)


def test_wheel_that_was_copied_in_part(tmp_path: Path) -> None:
    path = runtime(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    assert f"{path} is damaged" in refused(tmp_path)


def test_kit_without_cuda_takes_no_wheels(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="takes the packages that edgepack pins") as caught:
        engine_wheels.check(tmp_path, kit.PLATFORMS["linux-aarch64-cpu"], "3.11")
    assert "linux-aarch64-cuda" in caught.value.hint


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("Traceback ...\nImportError: version `GLIBC_2.38' not found\n", "GLIBC_2.38' not found"),
        ("", "killed by signal 11"),
    ],
)
def test_wheels_that_do_not_load(log: str, reason: str) -> None:
    def fail(argv: Sequence[str], variables: Mapping[str, str], what: str) -> str:
        raise CommandError(f"{what}: python was killed by signal 11", log=log)

    environment = Environment(
        python="python3", work="/work", wheels="/wheels", root=Path("/"), run=fail
    )
    with pytest.raises(KitError, match=reason) as caught:
        engine_wheels.check_loads(environment, "3.11")
    assert "Traceback" not in str(caught.value)
    assert "on the board" in caught.value.hint


def own(digit: str) -> tuple[WheelFacts, ...]:
    """Wheels that a kit was frozen from."""
    digest = digit * 64
    return (WheelFacts(name="onnxruntime-gpu", version="1.31.1", file="a.whl", sha256=digest),)


def test_newest_kit_of_own_wheels_is_taken(
    own_cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kits.cannot_freeze(monkeypatch)
    kits.put(own_cache)
    for age, digit in ((200, "a"), (100, "b")):
        description = kits.put(own_cache, own=own(digit)) / "kit.json"
        then = description.stat().st_mtime - age
        os.utime(description, (then, then))
    assert kit.is_there(kits.NAME)
    assert kit.ensure(kits.NAME).facts.wheels == own("b")
    assert "with your own onnxruntime-gpu 1.31.1" in capsys.readouterr().err
    shown = tables.kits_json(kit.installed(), ())
    assert {each["from"] for each in shown} == {"frozen here", "frozen here, own wheels"}


def test_kit_of_own_wheels_for_another_edgepack_is_passed_over(
    own_cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    kits.put(own_cache)
    kits.put(own_cache, own=own("a"), recipe="0" * 64, edgepack="0.0.9")
    assert kit.ensure(kits.NAME).facts.wheels == ()
    message = " ".join(capsys.readouterr().err.split())
    assert "your own wheels: edgepack 0.0.9 froze it" in message
    assert f"edgepack kit build {kits.NAME} --wheels FOLDER" in message


def test_kit_of_own_wheels_moves_to_another_machine(own_cache: Path, tmp_path: Path) -> None:
    folder = kits.put(own_cache, own=own("a"))
    kit.export(kit.ensure(kits.NAME), tmp_path / "kit.tar")
    shutil.rmtree(folder)
    kit.import_(tmp_path / "kit.tar")
    taken = kit.ensure(kits.NAME)
    assert (taken.imported, taken.facts.wheels) == (True, own("a"))


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A package index (PEP 503) on this machine that has wheels for a board; its host and port."""
    pages = tmp_path / "index"
    for name, make in (("onnxruntime-gpu", runtime), ("onnxruntime-genai-cuda", genai)):
        path = make(pages / name, tag="cp311-cp311-linux_aarch64")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        link = f'<a href="{path.name}#sha256={digest}">{path.name}</a>'
        (pages / name / "index.html").write_text(f"<!DOCTYPE html><body>{link}</body>")
    handler = partial(SimpleHTTPRequestHandler, directory=pages)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_wheels_of_an_index(tmp_path: Path, index: str) -> None:
    folder = tmp_path / "fetched"
    url = f"http://me:secret@{index}"
    address = engine_wheels.fetch(url, CUDA, rootfs.wheel_options(CUDA), folder)
    assert address == f"http://{index}"
    checked = engine_wheels.check(folder, CUDA, "3.11", address)
    facts = [each.facts() for each in checked]
    assert [each.origin for each in facts] == [
        f"http://{index}/onnxruntime_gpu-1.31.1-cp311-cp311-linux_aarch64.whl",
        f"http://{index}/onnxruntime_genai_cuda-0.18.0-cp311-cp311-linux_aarch64.whl",
    ]
    assert facts[0].sha256 == hashlib.sha256(checked[0].path.read_bytes()).hexdigest()


def test_index_that_lacks_a_wheel_is_named_without_credentials(tmp_path: Path, index: str) -> None:
    url = f"http://me:secret@{index}/missing?token=hidden"
    with pytest.raises(KitError) as caught:
        engine_wheels.fetch(url, CUDA, rootfs.wheel_options(CUDA), tmp_path / "fetched")
    assert f"cannot be fetched from http://{index}/missing\n" in str(caught.value)
    assert "onnxruntime-gpu" in str(caught.value)
    assert not [word for word in ("secret", "hidden", "me:") if word in str(caught.value)]
    assert "--wheels" in caught.value.hint


def test_folder_and_index_at_once(tmp_path: Path) -> None:
    done = edgepack(
        "kit", "build", CUDA.name, "--wheels", tmp_path, "--index-url", "http://127.0.0.1/simple"
    )
    assert (done.status, "either --wheels or --index-url" in done.err) == (2, True)


def test_folder_that_does_not_exist(tmp_path: Path) -> None:
    done = edgepack("kit", "build", CUDA.name, "--wheels", tmp_path / "missing")
    assert (done.status, "does not exist" in done.err) == (2, True)
