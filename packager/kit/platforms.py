"""The platforms a kit can be made for: data."""

from dataclasses import dataclass


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
class Platform:
    """A platform: one kit each.

    Attributes:
        name: for instance `linux-aarch64-cpu`.
        machine: architecture as `uname -m` says it.
        engine: the packages of ONNX Runtime for it.
        cross: how to make the kit on a machine of another architecture; None if edgepack cannot.
    """

    name: str
    machine: str
    engine: tuple[str, ...]
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
    )
}
