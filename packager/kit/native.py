"""Build a kit on its own platform: this machine's."""

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
    """Return the minor version of the Python to freeze."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def origin(target: Platform) -> dict[str, str]:
    """Return this machine's inputs of the kit, beside edgepack's own."""
    return {"python": platform.python_version(), "machine": platform.machine()}


def wheel_options(target: Platform) -> list[str]:
    """Return pip's options for the platform's wheels: none, since this is the platform."""
    return []


def check(target: Platform) -> None:
    """Check that this machine has the tools for freezing.

    Raises:
        KitError: the tools that inspect libraries are missing.
    """
    missing = [tool for tool in ("objdump", "strip") if shutil.which(tool) is None]
    if missing:
        raise KitError(
            f"freezing the runtime needs {' and '.join(missing)}",
            hint="Run: apt-get install binutils",
        )


@contextmanager
def environment(target: Platform, work: Path, wheels: Path) -> Iterator[Environment]:
    """Provide this machine, with a Python that sees none of the host's packages.

    Raises:
        KitError: the tools that inspect libraries are missing.
    """
    check(target)
    clean = work / "venv"
    venv.create(clean, symlinks=True)

    def run_here(argv: Sequence[str], variables: Mapping[str, str], what: str) -> str:
        return run(argv, what=what, env=variables, cwd=work)

    yield Environment(
        python=str(clean / "bin" / "python"),
        work=str(work),
        wheels=str(wheels),
        root=Path("/"),
        run=run_here,
    )
