"""Made-up wheels of ONNX Runtime and ONNX Runtime GenAI with CUDA: small, and never loaded."""

import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

AARCH64, X86_64 = 0xB7, 0x3E
ORIN = ((2, 87),)
"""Machine code for the GPU of a Jetson Orin, as `fat_binary` takes it."""


def fat_binary(*entries: tuple[int, int]) -> bytes:
    """Entries of a kind for a compute capability, each with 24 bytes of content."""
    content = b"".join(
        struct.pack("<HHIQ12xI32x", kind, 0x101, 64, 24, tenths) + b"c" * 24
        for kind, tenths in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(content)) + content


def elf(needed: Iterable[str] = (), content: bytes = b"", machine: int = AARCH64) -> bytes:
    """A library that is linked to others, by their names: headers, names, dynamic section."""
    names, offsets = b"\0", []
    for name in needed:
        offsets.append(len(names))
        names += name.encode() + b"\0"
    start = 64 + 2 * 56
    dynamic = b"".join(struct.pack("<QQ", 1, offset) for offset in offsets)
    dynamic += struct.pack("<QQ", 5, start)
    total = start + len(names) + len(dynamic)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    loaded = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, total, total, 1)
    at = start + len(names)
    link = struct.pack("<IIQQQQQQ", 2, 6, at, at, at, len(dynamic), len(dynamic), 8)
    return header + loaded + link + names + dynamic + content


def wheel(folder: Path, file: str, members: dict[str, bytes], *requires: str) -> Path:
    """Write a wheel."""
    name, version = file.split("-")[:2]
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {x}" for x in requires)]
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / file, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        metadata = "\n".join(("Metadata-Version: 2.1", *lines, ""))
        archive.writestr(f"{name}-{version}.dist-info/METADATA", metadata)
        archive.writestr(f"{name}-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    return folder / file


def runtime(
    folder: Path,
    *,
    version: str = "1.31.1",
    tag: str = "cp310-cp310-linux_aarch64",
    machine: int = AARCH64,
    cuda: str = "libcudart.so.12",
    code: tuple[tuple[int, int], ...] = ORIN,
    without: str = "",
) -> Path:
    """Write a wheel of ONNX Runtime as a board of JetPack 6 builds it.

    Args:
        folder: folder for the wheel.
        version: its version.
        tag: Python and platform in its name.
        machine: architecture of its libraries.
        cuda: CUDA's library that it is linked to.
        code: code for GPUs in it.
        without: a library that it lacks.
    """
    members = {
        "onnxruntime/__init__.py": b"",
        "onnxruntime/capi/libonnxruntime.so.1.31.1": elf((), b"", machine),
        "onnxruntime/capi/libonnxruntime_providers_shared.so": elf((), b"", machine),
        "onnxruntime/capi/libonnxruntime_providers_cuda.so": elf([cuda], fat_binary(*code)),
    }
    kept = {name: data for name, data in members.items() if not without or without not in name}
    return wheel(folder, f"onnxruntime_gpu-{version}-{tag}.whl", kept, "flatbuffers")


def genai(
    folder: Path,
    *,
    version: str = "0.18.0",
    tag: str = "cp311-cp311-linux_aarch64",
    requires: str = "onnxruntime-gpu>=1.30.0",
    cuda: str = "libcudart.so.12",
    code: tuple[tuple[int, int], ...] = ORIN,
) -> Path:
    """Write a wheel of ONNX Runtime GenAI; arguments as of `runtime`, and what it requires."""
    members = {
        "onnxruntime_genai/__init__.py": b"",
        "onnxruntime_genai/libonnxruntime-genai.so": elf(),
        "onnxruntime_genai/libonnxruntime-genai-cuda.so": elf([cuda], fat_binary(*code)),
    }
    file = f"onnxruntime_genai_cuda-{version}-{tag}.whl"
    return wheel(folder, file, members, "numpy>=1.21.6", requires)
