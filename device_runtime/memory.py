"""Memory of the machine within the limits of this process, and the length of a KV cache."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_MEMINFO = Path("/proc/meminfo")


def parse_meminfo(text: str) -> tuple[int, int]:
    """Memory of the machine and what is available of it, bytes, from /proc/meminfo (man 5 proc)."""
    kilobytes = dict(re.findall(r"^(MemTotal|MemAvailable): +(\d+) kB$", text, re.MULTILINE))
    return int(kilobytes["MemTotal"]) << 10, int(kilobytes["MemAvailable"]) << 10


def available() -> int:
    """Memory that may be taken now without swapping, bytes."""
    _, free = parse_meminfo(_MEMINFO.read_text())
    return max(0, min([free, *(limit - used for limit, used in limits())]))


def limits(
    own: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")
) -> Iterator[tuple[int, int]]:
    """Limit and use of each control group around this process that has a limit, bytes.

    What counts as used is anonymous memory: pages of files are dropped when memory is wanted. The
    files are those of the kernel's documentation of control groups, versions 1 and 2. A kernel
    without such groups (Raspberry Pi OS starts without that of memory) has no limits.
    """
    lines = own.read_text().splitlines() if own.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            top = groups / "memory"
            limit_name, used_name = "memory.limit_in_bytes", "total_rss"
        elif not controllers:
            top = groups
            limit_name, used_name = "memory.max", "anon"
        else:
            continue
        inner = top / path.lstrip("/")
        # In a container the path may be the host's, which is not there; the group is at the top.
        for folder in (inner, *inner.parents) if inner.is_dir() else (top,):
            try:
                limit = (folder / limit_name).read_text().strip()
                stat = (folder / "memory.stat").read_text()
            except OSError:
                continue
            if limit != "max" and int(limit) < 1 << 60:  # version 1 has a huge number for none
                used = dict(each.split() for each in stat.splitlines())
                yield int(limit), int(used[used_name])


def kv_cache_length(decoder: Mapping[str, Any], tokens: int) -> int:
    """Length to open a KV cache with so that it holds some tokens, in tokens.

    Attention with a sliding window refuses a cache that is shorter than its window, however few
    tokens come. Host and device run graphs; both take the length from here.

    Args:
        decoder: `model.decoder` of a genai_config.json.
        tokens: prompt and answer together.
    """
    window = decoder.get("sliding_window") or {}
    return max(tokens, window.get("window_size") or 0)
