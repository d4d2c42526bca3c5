"""The build steps of every kit, on this machine or in a foreign root file system.

Wheels are downloaded on the host (pip can do so for another architecture); PyInstaller runs where
the programs of the platform run, which an `Environment` describes. The same inputs give the
same bytes: no clock, hash seed or path of the host affects the result.
"""

import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import device_runtime
from device_runtime.bundle.kit_facts import WheelFacts
from packager import cache, console
from packager.errors import KitError
from packager.kit import blas, components, lock
from packager.kit.contents import FREEZER_PACKAGES, PROGRAM, normal
from packager.run import run
from packager.sbom import Package

SOURCE = Path(device_runtime.__file__).parent

RECIPE = 9
"""Version of the steps: incremented when a change of the steps changes a kit."""

_EXCLUDED = (
    # Host packages, so that a wrong import in the runtime cannot pull them in.
    "torch", "transformers", "onnx", "onnx_ir", "packager", "pip", "setuptools",
    # Optional imports that the runtime does not need. readline is GPL as well.
    "zstandard._cffi", "zstandard.backend_cffi", "numpy.f2py", "numpy.testing", "readline",
    "tkinter", "test", "unittest", "pydoc", "doctest", "pdb", "curses", "lib2to3",
    "xmlrpc", "ensurepip", "_pydecimal", "wcwidth._wcwidth_c",
    "numpy.polynomial", "numpy.matlib", "numpy.ctypeslib", "numpy._core._multiarray_tests",
)  # fmt: skip

_PILLOW = {
    "__init__", "ExifTags", "GimpGradientFile", "GimpPaletteFile", "Image", "ImageChops",
    "ImageColor", "ImageFile", "ImageMode", "ImagePalette", "ImageSequence", "JpegImagePlugin",
    "JpegPresets", "PaletteFile", "PngImagePlugin", "TiffTags", "WebPImagePlugin", "_binary",
    "_deprecate", "_imaging", "_util", "_version", "_webp",
}  # fmt: skip
"""Modules of Pillow that decode JPEG, PNG and WebP. PyInstaller would take all, and with them the
libraries for AVIF, fonts and colour management: more code for a hostile file, and 10 MB."""

_GENAI = "onnxruntime_genai"
_REPORT = "report.json"
"""pip's report beside the installed wheels; it has their digests."""

_REFUSED = (
    "pip takes only files with the hashes in edgepack's lock. Check the network, and where pip "
    "looks for packages: pip config list"
)

PATH = {"PATH": "/usr/bin:/usr/sbin:/bin:/sbin"}


@dataclass(frozen=True, kw_only=True)
class Environment:
    """An environment that runs the programs of a platform.

    Attributes:
        python: path of the interpreter; it must see no packages but those passed to it.
        work: path of the work folder inside the environment.
        wheels: path of the folder from `wheels` inside the environment.
        root: the environment's root file system.
        run: runs a program in the environment: argv, environment variables, title of the step.
    """

    python: str
    work: str
    wheels: str
    root: Path
    run: Callable[[Sequence[str], Mapping[str, str], str], str]

    def variables(self, python: str) -> dict[str, str]:
        """Return environment variables with which that minor version of Python sees the wheels."""
        return {**PATH, "PYTHONPATH": str(site_packages(Path(self.wheels), python))}


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The frozen runtime.

    Attributes:
        folder: folder with the program and all it needs.
        python: version of the frozen Python.
        packages: packages that its files are of.
    """

    folder: Path
    python: str
    packages: tuple[Package, ...]


def device_packages() -> list[str]:
    """List all packages that device_runtime depends on: edgepack's extra `device`.

    Read from the metadata of the installed edgepack, since a wheel has no pyproject.toml.

    Raises:
        KitError: edgepack is not installed, or its metadata has no such extra.
    """
    try:
        lines = metadata.requires("edgepack") or []
    except metadata.PackageNotFoundError:
        lines = []
    requirements = [Requirement(line) for line in lines]
    names = [
        requirement.name
        for requirement in requirements
        if requirement.marker is not None
        and requirement.marker.evaluate({"extra": "device"})
        and not requirement.marker.evaluate({"extra": ""})
    ]
    if not names:
        raise KitError(
            "the metadata of the installed edgepack does not list the device runtime's packages",
            hint="Install edgepack again; in a checkout, run scripts/setup.sh.",
        )
    return names


def requirements(engine: Sequence[str]) -> list[str]:
    """Write the requirements of a kit's packages and of the freezer's, with versions and hashes.

    Args:
        engine: names of the ONNX Runtime packages for the platform.

    Raises:
        KitError: edgepack is not installed correctly.
    """
    return lock.requirements((*device_packages(), *engine, *FREEZER_PACKAGES))


def source_digest(folder: Path = SOURCE) -> str:
    """Compute the digest of the device runtime's source, or of a copy of it."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    return cache.key({str(path.relative_to(folder)): cache.file_digest(path) for path in files})


