"""Checks of a GPU: by CUDA, whose libraries must be there, or by its Vulkan driver."""

import ctypes
import re
from collections.abc import Iterable
from pathlib import Path

from device_runtime.bundle.kit_facts import CudaFacts
from device_runtime.doctor.check import Check
from device_runtime.vulkan import Gpus

# JetPack versions by the major version of Jetson Linux (L4T) that they are based on.
_JETPACKS = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7", "39": "7"}

# CUdevice_attribute in CUDA's driver API.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76

_RENDER_NODES = "/dev/dri/renderD*"


def cuda(facts: CudaFacts) -> list[Check]:
    """Check everything that a runtime with CUDA needs of this device."""
    tegra = Path("/etc/nv_tegra_release")
    return [
        jetpack(tegra.read_text() if tegra.is_file() else None, facts),
        libraries(facts.libraries, facts),
        gpu(*_compute_capability(), facts),
    ]


def vulkan(listed: Gpus) -> Check:
    """Check for a GPU with a Vulkan driver; only warn, since the CPU takes its place."""
    real = [gpu.name for gpu in listed.gpus if not gpu.software]
    if real:
        return Check(name="GPU", status="ok", found=", ".join(real))
    names = ", ".join(gpu.name for gpu in listed.gpus)
    return Check(
        name="GPU",
        status="warn",
        found=listed.problem or f"{names} computes on the CPU",
        advice="The CPU is used. For the GPU, install the Vulkan loader (libvulkan1) and the GPU's "
        f"Vulkan driver, and check the permissions of {_RENDER_NODES}.",
    )


def jetpack(tegra_release: str | None, cuda: CudaFacts) -> Check:
    """Check the JetPack, from the content of /etc/nv_tegra_release; None without that file."""
    if tegra_release is None:
        return Check(
            name="JetPack",
            status="warn",
            found="none: this is not a Jetson board",
            advice=f"Any machine with a GPU and CUDA {cuda.version} can run this release.",
        )
    version = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", tegra_release)
    major = _JETPACKS.get(version[1]) if version else None
    if version is None or major is None:
        return Check(
            name="JetPack",
            status="warn",
            found=f"unknown: {tegra_release.splitlines()[0][:60]!r}",
            advice=f"This release was built for JetPack {cuda.jetpack}.",
        )
    state = f"{major} (Jetson Linux {version[1]}.{version[2]})"
    if int(major) < int(cuda.jetpack):
        advice = f"Install JetPack {cuda.jetpack}: this release needs its CUDA {cuda.version}."
        return Check(name="JetPack", status="fail", found=state, advice=advice)
    return Check(name="JetPack", status="ok", found=state)


def libraries(names: Iterable[str], cuda: CudaFacts) -> Check:
    """Check that the dynamic linker finds CUDA's libraries."""
    missing = [name for name in names if not _loads(name)]
    if missing:
        return Check(
            name="CUDA libraries",
            status="fail",
            found=f"cannot be loaded: {', '.join(missing)}",
            advice=f"Install CUDA {cuda.version}; on a Jetson board, JetPack {cuda.jetpack} and "
            "its package nvidia-jetpack.",
        )
    return Check(name="CUDA libraries", status="ok", found=f"CUDA {cuda.version}")


def gpu(capability: str | None, problem: str, cuda: CudaFacts) -> Check:
    """Check the GPU's compute capability; None with the problem if there is no usable GPU."""
    if capability is None:
        advice = "Check the driver with nvidia-smi, and the permissions of /dev/nv*."
        return Check(name="GPU", status="fail", found=problem, advice=advice)
    if not cuda.serves(capability):
        return Check(
            name="GPU",
            status="fail",
            found=f"compute capability {capability}; the runtime has code for "
            f"{', '.join(cuda.gpus)}",
            advice="Build the bundle with a CPU profile, such as cpu-aarch64.",
        )
    return Check(name="GPU", status="ok", found=f"compute capability {capability}")


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _compute_capability() -> tuple[str | None, str]:
    """Return the compute capability of the first GPU, `8.7`, or None and the reason."""
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
            return None, f"the driver finds no GPU (error {status})"
    return f"{major.value}.{minor.value}", ""
