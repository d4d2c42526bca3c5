"""The platforms a kit can be made for: data."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Cross:
    """What a foreign root file system of the platform is made of.

    Attributes:
        debian: Debian's name of the architecture.
        suite: the Debian release; its C library is the oldest one the kit starts with.
        python: minor version of that release's Python.
        wheel_tags: platform tags of the wheels that run there, newest first.
        emulator: name of qemu's program and of its registration with the kernel.
    """

    debian: str
    suite: str
    python: str
    wheel_tags: tuple[str, ...]
    emulator: str


@dataclass(frozen=True, kw_only=True)
class Cuda:
    """What makes a kit one for NVIDIA GPUs.

    Attributes:
        libraries: what ONNX Runtime opens by itself when it is asked for the GPU, below
            site-packages. CUDA's own libraries are the device's: they fit its driver.
        jetpack: oldest JetPack that has the CUDA they are built for.
    """

    libraries: tuple[str, ...]
    jetpack: str


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A platform: one kit each.

    Attributes:
        name: for instance `linux-aarch64-cpu`.
        machine: architecture as `uname -m` says it.
        engine: the packages of ONNX Runtime for it.
        cuda: what it takes to use a GPU; None if it uses none.
        cross: how to make the kit on a machine of another architecture; None if edgepack cannot.
    """

    name: str
    machine: str
    engine: tuple[str, ...]
    cuda: Cuda | None = None
    cross: Cross | None = None


_BOOKWORM_ARM64 = Cross(
    debian="arm64",
    suite="bookworm",
    python="3.11",
    wheel_tags=(
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
            engine=("onnxruntime", "onnxruntime-genai"),
        ),
        Platform(
            name="linux-aarch64-cpu",
            machine="aarch64",
            engine=("onnxruntime", "onnxruntime-genai"),
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
                jetpack="7",
            ),
            cross=replace(
                _BOOKWORM_ARM64,
                wheel_tags=("manylinux_2_34_aarch64", *_BOOKWORM_ARM64.wheel_tags),
            ),
        ),
    )
}
