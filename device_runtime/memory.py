"""Memory of the machine within this process's limits; sizes of what the engine allocates."""

import ctypes
import re
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from device_runtime.cgroups import GROUPS, OWN, folders

_SHORT = re.compile(
    r"bad_alloc|cannot allocate|failed to (allocate|map segment)|pthread_create|PosixThread",
    re.IGNORECASE,
)
"""Words for a lack of memory of the C++ library, the kernel, ONNX Runtime and the loader of
libraries. The stack of a thread needs some too."""

_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")

PROMPT_STEP = 128
"""Size of a prefill chunk, tokens: cancellation takes effect between two chunks, and on a CPU
smaller chunks are slower while larger ones are not faster."""


_M_MMAP_THRESHOLD = -3  # malloc.h of glibc
_LARGE_BLOCK = 256 << 10


def return_large_blocks() -> None:
    """Have large blocks return to the system as soon as they are freed (mallopt(3)).

    By itself, glibc raises the size of what it calls large as blocks are freed, up to 32 MiB. The
    buffers of KV caches of other lengths would then leave holes in the heap, which only grows.
    """
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def parse_meminfo(text: str) -> tuple[int, int]:
    """Parse total and available memory, bytes, from /proc/meminfo (man 5 proc)."""
    kilobytes = dict(re.findall(r"^(MemTotal|MemAvailable): +(\d+) kB$", text, re.MULTILINE))
    return int(kilobytes["MemTotal"]) << 10, int(kilobytes["MemAvailable"]) << 10


def is_short(error: BaseException) -> bool:
    """Return whether an error, also one of native code, means that memory is short."""
    return isinstance(error, MemoryError) or _SHORT.search(str(error)) is not None


def available() -> int:
    """Return the memory that can be allocated now without swapping, bytes."""
    _, free = parse_meminfo(_MEMINFO.read_text())
    bounds = (*limits(), *_address_space())
    return max(0, min([free, *(limit - used for limit, used in bounds)]))


def _address_space() -> Iterator[tuple[int, int]]:
    """Yield limit and usage of this process's address space, bytes, if there is one (ulimit -v)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        # First field of statm: pages of the address space (man 5 proc).
        yield limit, int(_STATM.read_text().split()[0]) * resource.getpagesize()


def limits(own: Path = OWN, groups: Path = GROUPS) -> Iterator[tuple[int, int]]:
    """Yield limit and usage, bytes, of each control group around this process that has a limit.

    Usage is anonymous memory: the kernel drops file pages under memory pressure. A kernel without
    the memory controller (the default of Raspberry Pi OS) has no limits.

    Args:
        own: file that lists the control groups of this process.
        groups: mount point of the control group file systems.
    """
    names = {1: ("memory.limit_in_bytes", "total_rss"), 2: ("memory.max", "anon")}
    for version, folder in folders("memory", own, groups):
        limit_name, used_name = names[version]
        try:
            limit = (folder / limit_name).read_text().strip()
            stat = (folder / "memory.stat").read_text()
        except OSError:
            continue
        if limit != "max" and int(limit) < 1 << 60:  # version 1 has a huge number for none
            used = dict(entry.split() for entry in stat.splitlines())
            yield int(limit), int(used[used_name])


def kv_cache_length(decoder: Mapping[str, Any], tokens: int) -> int:
    """Return the length to open a KV cache with so that it holds some tokens, in tokens.

    Sliding-window attention rejects a cache shorter than its window, however few tokens it holds.
    Host and device both run graphs; both take the length from here.

    Args:
        decoder: `model.decoder` of a genai_config.json.
        tokens: prompt and answer together.
    """
    window = decoder.get("sliding_window") or {}
    return max(tokens, window.get("window_size") or 0)