def check_pip() -> None:
    """Check that pip is available.

    Raises:
        KitError: pip is missing.
    """
    if importlib.util.find_spec("pip") is None:
        raise KitError(
            "pip is missing in edgepack's own environment; it installs a kit's packages",
            hint=f"Run: {sys.executable} -m ensurepip",
        )


def wheels(
    requirements: Sequence[str],
    python: str,
    options: Sequence[str],
    own: Mapping[WheelFacts, Path],
) -> Path:
    """Install packages for a Python and a platform into a folder (cached).

    The folder is laid out as a user base (PEP 370), since PyInstaller keeps the folders of
    libraries only below a site-packages folder that Python knows.

    Args:
        requirements: exact version of each package, and the hashes of its files.
        python: minor version of the Python that will import the packages, `3.11`.
        options: pip's options that select the platform; empty for this machine's own.
        own: the user's own wheels, for whatever Python.

    Raises:
        KitError: pip is missing.
        CommandError: pip failed; for instance, a file has none of the hashes.
    """
    check_pip()
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PIP_USER")}

    def make(folder: Path) -> None:
        target = site_packages(folder, python)
        what = "Fetching the runtime's packages"
        with console.step(what), tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(requirements))
            file.flush()
            command: list[str | Path] = [
                *(sys.executable, "-m", "pip", "install", "--disable-pip-version-check"),
                *("--no-deps", "--no-compile", "--only-binary=:all:", "--target", target),
                *("--require-hashes", "--requirement", file.name, *options),
                *("--report", folder / _REPORT),
            ]
            run(command, what=what, env=env, hint=_REFUSED)
        for path in own.values():
            with zipfile.ZipFile(path) as archive:
                archive.extractall(target)

    inputs = {
        "requirements": list(requirements),
        "python": python,
        "options": list(options),
        "own": [wheel.sha256 for wheel in own],
        "on": platform.machine(),
        "report": _REPORT,
    }
    return cache.stage("wheels", inputs, make)


def site_packages(user_base: Path, python: str) -> Path:
    """Return the site-packages folder below a user base."""
    return user_base / "lib" / f"python{python}" / "site-packages"


def freeze(
    environment: Environment,
    work: Path,
    wheels: Path,
    *,
    python: str,
    source: str,
    libraries: Sequence[str] = (),
    own: Sequence[WheelFacts] = (),
) -> Frozen:
    """Freeze the device runtime and check that it starts.

    Args:
        environment: environment to freeze in; it sees the two folders.
        work: an empty work folder.
        wheels: the folder from `wheels`.
        python: minor version of the environment's Python.
        source: expected digest of the runtime's source.
        libraries: libraries that are opened at run time, below site-packages.
        own: the user's own wheels among those in `wheels`.

    Raises:
        CommandError: PyInstaller failed, or the program does not start.
        KitError: the source has changed, the program reports another version than it has, or a
            file is of no known package.
    """
    copy = work / "src" / "device_runtime"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    if source_digest(copy) != source:
        raise KitError(
            "the runtime's source changed while the kit was being built",
            hint="Run the same command again.",
        )
    site = site_packages(wheels, python)
    (library,) = site.glob("onnxruntime/capi/libonnxruntime.so.*")
    site_path = f"{environment.wheels}/{site.relative_to(wheels)}"
    work_path = environment.work
    variables = {
        **PATH,
        "HOME": work_path,
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": f"{work_path}/src:{site_path}",
        "PYTHONUSERBASE": environment.wheels,
        "PYTHONHASHSEED": "0",
        # PyInstaller starts many processes of Python; each module is compiled in the first one.
        "PYTHONPYCACHEPREFIX": f"{work_path}/compiled",
        "SOURCE_DATE_EPOCH": "315532800",  # 1980, the oldest time a zip file can hold
        # Bundles and packages compress the whole better, and modules are read without unpacking.
        "PYINSTALLER_ZLIB_COMPRESSION_LEVEL": "0",
    }
    with console.step("Freezing the runtime"):
        environment.run(
            [
                *(environment.python, "-m", "PyInstaller", "--onedir", "--log-level", "WARN"),
                *("--name", PROGRAM, "--specpath", work_path),
                *("--distpath", f"{work_path}/dist", "--workpath", f"{work_path}/build"),
                *("--collect-submodules", "device_runtime", "--collect-data", "device_runtime"),
                *("--copy-metadata", "llguidance"),  # which asks for its own version
                # The runtime opens the engine's libraries in the folders of their packages, and
                # imports nothing of these: a library and its package's __init__.py are enough.
                *("--add-binary", f"{site_path}/onnxruntime/capi/{library.name}:onnxruntime/capi"),
                *("--add-data", f"{site_path}/onnxruntime/__init__.py:onnxruntime"),
                *("--add-binary", f"{site_path}/{_GENAI}/libonnxruntime-genai.so:{_GENAI}"),
                *("--add-data", f"{site_path}/{_GENAI}/__init__.py:{_GENAI}"),
                *(part for name in _excluded(site) for part in ("--exclude-module", name)),
                f"{work_path}/src/device_runtime/__main__.py",
            ],
            variables,
            "Freezing the runtime",
        )
        frozen = work / "dist" / PROGRAM
        _strip(environment, work, frozen)
        own_file = _replace_blas(environment, work, frozen)
        _add_libraries(site, frozen, libraries)
        inputs = _inputs(environment, work, wheels, site, own, own_file)
        packages = components.collect(frozen, inputs)
        _normalize(frozen)
    reported = environment.run(
        [f"{work_path}/dist/{PROGRAM}/{PROGRAM}", "--version"],
        PATH,
        "Starting the frozen runtime",
    )
    if device_runtime.__version__ not in reported:
        raise KitError(f"the frozen runtime reports {reported.strip()!r} as its version")
    return Frozen(folder=frozen, python=inputs.python, packages=packages)


