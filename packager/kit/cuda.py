"""Requirements of a kit for NVIDIA GPUs, read from the kit's own libraries."""

import re
import struct
from collections.abc import Iterable, Iterator

from device_runtime.bundle.kit_facts import CudaFacts, KitFacts
from packager import console
from packager.errors import KitError

_NVIDIA = re.compile(
    r"lib(cuda|cudart|cublas|cublasLt|curand|cufft|cudnn|nvrtc)\.so\.(\d+)(\.\d+)?"
)

# JetPack, the system of Jetson boards, by the major version of its CUDA; and its C library.
_JETPACKS = {"12": "6", "13": "7"}
_C_LIBRARIES = {"6": (2, 35), "7": (2, 39)}

# Compute capabilities of integrated GPUs, by the chip's name in a device tree.
_GPUS = {"nvidia,tegra234": "8.7", "nvidia,tegra264": "11.0"}


def check_gpu(kit: KitFacts, compatible: Iterable[str]) -> None:
    """Warn if a device is known to have a GPU that the kit has no code for.

    Raises:
        KitError: the user gave the wheels for the kit, so others can be given.
    """
    if kit.cuda is None:
        return
    for chip in compatible:
        capability = _GPUS.get(chip)
        if capability is None or kit.cuda.serves(capability):
            continue
        lack = (
            f"the GPU of {chip} has compute capability {capability}, but the ONNX Runtime in "
            f"the kit {kit.name} has code for {', '.join(kit.cuda.gpus)} only"
        )
        if kit.wheels:
            architecture = capability.replace(".", "")
            raise KitError(
                lack,
                hint=f"Build both wheels with CMAKE_CUDA_ARCHITECTURES={architecture}, then run "
                f"edgepack kit build {kit.name} --wheels FOLDER again.",
            )
        console.warn(
            f"{lack}: the model will not run there. Wheels that were built for this GPU can be "
            "given: docs/jetson.md"
        )


def warn_of_c_library(kit: KitFacts) -> None:
    """Warn if the kit needs a newer C library than the JetPack with its CUDA has."""
    if kit.cuda is None:
        return
    major, minor = _C_LIBRARIES[kit.cuda.jetpack]
    if tuple(map(int, kit.min_glibc.split("."))) > (major, minor):
        console.warn(
            f"the kit needs glibc {kit.min_glibc}, JetPack {kit.cuda.jetpack} has {major}.{minor}: "
            "it does not start there. Freeze it on the board: docs/jetson.md"
        )


def facts(libraries: Iterable[bytes]) -> CudaFacts:
    """Read the dependencies of the GPU libraries, and the GPUs that they have machine code for.

    Libraries opened only for some operators (cuDNN for convolutions, NVRTC) are not included:
    language models do not need them.

    Args:
        libraries: contents of the libraries.

    Raises:
        KitError: the libraries do not depend on one version of CUDA's runtime, or have no code for
            the same GPU.
    """
    needed: set[str] = set()
    code: set[str] | None = None
    for data in libraries:
        needed |= {library for library in needed_libraries(data) if _NVIDIA.fullmatch(library)}
        targets = set(gpus(data))
        # A GPU must be supported by each library that has any code for GPUs.
        if targets:
            code = targets if code is None else _common(code, targets)
    versions = {x.split(".")[2] for x in needed if x.startswith("libcudart.")}
    if len(versions) != 1 or not versions <= _JETPACKS.keys():
        raise KitError(
            f"the GPU libraries are for CUDA {' and '.join(sorted(versions)) or '(none)'}",
            hint=f"Use builds of ONNX Runtime and ONNX Runtime GenAI for the same CUDA: "
            f"{' or '.join(_JETPACKS)}.",
        )
    if not code:
        raise KitError(
            "the GPU libraries have no code for the same GPU",
            hint="Build ONNX Runtime and ONNX Runtime GenAI for the same CMAKE_CUDA_ARCHITECTURES.",
        )
    (version,) = versions
    return CudaFacts(
        version=version,
        jetpack=_JETPACKS[version],
        libraries=tuple(sorted(needed)),
        gpus=tuple(sorted(code, key=lambda capability: float(capability.rstrip("+")))),
    )


def _common(first: set[str], second: set[str]) -> set[str]:
    """Return the targets that both sets serve: PTX also serves the capabilities after its own."""

    def served(target: str, targets: set[str]) -> bool:
        oldest = float(target.rstrip("+"))
        return target in targets or any(
            float(other[:-1]) <= oldest for other in targets if other.endswith("+")
        )

    return {t for t in first | second if served(t, first) and served(t, second)}


def needed_libraries(data: bytes) -> list[str]:
    """List the libraries that a 64-bit little-endian ELF file is linked to.

    From its dynamic section (System V ABI, "Dynamic Section"): each DT_NEEDED (1) entry is an
    offset into the string table, whose address is the entry DT_STRTAB (5).
    """
    table, entry_size, entries = struct.unpack_from("<Q14xHH", data, 32)
    loaded: list[tuple[int, int, int]] = []
    dynamic: list[tuple[int, int]] = []
    for number in range(entries):
        kind, _, offset, address, _, size = struct.unpack_from(
            "<IIQQQQ", data, table + number * entry_size
        )
        if kind == 1:  # PT_LOAD
            loaded.append((address, offset, size))
        elif kind == 2:  # PT_DYNAMIC
            dynamic = list(struct.iter_unpack("<QQ", data[offset : offset + size // 16 * 16]))
    strings = next((value for tag, value in dynamic if tag == 5), 0)
    start = next(
        (
            strings - address + offset
            for address, offset, size in loaded
            if address <= strings < address + size
        ),
        0,
    )
    names = [start + value for tag, value in dynamic if tag == 1]
    return [data[name : data.index(b"\0", name)].decode() for name in names]


def gpus(data: bytes) -> Iterator[str]:
    """Yield the compute capabilities that a library has code for: `8.9`; `9.0+` for PTX.

    CUDA's compiler stores the code in "fat binaries": a header with magic number, version, length
    of the header and of all that follows, then entries, each with its kind (1 for the portable PTX,
    2 for machine code), the length of its own header, of its content, and at byte 28 the
    capability in tenths. The layout is not documented; the result agrees with NVIDIA's cuobjdump.
    """
    for match in re.finditer(re.escape(struct.pack("<IHH", 0xBA55ED50, 1, 16)), data):
        position = match.end() + 8
        end = position + struct.unpack_from("<Q", data, match.end())[0]
        while position + 32 <= min(end, len(data)):
            kind, header, content = struct.unpack_from("<H2xIQ", data, position)
            if kind in (1, 2):
                tenths = struct.unpack_from("<I", data, position + 28)[0]
                yield f"{tenths // 10}.{tenths % 10}" + ("+" if kind == 1 else "")
            position += header + content
            if header == 0:
                break
