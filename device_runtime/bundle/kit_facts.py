"""The part of a manifest that describes the frozen runtime, and what it needs of the device."""

from typing import Annotated

from msgspec import Meta

from device_runtime.bundle import fields
from device_runtime.bundle.fields import Line, Sha256
from device_runtime.bundle.quantization import Struct


class CudaFacts(Struct, frozen=True, kw_only=True):
    """Requirements of a runtime for NVIDIA GPUs that the device must meet: not in the bundle.

    Attributes:
        version: major version of CUDA, `13`.
        jetpack: oldest JetPack (the system of Jetson boards) with that CUDA version, `7`.
        libraries: sonames that the dynamic linker must find, `libcudart.so.13`.
        gpus: compute capabilities that the runtime has machine code for: `8.9`, and `9.0+` for
            9.0 and all later ones.
    """

    version: fields.Number
    jetpack: fields.Number
    libraries: Annotated[tuple[fields.Library, ...], Meta(max_length=256)]
    gpus: Annotated[tuple[fields.Gpu, ...], Meta(max_length=64)]

    def serves(self, gpu: str) -> bool:
        """Return whether the runtime has code for a GPU of that compute capability, `8.7`.

        Machine code is for one capability. Later ones of the same generation can run it on
        discrete GPUs, never on the GPU of a Jetson.
        """
        return any(
            float(gpu) >= float(target[:-1]) if target.endswith("+") else gpu == target
            for target in self.gpus
        )


class WheelFacts(Struct, frozen=True, kw_only=True):
    """A wheel of the user's own that a runtime was frozen from.

    Attributes:
        name: normalized name of the distribution.
        version: exact version of it.
        file: name of the file.
        sha256: digest of the file.
        index: address of the package index, without credentials; empty for a file of a folder.
    """

    name: fields.Id
    version: Line
    file: Line
    sha256: Sha256
    index: Line = ""

    @property
    def origin(self) -> str:
        """The file, with its index if it has one."""
        return f"{self.index.rstrip('/')}/{self.file}" if self.index else self.file


class KitFacts(Struct, frozen=True, kw_only=True):
    """The frozen runtime in a bundle.

    Attributes:
        name: name of the kit, for instance `linux-aarch64-cpu`.
        machine: architecture as `uname -m` reports it.
        digest: digest of the kit's files: their names, modes, links and contents.
        min_glibc: oldest version of the C library that it runs with, `2.36`.
        cuda: requirements for its GPU; None if it uses no GPU.
        cpu: features that its libraries need of the processor, as /proc/cpuinfo names them.
        wheels: wheels that the user gave for it, in place of edgepack's pinned packages.
    """

    name: fields.Name
    machine: fields.Machine
    digest: Sha256
    min_glibc: fields.LibcVersion
    cuda: CudaFacts | None = None
    cpu: Annotated[tuple[fields.CpuFeature, ...], Meta(max_length=256)] = ()
    wheels: Annotated[tuple[WheelFacts, ...], Meta(max_length=16)] = ()
