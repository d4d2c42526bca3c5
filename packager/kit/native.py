"""Freezes a kit for the machine edgepack runs on."""

import os
import platform
import shutil
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from packager.errors import KitError
from packager.kit.freeze import Environment
from packager.kit.platforms import Platform
from packager.run import run


def python(target: Platform) -> str:
    """Minor version of the Python that gets frozen."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def origin(target: Platform) -> dict[str, str]:
    """What of this machine gets into the kit, beside what edgepack chooses."""
    return {"python": platform.python_version(), "machine": os.uname().machine}


def wheel_options(target: Platform) -> list[str]:
    """pip's options for the platform's wheels: none, they are its own."""
    return []


def check(target: Platform) -> None:
    """Refuse what this machine lacks the tools for.

    Raises:
        KitError: the tools that look into libraries are missing.
    """
    missing = [tool for tool in ("objdump", "strip") if shutil.which(tool) is None]
    if missing:
        raise KitError(
            f"freezing the runtime needs {' and '.join(missing)}",
            hint="Run: apt-get install binutils",
        )


@contextmanager
def environment(target: Platform, work: Path, wheels: Path) -> Iterator[Environment]:
    """This machine, with a Python that sees none of the host's packages.

    Raises:
        KitError: this machine lacks something for it.
    """
    check(target)
    clean = work / "venv"
    venv.create(clean, symlinks=True)

    def run_here(argv: Sequence[str], variables: Mapping[str, str], what: str) -> str:
        return run(argv, what=what, env=variables, cwd=work)

    yield Environment(
        python=str(clean / "bin" / "python"), work=str(work), wheels=str(wheels), run=run_here
    )
