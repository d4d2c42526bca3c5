"""Memory that is freed goes back to the system."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from device_runtime import memory

# As KV caches come and go: a large block freed, then more of them with small ones in between.
PROGRAM = """
import ctypes
from pathlib import Path
from device_runtime import memory

memory.return_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def block(size):
    address = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(address, 1, size)
    return address

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

before = resident()
libc.free(block(16 << 20))
blocks = [(block(4 << 20), block(1000))[0] for _ in range(20)]
for address in blocks:
    libc.free(address)
print(resident() - before)
"""


def test_large_blocks_leave_no_holes_in_the_heap() -> None:
    program = [sys.executable, "-c", PROGRAM]
    root = Path(__file__).parents[3]
    run = subprocess.run(program, capture_output=True, text=True, check=True, cwd=root)
    kept = int(run.stdout) * os.sysconf("SC_PAGE_SIZE")
    assert kept < 8 << 20, f"{kept >> 20} of 96 MiB were kept"


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (RuntimeError("Exception caught: std::bad_alloc"), True),
        (RuntimeError("Failed to allocate memory for requested buffer of size 9"), True),
        (ImportError("libm.so.6: failed to map segment from shared object"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("Load model from /m/model.onnx failed: Protobuf parsing failed."), False),
    ],
)
def test_lack_of_memory_is_told_from_damage(error: Exception, short: bool) -> None:
    assert memory.is_short(error) == short


def test_limit_of_the_address_space_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = (used + (64 << 20), resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limit)
    assert memory.available() <= 64 << 20
