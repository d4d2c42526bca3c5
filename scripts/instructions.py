"""Count the instructions of a bundle on an emulated processor:

    python -m scripts.instructions BUNDLE.epk [CPU]

The bundle is one for arm64; CPU is a processor as qemu names it (cortex-a76). The inference process
runs under qemu's user mode, with a plugin that counts in all its threads how often each block of
instructions runs. It has one thread of ONNX Runtime: others would count while they wait.
Prints one JSON object: millions of instructions for a token of a prompt and for a decoded token, by
file and by the functions that take most of them; and for a JSON answer whose prompt is cached, once
as it is and once with log probabilities, for which forced tokens take a step each as well.

Instructions are not time: a processor does not run all of them equally fast, and waiting for memory
is not among them. Takes minutes, and root or a kernel that lets users mount; of Debian's packages,
qemu-user (qemu-user-static loads no plugins), gcc and libc6-arm64-cross.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from device_runtime.api.chat_requests import parse_chat
from device_runtime.api.requests import own_request
from device_runtime.api.served_model import ServedModel
from device_runtime.bench.cases import Case, Prompts
from device_runtime.bundle.kit_facts import KitFacts
from device_runtime.bundle.release import Release
from device_runtime.config.options import RuntimeConfig
from device_runtime.inference.engine import GenerationChunk, GenerationRequest
from device_runtime.worker.messages import FOR_PARENT, Chunk, Failed, Generate, frame, read
from packager import console, launch
from scripts.json_speed import FIELDS

SHORT, LONG, ANSWER = 32, 64, 16
"""Lengths of two prompts and of an answer, tokens."""
TOP = 8
"""Number of functions to list."""
LIBRARIES = Path("/usr/aarch64-linux-gnu")
ROOM = 1 << 19
"""Number of blocks that there is room for."""
BLOCK = np.dtype([("address", "<i8"), ("length", "<i8"), ("runs", "<i8")])
"""A block of instructions, as instructions.c writes it."""
QUIET_S = 0.3
"""Time without an instruction after which the process is taken for idle, seconds."""
ELF64 = b"\x7fELF\x02\x01"
EH_FRAME_HDR = 0x6474E550
SORTED_BY_ADDRESS = 0x3B
"""Encoding of its table: pairs of 4 bytes, relative to the header."""
PROPERTIES = ("temperature", "humidity", "is_online", "priority", "restart_required")
SCHEMA = {
    "type": "object",
    "properties": {name: FIELDS[name] for name in PROPERTIES},
    "required": PROPERTIES,
    "additionalProperties": False,
}
JSON = {
    "messages": [{"role": "user", "content": "Describe a sensor as JSON."}],
    "max_tokens": 100,
    "temperature": 0,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "sensor", "strict": True, "schema": SCHEMA},
    },
}
"""A request with few fields: an emulated processor is slow."""

Numbers = NDArray[np.int64]


class Part(NamedTuple):
    """A part of a process's memory that has a part of a file.

    Attributes:
        begin: its first address.
        end: the address after its last.
        base: address of the file's beginning.
        path: path of the file.
    """

    begin: int
    end: int
    base: int
    path: str


class Block(NamedTuple):
    """Instructions without a branch, where they are and how many of them have run."""

    file: str
    function: int
    instructions: int


class Answer(NamedTuple):
    """An answer to a request.

    Attributes:
        chunk: its last chunk.
        tokens: number of tokens after the first chunk of them.
        first: instructions of each block up to that chunk.
        rest: instructions of each block after it.
    """

    chunk: GenerationChunk
    tokens: int
    first: Numbers
    rest: Numbers


class Emulated:
    """The inference process of a bundle under emulation, with an idle engine.

    Args:
        release: the unpacked bundle.
        cpu: name of the processor for qemu.
        folder: for the plugin and its counts.
    """

    def __init__(self, release: Release, cpu: str, folder: Path) -> None:
        plugin, counts = folder / "instructions.so", folder / "counts"
        source = Path(__file__).with_suffix(".c")
        build = ("gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", plugin, source)
        subprocess.run(build, check=True)
        np.zeros(ROOM, BLOCK).tofile(counts)
        self._blocks = np.memmap(counts, BLOCK, mode="r")
        program = release.program.resolve()
        libraries = program.parent / "_internal"
        # To find its libraries, the frozen program would start itself again: outside of qemu.
        variables = {
            "LD_LIBRARY_PATH": libraries,
            "_PYI_APPLICATION_HOME_DIR": libraries,
            "_PYI_ARCHIVE_FILE": program,
            "_PYI_PARENT_PROCESS_LEVEL": 0,
        }
        self._process = subprocess.Popen(
            [
                # Without this machine's /sys: ONNX Runtime would look for its processor there.
                *("unshare", "--map-root-user", "--mount", "sh", "-c"),
                'mount -t tmpfs tmpfs /sys && exec "$@"',
                *("enter", "qemu-aarch64", "-cpu", cpu, "-L", LIBRARIES),
                *("-plugin", f"{plugin},counts={counts}"),
                *(part for name, value in variables.items() for part in ("-E", f"{name}={value}")),
                *(program, "worker", "--parent", str(os.getpid()), "--release", release.folder),
                *("--threads", "1", "--kv-cache-mib", "0", "--processor", "cpu"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> "Emulated":
        self._message()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def answer(self, request: GenerationRequest) -> Answer:
        """Send a request to the idle process, and count until its answer is whole."""
        start = self._idle()
        assert self._process.stdin is not None
        self._process.stdin.write(frame(Generate(id=0, request=request)))
        self._process.stdin.flush()
        first: Numbers | None = None
        before = 0
        while (chunk := self._message()).usage is None:
            if first is None and chunk.tokens:
                first, before = self._count(), chunk.tokens
        end = self._count()
        first = end if first is None else first
        return Answer(chunk, chunk.tokens - before, first - start, end - first)

    def _message(self) -> GenerationChunk:
        """Return the next chunk; an empty one for another message."""
        assert self._process.stdout is not None
        message = read(self._process.stdout, FOR_PARENT)
        if message is None:
            sys.exit("the emulated inference process has ended; its messages are above")
        if isinstance(message, Failed):
            sys.exit(f"the emulated inference process failed: {message.message}")
        if isinstance(message, Chunk) and isinstance(message.chunk, GenerationChunk):
            return message.chunk
        return GenerationChunk()

    def _count(self) -> Numbers:
        """Return the instructions of each block so far."""
        count: Numbers = self._blocks["length"] * self._blocks["runs"]
        return count

    def _idle(self) -> Numbers:
        """Wait until the process does nothing: it prefills tokens ahead. Return its count."""
        last, now = None, self._count()
        while last is None or not np.array_equal(last, now):
            time.sleep(QUIET_S)
            last, now = now, self._count()
        return now

    def blocks(self, count: Numbers) -> Iterator[Block]:
        """Yield the blocks of a count that have run."""
        parts = mapped(Path(f"/proc/{self._process.pid}/maps").read_text())
        starts = {part.path: functions(Path(part.path)) for part in parts}
        used = np.flatnonzero(count)
        for address, number in zip(self._blocks["address"][used], count[used], strict=True):
            part = parts[bisect(parts, address, key=lambda part: part.begin) - 1]
            if part.begin <= address < part.end:
                known = starts[part.path]
                place = bisect(known, address - part.base)
                yield Block(
                    Path(part.path).name, int(known[place - 1]) if place else 0, int(number)
                )
            else:
                yield Block("elsewhere", 0, int(number))


def mapped(maps: str) -> list[Part]:
    """Read /proc/PID/maps (man 5 proc): the parts of files in it, in the order of addresses."""
    parts = []
    bases: dict[str, int] = {}
    for line in maps.splitlines():
        addresses, _, offset, _, inode, *path = line.split(maxsplit=5)
        if inode != "0":
            begin, end = (int(address, 16) for address in addresses.split("-"))
            if int(offset, 16) == 0:
                bases[path[0]] = begin
            parts.append(Part(begin, end, bases.get(path[0], begin), path[0]))
    return parts


def functions(file: Path) -> Numbers:
    """Return where the functions of a library begin, from its first address on, in order.

    They are in the table that finds the frames of exceptions (Linux Standard Base, .eh_frame_hdr):
    stripped libraries have it, too. Other files have none.
    """
    elf = file.read_bytes() if file.is_file() else b""
    if not elf.startswith(ELF64):
        return np.zeros(0, np.int64)
    table, size, count = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
    for number in range(count):
        kind, _, offset, address = struct.unpack_from("<IIQQ", elf, table + number * size)
        if kind == EH_FRAME_HDR and elf[offset + 3] == SORTED_BY_ADDRESS:
            (total,) = struct.unpack_from("<I", elf, offset + 8)
            pairs = np.frombuffer(elf, np.int32, total * 2, offset + 12)
            return pairs[::2] + np.int64(address)
    return np.zeros(0, np.int64)


def shares(blocks: Iterable[Block], tokens: int) -> dict[str, Any]:
    """Sum blocks up: all, by file and by function, millions of instructions a token."""
    files: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for block in blocks:
        files[block.file] += block.instructions
        places[f"{block.file}+{block.function:#x}"] += block.instructions
    return {
        "all": millions(files.total(), tokens),
        "files": {name: millions(total, tokens) for name, total in files.most_common(TOP)},
        "functions": {name: millions(total, tokens) for name, total in places.most_common(TOP)},
    }


def millions(instructions: int, tokens: int = 1) -> float:
    """Return millions of instructions a token."""
    return round(instructions / tokens / 1e6, 2)


def check(kit: KitFacts | None) -> None:
    """End the program unless this runtime can be run here."""
    if kit is None or kit.machine != "aarch64":
        sys.exit(
            "the bundle has no runtime for arm64; build one that has: "
            "edgepack build --profile raspberry-pi"
        )
    here = {
        "qemu-user": shutil.which("qemu-aarch64") is not None,
        "gcc": shutil.which("gcc") is not None,
        "libc6-arm64-cross": (LIBRARIES / "lib" / "ld-linux-aarch64.so.1").exists(),
    }
    missing = [package for package, installed in here.items() if not installed]
    if missing:
        sys.exit(f"this takes packages that are not here: apt-get install {' '.join(missing)}")


def measure(emulated: Emulated, release: Release) -> dict[str, Any]:
    """Count prompts of two lengths, an answer, and JSON in two ways."""
    config = json.loads((release.model_folder / "genai_config.json").read_bytes())
    prompts = Prompts(config["model"]["vocab_size"])
    served = ServedModel.of_release(release, RuntimeConfig())
    with console.step("Starting"):
        emulated.answer(prompts.request(Case(2, 2)))
    with console.step("Counting prompts"):
        short, long = (emulated.answer(prompts.request(Case(size, 1))) for size in (SHORT, LONG))
        prompt = long.first - short.first
    with console.step("Counting an answer"):
        decoded = emulated.answer(prompts.request(Case(SHORT, ANSWER)))
    with console.step("Counting JSON"):
        emulated.answer(own_request(parse_chat, JSON | {"max_tokens": 1}, served))
        forced, stepped = (
            emulated.answer(own_request(parse_chat, JSON | fields, served))
            for fields in ({}, {"logprobs": True})
        )
    assert forced.chunk.usage is not None
    return {
        "prompt_token": shares(emulated.blocks(prompt), LONG - SHORT),
        "decoded_token": shares(emulated.blocks(decoded.rest), decoded.tokens),
        "json": {
            "tokens": forced.chunk.usage.completion_tokens,
            "forced": millions(forced.first.sum() + forced.rest.sum()),
            "with_logprobs": millions(stepped.first.sum() + stepped.rest.sum()),
        },
    }


def main(bundle: Path, cpu: str) -> None:
    """Print the figures."""
    release = launch.release_of(bundle)
    check(release.manifest.kit)
    with tempfile.TemporaryDirectory() as folder, Emulated(release, cpu, Path(folder)) as emulated:
        figures = measure(emulated, release)
    console.result_json({"cpu": cpu, "unit": "millions of instructions", **figures})


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) == 3 else "cortex-a76")
