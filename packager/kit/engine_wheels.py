"""The user's own builds of ONNX Runtime and ONNX Runtime GenAI, checked before a kit is frozen.

A kit takes the libraries of ONNX Runtime's wheel, which depend on no Python, and all of ONNX
Runtime GenAI's, whose module is for one version of Python.
"""

import os
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from packaging.metadata import parse_email
from packaging.requirements import Requirement
from packaging.tags import Tag, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from device_runtime.bundle.kit_facts import CudaFacts, WheelFacts
from device_runtime.update.target import ELF_MACHINES
from packager import cache, console
from packager.errors import CommandError, KitError
from packager.kit import cuda
from packager.kit.freeze import Environment
from packager.kit.platforms import Cuda, Platform
from packager.run import run

_RUNTIME, _GENAI = "onnxruntime", "onnxruntime_genai"
_TITLES = {_RUNTIME: "ONNX Runtime", _GENAI: "ONNX Runtime GenAI"}

_LIBRARIES = {
    _RUNTIME: r"onnxruntime/capi/libonnxruntime\.so\.[\d.]+",
    _GENAI: r"onnxruntime_genai/libonnxruntime-genai\.so",
}


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel file.

    Attributes:
        path: the file.
        name: normalized name of its distribution.
        version: version of its distribution.
        tags: the Pythons and platforms that it is for.
        members: names of the files in it.
        index: address of the package index that it is from; empty if it is from a folder.
    """

    path: Path
    name: str
    version: Version
    tags: frozenset[Tag]
    members: tuple[str, ...]
    index: str

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"

    @property
    def platforms(self) -> set[str]:
        """The platforms of the tags, `linux_aarch64`."""
        return {tag.platform for tag in self.tags}

    def read(self, member: str, limit: int = -1) -> bytes:
        """Read a file in the wheel, up to a number of bytes."""
        with zipfile.ZipFile(self.path) as archive, archive.open(member) as file:
            return file.read(limit)

    def facts(self) -> WheelFacts:
        """Return the wheel's entry in the manifest; reads all of it."""
        return WheelFacts(
            name=self.name,
            version=str(self.version),
            file=self.path.name,
            sha256=cache.file_digest(self.path),
            index=self.index,
        )


def fetch(index_url: str, target: Platform, options: Sequence[str], folder: Path) -> str:
    """Download the newest wheels of a package index that are for the platform.

    Args:
        index_url: address of the index (PEP 503); may contain credentials.
        target: platform of the kit.
        options: pip's options that select the platform; empty for this machine's own.
        folder: folder for the wheels.

    Returns:
        The address without credentials.

    Raises:
        KitError: the index cannot be reached, or has no wheels that fit.
    """
    _cuda_support(target)
    parts = urlsplit(index_url)
    address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
    local = ("--platform", f"linux_{target.machine}") if options else ()
    what = f"Fetching {' and '.join(target.engine)} from {address}"
    try:
        with console.step(what):
            run(
                [
                    *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check"),
                    *("--no-deps", "--only-binary=:all:", "--dest", folder),
                    *(*options, *local, *target.engine),
                ],
                what=what,
                # In the arguments, other users of this machine would see the credentials.
                env={**os.environ, "PIP_INDEX_URL": index_url, "PIP_EXTRA_INDEX_URL": ""},
            )
    except CommandError as error:
        log = re.sub(r"://[^/@\s]*@", "://", error.log).replace(f"?{parts.query}", "")
        raise KitError(
            f"the wheels cannot be fetched from {address}\n{log}",
            hint="Download them in another way, and pass their folder with --wheels.",
        ) from None
    return address


def check(folder: Path, target: Platform, python: str, index: str = "") -> tuple[Wheel, Wheel]:
    """Check the wheels in a folder: of both programs, for the platform, and made for each other.

    Other wheels in the folder are not looked at.

    Args:
        folder: folder with the wheels.
        target: platform of the kit.
        python: minor version of the Python to freeze.
        index: address of the package index that they are from; empty for none.

    Returns:
        The wheels of ONNX Runtime and of ONNX Runtime GenAI.

    Raises:
        KitError: the wheels, or the kit, are not fit for it; the message says why.
    """
    support = _cuda_support(target)
    wheels = [_open(path, index) for path in sorted(folder.glob("*.whl"))]
    runtime, genai = (_only(name, wheels, folder) for name in (_RUNTIME, _GENAI))
    for name, wheel in ((_RUNTIME, runtime), (_GENAI, genai)):
        _check_libraries(wheel, name, support)
        _check_machine(wheel, target.machine)
    _check_python(genai, python)
    _check_versions(runtime, genai)
    needs = _gpu_needs((runtime, genai), support)
    console.note(
        f"{runtime.title} and {genai.title} for CUDA {needs.version}, with code for GPUs of "
        f"compute capability {', '.join(needs.gpus)}"
    )
    return runtime, genai


def check_loads(environment: Environment, python: str) -> None:
    """Load ONNX Runtime GenAI where the kit is frozen.

    Args:
        environment: environment with the kit's packages.
        python: minor version of its Python.

    Raises:
        KitError: it does not load, or crashes; for instance, it needs a newer C library.
    """
    try:
        environment.run(
            [environment.python, "-c", "import onnxruntime_genai"],
            environment.variables(python),
            "Loading ONNX Runtime GenAI",
        )
    except CommandError as error:
        reason = (error.log.strip() or str(error)).splitlines()[-1]
        raise KitError(
            f"the wheels do not load where the kit is frozen: {reason}",
            hint="Freeze the kit on the board, or build the wheels on an older system "
            "(docs/jetson.md).",
        ) from None


