"""The platforms that a kit can be built for: data."""

from dataclasses import dataclass, replace

import device_runtime
from device_runtime.processor import GPU_LIBRARY


@dataclass(frozen=True, kw_only=True)
class Cross:
    """The ingredients of a foreign root file system of the platform.

    Attributes:
        debian: Debian's name of the architecture.
        suite: Debian release; its C library is the oldest that the kit runs with.
        python: minor version of that release's Python.
        wheel_tags: platform tags of compatible wheels, newest first.
        emulator: name of qemu's program and of its registration with the kernel.
    """

    debian: str
    suite: str
    python: str
    wheel_tags: tuple[str, ...]
    emulator: str


@dataclass(frozen=True, kw_only=True)
class Cuda:
    """Support for NVIDIA GPUs in a kit.

    Attributes:
        libraries: libraries that ONNX Runtime loads when a session uses the GPU, below
            site-packages. CUDA's own libraries are the device's: they match its driver.
    """

    libraries: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A platform, which has one kit.

    Attributes:
        name: name of platform and kit, for instance `linux-aarch64-cpu`.
        machine: architecture as `uname -m` reports it.
        engine: names of the ONNX Runtime packages for the platform.
        cuda: support for NVIDIA GPUs; None without.
        webgpu: ONNX Runtime's plug-in for all GPUs with a Vulkan driver, below site-packages; None
            without. Such a kit computes on the CPU as well.
        cross: cross-build on another architecture; None if edgepack cannot do that.
    """

    name: str
    machine: str
    engine: tuple[str, ...]
    cuda: Cuda | None = None
    webgpu: str | None = None
    cross: Cross | None = None

    @property
    def opened_libraries(self) -> tuple[str, ...]:
        """Libraries below site-packages that are opened at run time: nothing is linked to them."""
        cuda = self.cuda.libraries if self.cuda else ()
        return cuda if self.webgpu is None else (*cuda, self.webgpu)

    @property
    def package(self) -> str:
        """Name of the package that has the kit."""
        return f"edgepack-kit-{self.name}"

    @property
    def requirement(self) -> str:
        """The package with the kit for this version of edgepack, as pip takes it."""
        return f"{self.package}=={device_runtime.__version__}"


_CPU_ENGINE = ("onnxruntime", "onnxruntime-genai")
_WEBGPU_ENGINE = (*_CPU_ENGINE, "onnxruntime-ep-webgpu")

_BOOKWORM_ARM64 = Cross(
    debian="arm64",
    suite="bookworm",
    python="3.11",
    wheel_tags=(
        "manylinux_2_31_aarch64",
        "manylinux_2_28_aarch64",
        "manylinux_2_27_aarch64",
        "manylinux_2_17_aarch64",
        "manylinux2014_aarch64",
    ),
    emulator="qemu-aarch64",
)

PLATFORMS = {
    platform.name: platform
    for platform in (
        Platform(
            name="linux-x86_64-cpu",
            machine="x86_64",
            engine=_CPU_ENGINE,
        ),
        Platform(
            name="linux-x86_64-webgpu",
            machine="x86_64",
            engine=_WEBGPU_ENGINE,
            webgpu=GPU_LIBRARY,
        ),
        Platform(
            name="linux-aarch64-cpu",
            machine="aarch64",
            engine=_CPU_ENGINE,
            cross=_BOOKWORM_ARM64,
        ),
        Platform(
            name="linux-aarch64-webgpu",
            machine="aarch64",
            engine=_WEBGPU_ENGINE,
            webgpu=GPU_LIBRARY,
            cross=_BOOKWORM_ARM64,
        ),
        Platform(
            name="linux-aarch64-cuda",
            machine="aarch64",
            engine=("onnxruntime-gpu", "onnxruntime-genai-cuda"),
            cuda=Cuda(
                libraries=(
                    "onnxruntime/capi/libonnxruntime_providers_shared.so",
                    "onnxruntime/capi/libonnxruntime_providers_cuda.so",
                    "onnxruntime_genai/libonnxruntime-genai-cuda.so",
                ),
            ),
            cross=replace(
                _BOOKWORM_ARM64,
                wheel_tags=("manylinux_2_34_aarch64", *_BOOKWORM_ARM64.wheel_tags),
            ),
        ),
    )
}