def _excluded(site: Path) -> list[str]:
    """List the modules that are not frozen."""
    modules = {path.name.partition(".")[0] for path in (site / "PIL").iterdir()}
    return [*_EXCLUDED, *(f"PIL.{name}" for name in sorted(modules - _PILLOW))]


def _add_libraries(site: Path, frozen: Path, names: Sequence[str]) -> None:
    """Add libraries that other libraries load with dlopen; names are relative to the site.

    Not through PyInstaller: where CUDA is installed, it would add all of CUDA. But as PyInstaller
    does, with a link at the top: ONNX Runtime GenAI is loaded through such a link, and looks for
    its other libraries beside it.
    """
    for name in names:
        (frozen / "_internal" / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(site / name, frozen / "_internal" / name)
        (frozen / "_internal" / Path(name).name).symlink_to(name)


def _strip(environment: Environment, work: Path, frozen: Path) -> None:
    """Strip symbols, a third of the size; stripping would break numpy's libraries."""
    libraries = sorted(
        path
        for path in frozen.rglob("*.so*")
        if not path.is_symlink() and not path.relative_to(frozen).parts[1].startswith("numpy")
    )
    paths = [f"{environment.work}/{path.relative_to(work)}" for path in libraries]
    environment.run(["strip", "--strip-unneeded", *paths], PATH, "Stripping the runtime")


def _replace_blas(environment: Environment, work: Path, frozen: Path) -> str:
    """Replace NumPy's OpenBLAS; return the path of what is there now, below `_internal`."""
    internal = frozen / "_internal"
    library = blas.find(internal)
    modules = [
        f"{environment.work}/{path.relative_to(work)}"
        for path in sorted(internal.glob("numpy/**/*.so"))
    ]
    variables, what = {**PATH, "LC_ALL": "C.UTF-8"}, "Replacing OpenBLAS"
    symbols = environment.run(["nm", "-D", "--undefined-only", *modules], variables, what)
    machine = environment.run(["uname", "-m"], variables, what)
    (work / "blas.s").write_text(blas.source(symbols, machine.strip()))
    target, parts = f"{environment.work}/{library.relative_to(work)}", f"{environment.work}/blas"
    environment.run(["as", "-o", f"{parts}.o", f"{parts}.s"], variables, what)
    options = ("-shared", "--build-id=none", "-z", "noexecstack", "-soname", library.name)
    environment.run(["ld", *options, "-o", target, f"{parts}.o"], variables, what)
    for pattern in blas.NEEDED_BY_IT:
        for path in [*internal.glob(f"numpy.libs/{pattern}"), *internal.glob(pattern)]:
            path.unlink()
    return library.relative_to(internal).as_posix()


def _inputs(
    environment: Environment,
    work: Path,
    wheels: Path,
    site: Path,
    own: Sequence[WheelFacts],
    own_file: str,
) -> components.Inputs:
    """Return the sources of the kit's files, after PyInstaller has run."""
    query = (
        "import platform, sysconfig as s; print(platform.python_version(), s.get_path('stdlib'))"
    )
    answer = environment.run([environment.python, "-c", query], PATH, "Querying the Python version")
    version, _, stdlib = answer.strip().partition(" ")
    report = json.loads((wheels / _REPORT).read_text())
    return components.Inputs(
        site=site,
        wheels={
            normal(item["metadata"]["name"]): item["download_info"]["archive_info"]["hashes"][
                "sha256"
            ]
            for item in report["install"]
        }
        | {wheel.name: wheel.sha256 for wheel in own},
        own={wheel.name: wheel.origin for wheel in own},
        root=environment.root,
        python=version,
        stdlib=environment.root / stdlib.lstrip("/"),
        origins=components.origins(work / "build" / PROGRAM / "COLLECT-00.toc"),
        made=own_file,
    )


def _normalize(frozen: Path) -> None:
    """Set each file's mode to one of the two that a bundle supports."""
    for path in frozen.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
