"""The steps that every kit goes through, on this machine or in a foreign root file system.

Wheels are fetched on the host (pip can do so for another architecture); PyInstaller runs where
the programs of the platform run, which an `Environment` describes. The same inputs give the
same bytes: no clock, no hash seed and no path of the host gets into the result.
"""

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import device_runtime
from packager import cache, console
from packager.errors import KitError
from packager.kit.contents import FREEZER_PACKAGES, PROGRAM, frozen_distributions, normal
from packager.kit.platforms import Cuda
from packager.run import run
from packager.shipped import shipped

SOURCE = Path(device_runtime.__file__).parent

RECIPE = 2
"""Raised when the steps here change in a way that changes a kit."""

_EXCLUDED = (
    # What a mistake in the runtime's imports must not drag in.
    "torch", "transformers", "onnx", "onnx_ir", "packager", "pip", "setuptools",
    # What the runtime's packages mention but do not need there. readline is GPL, too.
    "zstandard._cffi", "zstandard.backend_cffi", "numpy.f2py", "numpy.testing", "readline",
    "tkinter", "test", "unittest", "pydoc", "doctest", "pdb", "curses", "sqlite3", "lib2to3",
    "xmlrpc", "ensurepip",
)  # fmt: skip

PATH = {"PATH": "/usr/bin:/usr/sbin:/bin:/sbin"}


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where the programs of a platform run.

    Attributes:
        python: the interpreter; it must see no packages but those given to it.
        work: the work folder as programs there see it.
        wheels: the folder made by `wheels` as programs there see it.
        run: runs a program there: argv, environment variables, what is being done.
    """

    python: str
    work: str
    wheels: str
    run: Callable[[Sequence[str], Mapping[str, str], str], str]


def device_packages() -> list[str]:
    """Names of the packages that device_runtime needs, directly or not: edgepack's extra `device`.

    Read from the metadata of the installed edgepack, since a wheel has no pyproject.toml.

    Raises:
        KitError: edgepack is not installed, or in a version that has no such list.
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
            hint="Install edgepack again, in a checkout with scripts/setup.sh.",
        )
    return names


def constraints() -> dict[str, str]:
    """The exact versions of constraints.txt, by normal names of the packages."""
    lines = shipped("constraints.txt").read_text().split()
    return {normal(name): version for name, _, version in (x.partition("==") for x in lines)}


def pins(engine: Sequence[str]) -> dict[str, str]:
    """The exact versions that go into a kit or freeze it, from constraints.txt.

    Args:
        engine: the packages of ONNX Runtime for the platform.

    Raises:
        KitError: edgepack is not installed as it should be.
    """
    known = constraints()
    names = sorted((*device_packages(), *engine, *FREEZER_PACKAGES), key=normal)
    return {normal(name): known[normal(name)] for name in names}


