"""Whether this device can run a release, and what to do where it cannot.

Each check takes what was read of the device and judges it; `examine` reads.
"""

import ctypes
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from device_runtime.bundle import requirements
from device_runtime.bundle.manifest import CudaFacts, KitFacts, Manifest
from device_runtime.bundle.release import Release
from device_runtime.bundle.requirements import Unmet
from device_runtime.bundle.target import Target
from device_runtime.errors import BundleError
from device_runtime.memory import parse_meminfo

# Jetson Linux (L4T) by its major version: the JetPack it is the base of.
_JETPACKS = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7", "39": "7"}

# CUdevice_attribute in CUDA's driver API.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    Attributes:
        name: what was looked at.
        status: `fail` keeps the model from running, `warn` may.
        found: what is there.
        advice: what to do; empty where nothing is to be done.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def examine(release: Release) -> list[Check]:
    """Look at everything a release needs of this device; its own files come first."""
    manifest = release.manifest
    checks = [
        files(release),
        memory(Path("/proc/meminfo").read_text(), manifest.memory_bytes),
        disk(shutil.disk_usage(release.folder).free, manifest.installed_size),
    ]
    if manifest.kit is not None:
        checks += [
            machine(os.uname().machine, manifest.kit),
            hardware(Target(Path("/")).board, manifest),
            c_library(os.confstr("CS_GNU_LIBC_VERSION") or "none", manifest.kit),
        ]
        if manifest.kit.cuda is not None:
            tegra = Path("/etc/nv_tegra_release")
            checks += [
                jetpack(tegra.read_text() if tegra.is_file() else None, manifest.kit.cuda),
                libraries(manifest.kit.cuda.libraries, manifest.kit.cuda),
                gpu(*_compute_capability(), manifest.kit.cuda),
            ]
    return checks


def files(release: Release) -> Check:
    """Every byte of the release."""
    try:
        release.verify()
    except BundleError as error:
        return Check(name="release", status="fail", found=str(error), advice=error.hint)
    return Check(name="release", status="ok", found=f"whole ({release.digest[:12]})")


def memory(meminfo: str, needed: int) -> Check:
    """Memory of the machine and what is free of it.

    Args:
        meminfo: content of /proc/meminfo (man 5 proc), kB.
        needed: by the model while it is served, bytes.
    """
    total, available = parse_meminfo(meminfo)
    found = f"{available >> 20} of {total >> 20} MiB free, the model takes {needed >> 20}"
    if total < needed:
        advice = "Use a smaller model, or a profile with a smaller context_length."
        return Check(name="memory", status="fail", found=found, advice=advice)
    if available < needed:
        advice = "End other programs; if the model is being served already, all is well."
        return Check(name="memory", status="warn", found=found, advice=advice)
    return Check(name="memory", status="ok", found=found)


def disk(free: int, needed: int) -> Check:
    """Room for the next release beside this one, bytes."""
    found = f"{free >> 20} MiB free, a release takes {needed >> 20}"
    if free < needed:
        advice = "Make room before the next update: it is installed beside this release."
        return Check(name="disk", status="warn", found=found, advice=advice)
    return Check(name="disk", status="ok", found=found)


def machine(found: str, kit: KitFacts) -> Check:
    """The architecture, as `uname -m` says it."""
    return _check("architecture", found, requirements.architecture(found, kit))


def hardware(board: Sequence[str] | None, manifest: Manifest) -> Check:
    """The board, by its names in the device tree; a release that was forced onto it may run."""
    unmet = requirements.hardware(board, os.uname().machine, manifest)
    return _check("hardware", ", ".join(board or ()) or "no device tree", unmet, "warn")


def c_library(found: str, kit: KitFacts) -> Check:
    """The C library, as confstr(3) names it: `glibc 2.36`."""
    version = re.fullmatch(r"glibc (\d+\.\d+)", found)
    return _check("C library", found, requirements.c_library(version[1] if version else None, kit))


def _check(
    name: str, found: str, unmet: Unmet | None, status: Literal["warn", "fail"] = "fail"
) -> Check:
    if unmet is not None:
        return Check(name=name, status=status, found=unmet.problem, advice=unmet.hint)
    return Check(name=name, status="ok", found=found)


def jetpack(tegra_release: str | None, cuda: CudaFacts) -> Check:
    """The JetPack, from what /etc/nv_tegra_release says of Jetson Linux; None without that file."""
    if tegra_release is None:
        return Check(
            name="JetPack",
            status="warn",
            found="none: this is no Jetson board",
            advice=f"Any machine with a GPU and CUDA {cuda.version} will do.",
        )
    version = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", tegra_release)
    major = _JETPACKS.get(version[1]) if version else None
    if version is None or major is None:
        return Check(
            name="JetPack",
            status="warn",
            found=f"unknown: {tegra_release.splitlines()[0][:60]!r}",
            advice=f"JetPack {cuda.jetpack} is what this release was made for.",
        )
    found = f"{major} (Jetson Linux {version[1]}.{version[2]})"
    if int(major) < int(cuda.jetpack):
        advice = f"Install JetPack {cuda.jetpack}: this release needs its CUDA {cuda.version}."
        return Check(name="JetPack", status="fail", found=found, advice=advice)
    return Check(name="JetPack", status="ok", found=found)


def libraries(names: Iterable[str], cuda: CudaFacts) -> Check:
    """Whether the dynamic linker finds CUDA's libraries."""
    missing = [name for name in names if not _loads(name)]
    if missing:
        return Check(
            name="CUDA libraries",
            status="fail",
            found=f"cannot be loaded: {', '.join(missing)}",
            advice=f"Install CUDA {cuda.version}; on a Jetson board: JetPack {cuda.jetpack} and "
            "its package nvidia-jetpack.",
        )
    return Check(name="CUDA libraries", status="ok", found=f"CUDA {cuda.version}")


def gpu(capability: str | None, problem: str, cuda: CudaFacts) -> Check:
    """The GPU: its compute capability, or None and why there is none."""
    if capability is None:
        advice = "Check the driver: nvidia-smi, and who may use /dev/nv*."
        return Check(name="GPU", status="fail", found=problem, advice=advice)
    if not cuda.serves(capability):
        return Check(
            name="GPU",
            status="fail",
            found=f"compute capability {capability}; the runtime has code for "
            f"{', '.join(cuda.gpus)}",
            advice="Build the bundle with a profile for the CPU, such as cpu-aarch64.",
        )
    return Check(name="GPU", status="ok", found=f"compute capability {capability}")


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _compute_capability() -> tuple[str | None, str]:
    """Compute capability of the first GPU, `8.7`, or None and the reason."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, "no driver: libcuda.so.1 cannot be loaded"
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    for status in (
        driver.cuInit(0),
        driver.cuDeviceGet(ctypes.byref(device), 0),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device),
    ):
        if status != 0:
            return None, f"the driver finds none (error {status})"
    return f"{major.value}.{minor.value}", ""
