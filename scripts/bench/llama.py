"""llama.cpp in an environment of its own in the cache: built there, with all instructions of this
machine, on the first call.

One build serves both the Python bindings, which have the exact version that is compared, and
llama.cpp's server.
"""

import os
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from device_runtime.processor import cores
from packager import cache, console
from scripts.bench.protocol import ROOT

PACKAGE = "llama-cpp-python"
VERSION = "0.3.36"
SERVER_NEEDS = (
    "uvicorn", "fastapi", "pydantic-settings", "sse-starlette", "starlette-context<0.4", "PyYAML",
)  # fmt: skip
"""Packages of the bindings' extra `server`."""
BUILD = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "ON",
    "GGML_NATIVE": "ON",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "ON",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
}
TILES = "vendor/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp"
TILE_CALL = "_tile_loadconfig(&tc);"
TILE_INSTRUCTION = '__asm__ volatile("ldtilecfg %0" :: "m"(tc));'
"""GCC 12's `_tile_loadconfig` names eight of the 64 bytes that the instruction reads. The
others are optimized away, and llama.cpp ends with a protection fault on processors with AMX."""


class Llama:
    """llama.cpp, built.

    Attributes:
        python: its Python.
        environment: variables that its programs need.
    """

    def __init__(self, folder: Path) -> None:
        self.python = folder / "venv" / "bin" / "python"
        self._server = folder / "build" / "bin" / "llama-server"
        self.environment = {"LLAMA_CPP_LIB_PATH": str(self._server.parent)}

    @property
    def contestant(self) -> list[str | Path]:
        """Command of the contestant."""
        return [self.python, "-m", "scripts.bench.llama_peer", "run"]

    def server(self, model: Path, *, context: int, threads: int, slots: int) -> list[str | Path]:
        """Command of llama.cpp's own server, in C++.

        Args:
            model: GGUF file.
            context: length of prompt and answer together, tokens.
            threads: number of threads.
            slots: number of requests that run at once.
        """
        return [
            *(self._server, "--model", model, "--host", "127.0.0.1", "--port", "{port}"),
            *("--ctx-size", str(context * slots), "--parallel", str(slots)),
            *("--threads", str(threads), "--threads-batch", str(threads), "--no-webui"),
        ]

    def python_server(self, model: Path, *, context: int, threads: int) -> list[str | Path]:
        """Command of the server of the Python bindings; arguments as for `server`."""
        return [
            *(self.python, "-m", "llama_cpp.server", "--model", model),
            *("--host", "127.0.0.1", "--port", "{port}", "--n_ctx", str(context)),
            *("--n_threads", str(threads), "--n_threads_batch", str(threads)),
        ]

    def about(self) -> tuple[str, str]:
        """Return the version, and the instructions that it uses."""
        version, instructions = self._tool("about").decode().splitlines()
        return f"{PACKAGE} {version}", instructions

    def quantize(self, source: Path, target: Path, kind: str) -> None:
        """Write a quantized file."""
        self._tool("quantize", source, target, kind)

    def logits(self, model: Path, windows: Path) -> Iterator[NDArray[np.float32]]:
        """Yield the logits `[tokens, vocabulary]` of each window of a file of token ids."""
        ids = np.load(windows)
        with subprocess.Popen(
            [*self.contestant[:-1], "logits", model, windows],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=self._variables,
        ) as process:
            assert process.stdout is not None
            whole = _sizes(process.stdout)
            for _ in ids:
                data = process.stdout.read(4 * ids.shape[1] * whole)
                yield np.frombuffer(data, np.float32).reshape(ids.shape[1], whole)

    @property
    def _variables(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **self.environment}

    def _tool(self, *arguments: str | Path) -> bytes:
        return subprocess.run(
            [*self.contestant[:-1], *arguments],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=self._variables,
        ).stdout


def installed() -> Llama:
    """Return llama.cpp; build it if it is not in the cache, or was not finished."""
    folder = cache.root() / "peers" / f"{PACKAGE}-{VERSION}"
    ready = folder / "ready"
    if not ready.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with console.step(f"Building {PACKAGE} {VERSION} for this machine"):
            _build(folder)
        ready.touch()
    return Llama(folder)


def _build(folder: Path) -> None:
    source = folder / "source"
    pip: list[str | Path] = [folder / "venv" / "bin" / "python", "-m", "pip", "--quiet"]
    if not (folder / "venv").exists():
        venv.create(folder / "venv", with_pip=True)
    if not source.exists():
        _fetch(folder, pip)
        tiles = source / TILES
        tiles.write_text(tiles.read_text().replace(TILE_CALL, TILE_INSTRUCTION))
    options = [f"-D{name}={value}" for name, value in BUILD.items()]
    _run(["cmake", "-S", source / "vendor" / "llama.cpp", "-B", folder / "build", *options])
    _run(["cmake", "--build", folder / "build", "-j", str(cores()), "-t", "llama-server", "mtmd"])
    without_library = {"CMAKE_ARGS": "-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF"}
    _run([*pip, "install", source, *SERVER_NEEDS], without_library)


def _fetch(folder: Path, pip: list[str | Path]) -> None:
    """Fetch the package's sources, unpack them."""
    _run(
        [
            *(*pip, "download", "--no-deps", "--no-binary", PACKAGE, "--dest", folder),
            f"{PACKAGE}=={VERSION}",
        ]
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as sources:
        sources.extractall(folder, filter="data")
    Path(folder, archive.name.removesuffix(".tar.gz")).rename(folder / "source")
    archive.unlink()


def _run(command: list[str | Path], more: dict[str, str] | None = None) -> None:
    """Run a step of the build; show what it prints if it fails."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(more or {})},
    )
    if done.returncode:
        sys.stderr.write(done.stdout.decode(errors="replace")[-4000:])
        sys.exit(f"{Path(command[0]).name} failed; llama.cpp needs cmake and a C++ compiler")


def _sizes(pipe: IO[bytes]) -> int:
    """Read the size of the vocabulary, which precedes the logits."""
    return int(np.frombuffer(pipe.read(4), np.int32)[0])