def source_digest(folder: Path = SOURCE) -> str:
    """Digest of the device runtime's source, or of a copy of it."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    return cache.key({str(path.relative_to(folder)): cache.file_digest(path) for path in files})


def check_pip() -> None:
    """Refuse to go on without pip.

    Raises:
        KitError: it is missing.
    """
    if importlib.util.find_spec("pip") is None:
        raise KitError(
            "pip is missing in edgepack's own environment, and a kit's packages come through it",
            hint=f"Run: {sys.executable} -m ensurepip",
        )


def wheels(versions: Mapping[str, str], python: str, options: Sequence[str]) -> Path:
    """A folder, cached, in which the packages are installed for a Python and a platform.

    It is laid out as a user base (PEP 370), since PyInstaller keeps the folders of libraries
    only below a site-packages folder that Python knows of.

    Args:
        versions: exact version of each package.
        python: minor version of the Python that will import them, `3.11`.
        options: pip's options that choose the platform; none for this machine's own.

    Raises:
        KitError: pip is missing.
        CommandError: pip failed.
    """
    check_pip()
    wanted = [f"{name}=={version}" for name, version in versions.items()]
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PIP_USER")}

    def make(folder: Path) -> None:
        target = site_packages(folder, python)
        with console.step("Fetching the runtime's packages"):
            run(
                [
                    *(sys.executable, "-m", "pip", "install", "--disable-pip-version-check"),
                    *("--no-deps", "--no-compile", "--only-binary=:all:", "--target", target),
                    *(*options, *wanted),
                ],
                what="Fetching the runtime's packages",
                env=env,
            )

    inputs = {
        "wanted": wanted,
        "python": python,
        "options": list(options),
        "on": os.uname().machine,
    }
    return cache.stage("wheels", inputs, make)


def site_packages(user_base: Path, python: str) -> Path:
    """Where Python looks for packages below a user base."""
    return user_base / "lib" / f"python{python}" / "site-packages"


def freeze(
    environment: Environment,
    work: Path,
    wheels: Path,
    *,
    python: str,
    source: str,
    cuda: Cuda | None = None,
) -> Path:
    """Freeze the device runtime, check that it starts; returns PyInstaller's folder.

    Args:
        environment: where to do so; sees the two folders.
        work: an empty folder.
        wheels: what `wheels` made.
        python: minor version of the environment's Python.
        source: digest of the runtime's source that is wanted.
        cuda: what it takes to use a GPU, if it is to use one.

    Raises:
        CommandError: PyInstaller failed, or the program does not start.
        KitError: the source has changed, or the program says another version than it has.
    """
    copy = work / "src" / "device_runtime"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    if source_digest(copy) != source:
        raise KitError(
            "the runtime's source was changed while the kit was made",
            hint="Run the same command again.",
        )
    site = site_packages(wheels, python)
    (library,) = site.glob("onnxruntime/capi/libonnxruntime.so.*")
    site_there = f"{environment.wheels}/{site.relative_to(wheels)}"
    there = environment.work
    variables = {
        **PATH,
        "HOME": there,
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": f"{there}/src:{site_there}",
        "PYTHONUSERBASE": environment.wheels,
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SOURCE_DATE_EPOCH": "315532800",  # 1980, the oldest time a zip file can hold
    }
    with console.step("Freezing the runtime"):
        environment.run(
            [
                *(environment.python, "-m", "PyInstaller", "--onedir", "--log-level", "WARN"),
                *("--name", PROGRAM, "--specpath", there),
                *("--distpath", f"{there}/dist", "--workpath", f"{there}/build"),
                *("--collect-submodules", "device_runtime", "--collect-data", "device_runtime"),
                *("--hidden-import", "numpy"),  # only onnxruntime_genai's C++ imports it
                # onnxruntime_genai loads ONNX Runtime from its package's folder, and imports
                # nothing of it: the library and a file that makes the folder a package will do.
                *("--add-binary", f"{site_there}/onnxruntime/capi/{library.name}:onnxruntime/capi"),
                *("--add-data", f"{site_there}/onnxruntime/__init__.py:onnxruntime"),
                *(part for name in _EXCLUDED for part in ("--exclude-module", name)),
                f"{there}/src/device_runtime/__main__.py",
            ],
            variables,
            "Freezing the runtime",
        )
        frozen = work / "dist" / PROGRAM
        _strip(environment, work, frozen)
        _add_libraries(site, frozen, cuda.libraries if cuda else ())
        _copy_licenses(site, frozen)
        _normalize(frozen)
    said = environment.run(
        [f"{there}/dist/{PROGRAM}/{PROGRAM}", "--version"],
        PATH,
        "Starting the frozen runtime",
    )
    if device_runtime.__version__ not in said:
        raise KitError(f"the frozen runtime says {said.strip()!r} when asked for its version")
    return frozen


def _add_libraries(site: Path, frozen: Path, names: Sequence[str]) -> None:
    """Add libraries that other libraries open by themselves; names are relative to the site.

    Not through PyInstaller: where CUDA is installed, that would take all of it along. But as
    PyInstaller does, with a link at the top: ONNX Runtime GenAI is opened through such a link, and
    looks for its parts beside it.
    """
    for name in names:
        shutil.copyfile(site / name, frozen / "_internal" / name)
        (frozen / "_internal" / Path(name).name).symlink_to(name)


def _strip(environment: Environment, work: Path, frozen: Path) -> None:
    """Drop debug information: a third of the size. numpy's libraries do not survive it."""
    libraries = sorted(
        path
        for path in frozen.rglob("*.so*")
        if not path.is_symlink() and not path.relative_to(frozen).parts[1].startswith("numpy")
    )
    there = [f"{environment.work}/{path.relative_to(work)}" for path in libraries]
    environment.run(["strip", "--strip-debug", *there], PATH, "Stripping the runtime")


def _copy_licenses(site: Path, frozen: Path) -> None:
    """Put the licence texts of what is frozen beside it, as most of the licences demand."""
    for distribution in frozen_distributions(site):
        for file in distribution.files or ():
            if re.match(r"(LICEN[CS]E|COPYING|NOTICE|ThirdPartyNotices)", file.name, re.I):
                folder = frozen / "_internal" / "licenses" / normal(distribution.name)
                target = folder.joinpath(*file.parts[1:])
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target)


def _normalize(frozen: Path) -> None:
    """Give files one of the two modes that a bundle knows."""
    for path in frozen.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
