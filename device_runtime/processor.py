"""The processors that a model can run on, and what the CPU offers this process."""

import ctypes
import hashlib
import importlib.util
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from device_runtime.cgroups import GROUPS, OWN, folders

HALF_GRAPH = "gpu_fp16.onnx"
"""Graph in a model's folder that computes in half precision, beside the one that genai_config.json
names: for GPUs that can. Both have the same weights."""

GPU_LIBRARY = "onnxruntime_ep_webgpu/libonnxruntime_providers_webgpu.so"
"""ONNX Runtime's plug-in for GPUs with a Vulkan driver, below site-packages."""

TRIAL_S = 120.0
"""Time for a trial of a processor: to load the model and to continue the probe. A GPU's shaders are
compiled in it."""


class Processor(StrEnum):
    """A processor, and the graph that it runs."""

    CPU = "cpu"
    GPU = "gpu"
    GPU_FP16 = "gpu-fp16"


def gpu_library() -> Path | None:
    """Return ONNX Runtime's plug-in for GPUs with a Vulkan driver; None if there is none here.

    Both from source and in a kit it is in the folder that contains the package onnxruntime_genai.
    """
    engine = importlib.util.find_spec("onnxruntime_genai")
    if engine is None or engine.origin is None:
        return None
    library = Path(engine.origin).parents[1] / GPU_LIBRARY
    return library if library.is_file() else None


_CPUS = Path("/sys/devices/system/cpu")
_CPUINFO = Path("/proc/cpuinfo")
_SAME_SPEED = 0.85
"""Share of the speed of a kind's fastest core that its others have: favoured cores differ less,
and small ones more."""
_KIND = re.compile(
    r"(vendor_id|cpu family|model|model name|flags|Features|CPU (implementer|variant|part))\s*:"
)
"""Lines of /proc/cpuinfo that are the same for all processors of a kind, on x86-64 and aarch64."""
CPP_LIBRARY = "libstdc++.so.6"
"""The C++ library, of which a kit has a copy for systems without one."""
_LIBRARIES = tuple(
    map(Path, (f"/usr/lib/{platform.machine()}-linux-gnu", "/usr/lib64", "/usr/lib"))
)


def prefer_system_library(folders: Iterable[Path] = _LIBRARIES) -> None:
    """Load the system's C++ library instead of the program's own, unless it is older.

    A GPU's driver belongs to the system and may need its newer library, and a process has only one;
    the program's own in turn may need a newer C library than the system has. To be called before
    anything that needs the library is loaded.

    Args:
        folders: folders of the system's libraries.
    """
    own = Path(getattr(sys, "_MEIPASS", ""), CPP_LIBRARY)
    paths = [folder / CPP_LIBRARY for folder in folders]
    path = next((path for path in paths if path.is_file()), None)
    if path is not None and own.is_file() and _cpp_version(path) >= _cpp_version(own):
        with suppress(OSError):
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _cpp_version(library: Path) -> int:
    """Return the newest minor version of the symbols in a C++ library, `GLIBCXX_3.4.30`."""
    return max(map(int, re.findall(rb"GLIBCXX_3\.4\.(\d+)", library.read_bytes())), default=0)


def gpu_graphs(model_folder: Path) -> tuple[Processor, ...]:
    """List the graphs of a model that this runtime can run on a GPU, the fastest first.

    A model that sees has none: its three graphs were never tried there.
    """
    if gpu_library() is None or _sees(model_folder):
        return ()
    half = (Processor.GPU_FP16,) if (model_folder / HALF_GRAPH).is_file() else ()
    return (*half, Processor.GPU)


def _sees(model_folder: Path) -> bool:
    config = json.loads((model_folder / "genai_config.json").read_bytes())
    return "vision" in config["model"]


def cores(cpus: Path = _CPUS, own: Path = OWN, groups: Path = GROUPS) -> int:
    """Count the cores that this process may use; the threads of one core compute no faster.

    A quota of its control groups counts in whole cores: threads that wait for each other while the
    quota is used up are slower than fewer threads.

    ONNX Runtime itself also counts them, but ties its threads to some then: on a machine of two
    cores, a model decoded at 95 instead of 128 tokens a second, and three threads at 50.

    Args:
        cpus: what the kernel tells of the processor (sysfs-devices-system-cpu).
        own: file that lists the control groups of this process.
        groups: mount point of the control group file systems.

    Returns:
        Number of cores; 0, ONNX Runtime's own choice, where the system cannot tell.
    """
    if not hasattr(os, "sched_getaffinity"):
        return 0
    allowed = count_cores(os.sched_getaffinity(0), cpus)
    return max(1, min([allowed, *(int(quota) for quota in _quotas(own, groups))]))


def count_cores(numbers: Iterable[int], cpus: Path = _CPUS) -> int:
    """Count the cores that these hardware threads belong to."""
    return len({_siblings(cpus, number) for number in numbers})


def kinds_of_cores(cpus: Path = _CPUS) -> list[tuple[int, ...]]:
    """List the CPUs that this process may use by the kind of their core, the fastest kind first.

    Args:
        cpus: what the kernel tells of the processor: `cpu_capacity` of cores that differ, else
            their highest frequency.
    """
    speeds = {number: _speed(cpus / f"cpu{number}") for number in sorted(os.sched_getaffinity(0))}
    kinds: list[list[int]] = []
    for number in sorted(speeds, key=lambda number: -speeds[number]):
        if kinds and speeds[number] >= _SAME_SPEED * speeds[kinds[-1][0]]:
            kinds[-1].append(number)
        else:
            kinds.append([number])
    return [tuple(sorted(kind)) for kind in kinds]


def fingerprint(cpuinfo: Path = _CPUINFO) -> str:
    """Return a digest of the processor: its kind, its features, and what this process may use."""
    text = cpuinfo.read_text(errors="replace")
    described = sorted({line for line in text.splitlines() if _KIND.match(line)})
    usable = f"{sorted(os.sched_getaffinity(0))} {cores()}"
    return hashlib.sha256("\n".join((*described, usable)).encode()).hexdigest()


def _speed(cpu: Path) -> int:
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        with suppress(OSError, ValueError):
            return int((cpu / name).read_text())
    return 0


def _quotas(own: Path, groups: Path) -> Iterator[float]:
    """Yield the quota, in CPUs, of each control group around this process that has one."""
    for version, folder in folders("cpu", own, groups):
        try:
            if version == 2:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu.cfs_period_us").read_text()
            if quota != "max" and int(quota) > 0:  # version 1 has -1 for none
                yield int(quota) / int(period)
        except (OSError, ValueError):
            continue


def _siblings(cpus: Path, number: int) -> str:
    """Return the list of the hardware threads of a core, by one of them."""
    try:
        return (cpus / f"cpu{number}" / "topology" / "thread_siblings_list").read_text()
    except OSError:
        return str(number)
