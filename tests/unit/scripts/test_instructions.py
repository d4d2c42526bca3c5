"""Counted instructions: which file and function they are of, and what counting takes."""

import ctypes
import sys
from pathlib import Path

import msgspec
import pytest

from device_runtime.bundle.kit_facts import KitFacts
from scripts import instructions
from scripts.instructions import Block, Part

MAPS = """\
00400000-00500000 r--p 00000000 fe:00 7      /usr/bin/a program
00600000-00610000 rw-p 00020000 fe:00 7      /usr/bin/a program
00610000-00700000 rw-p 00000000 00:00 0      [heap]
5500000000-5500001000 ---p 00000000 00:00 0
5500001000-5500003000 r--p 00000000 fe:00 9  /lib/a.so
5500003000-5500004000 rw-p 00002000 fe:00 9  /lib/a.so (deleted)
"""
KIT = KitFacts(name="kit", machine="aarch64", digest="0" * 64, min_glibc="2.36")


def test_parts_of_files_are_told_from_other_memory() -> None:
    assert instructions.mapped(MAPS) == [
        Part(0x400000, 0x500000, 0x400000, "/usr/bin/a program"),
        Part(0x600000, 0x610000, 0x400000, "/usr/bin/a program"),
        Part(0x5500001000, 0x5500003000, 0x5500001000, "/lib/a.so"),
        Part(0x5500003000, 0x5500004000, 0x5500003000, "/lib/a.so (deleted)"),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_functions_of_a_library_begin_where_the_linker_says() -> None:
    library = msgspec._core.__file__
    function = ctypes.CDLL(library).PyInit__core
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    (part,) = (
        part
        for part in instructions.mapped(Path("/proc/self/maps").read_text())
        if part.path == library and part.begin <= address < part.end
    )
    starts = instructions.functions(Path(library)).tolist()
    assert address - part.base in starts
    assert starts == sorted(starts)


@pytest.mark.parametrize("content", [b"", b"weights", instructions.ELF64 + bytes(58)])
def test_other_files_have_no_functions(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    assert instructions.functions(file).tolist() == []
    assert instructions.functions(tmp_path / "missing").tolist() == []


def test_blocks_are_summed_up_by_file_and_by_function() -> None:
    blocks = [Block("a.so", 16, 3_000_000), Block("a.so", 32, 1_000_000), Block("b", 0, 8_000_000)]
    assert instructions.shares([*blocks, blocks[0]], tokens=2) == {
        "all": 7.5,
        "files": {"b": 4.0, "a.so": 3.5},
        "functions": {"b+0x0": 4.0, "a.so+0x10": 3.0, "a.so+0x20": 0.5},
    }


@pytest.mark.parametrize("kit", [None, msgspec.structs.replace(KIT, machine="x86_64")])
def test_bundle_for_another_machine_is_refused(kit: KitFacts | None) -> None:
    with pytest.raises(
        SystemExit, match="no runtime for arm64; build one that has: edgepack build"
    ):
        instructions.check(kit)


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(instructions, "LIBRARIES", tmp_path)
    with pytest.raises(SystemExit, match="apt-get install qemu-user gcc libc6-arm64-cross"):
        instructions.check(KIT)
    (tmp_path / "gcc").touch(mode=0o755)
    with pytest.raises(SystemExit, match="apt-get install qemu-user libc6-arm64-cross"):
        instructions.check(KIT)