def _cuda_support(target: Platform) -> Cuda:
    """Return the GPU support of a platform; without it, its kit takes no wheels of the user's."""
    if target.cuda is None:
        raise KitError(
            f"the kit {target.name} takes the packages that edgepack pins alone",
            hint="A kit with CUDA, such as linux-aarch64-cuda, takes wheels of your own.",
        )
    return target.cuda


def _gpu_needs(wheels: Sequence[Wheel], support: Cuda) -> CudaFacts:
    by_member = {member: wheel for wheel in wheels for member in wheel.members}
    return cuda.facts(by_member[name].read(name) for name in support.libraries)


def _open(path: Path, index: str) -> Wheel:
    try:
        name, version, _, tags = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            members = tuple(archive.namelist())
    except InvalidWheelFilename as error:
        raise KitError(f"{path} is not a wheel: {error}", hint="Keep its original name.") from None
    except zipfile.BadZipFile as error:
        raise KitError(
            f"{path} is damaged: {error}", hint="Copy it again from where it was built."
        ) from None
    return Wheel(path=path, name=name, version=version, tags=tags, members=members, index=index)


def _only(package: str, wheels: Sequence[Wheel], folder: Path) -> Wheel:
    fitting = [wheel for wheel in wheels if f"{package}/__init__.py" in wheel.members]
    if len(fitting) != 1:
        files = ", ".join(wheel.path.name for wheel in fitting) or "none"
        raise KitError(
            f"{folder} must have one wheel of {_TITLES[package]}; it has {files}",
            hint="Put the two wheels for the board into a folder of their own.",
        )
    return fitting[0]


def _check_libraries(wheel: Wheel, package: str, support: Cuda) -> None:
    own = [name for name in wheel.members if re.fullmatch(_LIBRARIES[package], name)]
    missing = [name for name in support.libraries if name.startswith(f"{package}/")]
    missing = [name for name in missing if name not in wheel.members]
    if len(own) != 1:
        missing.append(f"one library {_LIBRARIES[package]}".replace("\\", ""))
    if missing:
        raise KitError(
            f"{wheel.path.name} lacks {', '.join(missing)}",
            hint="Build ONNX Runtime with --build_shared_lib --build_wheel --use_cuda, and "
            "ONNX Runtime GenAI with --use_cuda.",
        )


def _check_machine(wheel: Wheel, machine: str) -> None:
    hint = f"Use wheels for {machine}."
    if not any(name.endswith(f"_{machine}") for name in wheel.platforms):
        raise KitError(
            f"{wheel.path.name} is for {', '.join(sorted(wheel.platforms))}; the kit is for "
            f"{machine}",
            hint=hint,
        )
    for member in wheel.members:
        if re.search(r"\.so(\.[\d.]+)?$", member):
            header = wheel.read(member, 20)
            its = ELF_MACHINES.get(int.from_bytes(header[18:20], "little"), "another")
            if header[:4] != b"\x7fELF" or its != machine:
                raise KitError(
                    f"{member} in {wheel.path.name} is not a library for {machine}", hint=hint
                )


def _check_python(wheel: Wheel, python: str) -> None:
    major, minor = map(int, python.split("."))
    fitting = cpython_tags((major, minor), platforms=sorted(wheel.platforms))
    if wheel.tags.isdisjoint(fitting):
        pythons = ", ".join(sorted({f"{tag.interpreter}-{tag.abi}" for tag in wheel.tags}))
        raise KitError(
            f"{wheel.path.name} is for {pythons}; this kit is frozen with Python {python}",
            hint=f"Build it with Python {python}, or freeze the kit on a board whose edgepack runs "
            "in the wheel's Python (docs/jetson.md).",
        )


def _check_versions(runtime: Wheel, genai: Wheel) -> None:
    for requirement in _requirements(genai):
        if not requirement.specifier.contains(runtime.version, prereleases=True):
            raise KitError(
                f"{genai.title} needs {requirement.name}{requirement.specifier}; "
                f"the other wheel is {runtime.title}",
                hint="Use wheels that were built for each other.",
            )
    for line in metadata.requires("edgepack") or ():
        needed = Requirement(line)
        if needed.name == "onnxruntime-genai" and not needed.specifier.contains(
            genai.version, prereleases=True
        ):
            raise KitError(
                f"the runtime needs ONNX Runtime GenAI {needed.specifier}; the wheel is "
                f"{genai.title}",
                hint="Use a newer version of it.",
            )


def _requirements(genai: Wheel) -> Iterator[Requirement]:
    """Yield what the wheel of ONNX Runtime GenAI says of ONNX Runtime."""
    (member,) = (name for name in genai.members if name.endswith(".dist-info/METADATA"))
    raw, _ = parse_email(genai.read(member))
    for line in raw.get("requires_dist", ()):
        requirement = Requirement(line)
        if requirement.name.startswith("onnxruntime"):
            yield requirement
