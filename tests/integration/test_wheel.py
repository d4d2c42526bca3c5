"""The wheel, installed where nothing else is: what a user of `pip install edgepack` meets."""

import os
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import msgspec
import pytest

import device_runtime
from packager import kit
from packager.kit.collection import DESCRIPTION, Description
from tests.support.dependencies import closure, required
from tests.support.fakes import ROOT

pytestmark = pytest.mark.slow

HOST = f"linux-{os.uname().machine}-cpu"


class Installed:
    """An environment with the wheel in it and the packages that it declares, no others."""

    def __init__(self, folder: Path) -> None:
        self._bin = folder / "venv" / "bin"
        self._cache = folder / "cache"
        self._cache.mkdir()
        venv.create(folder / "venv", symlinks=True)
        (site,) = folder.glob("venv/lib/python*/site-packages")
        _link(metadata.distribution("pip"), site)  # as `python -m venv` puts it there
        self.run("python", "-m", "pip", "install", "--no-deps", "--no-index", _wheel(folder))
        (info,) = metadata.distributions(name="edgepack", path=[str(site)])
        for name in closure(required(info.requires or ())):
            _link(metadata.distribution(name), site)

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run a program of the environment far from the checkout; returns what it printed."""
        variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        done = subprocess.run(
            [self._bin / program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=self._cache,
            env={**variables, "COLUMNS": "200", "EDGEPACK_CACHE": str(self._cache)},
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def kit(self) -> Description:
        """The description of the one kit in the environment's cache."""
        (path,) = self._cache.glob(f"kit/*/{DESCRIPTION}")
        return msgspec.json.decode(path.read_bytes(), type=Description)


def _wheel(folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        check=True,
        cwd=ROOT,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _link(distribution: metadata.Distribution, site: Path) -> None:
    """Make the files of an installed package appear in another environment's packages."""
    for file in distribution.files or ():
        if ".." not in file.parts:
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(str(file.locate()))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("wheel"))


def test_the_plain_package_is_the_tool_of_the_host(installed: Installed) -> None:
    assert "raspberry-pi" in installed.run("edgepack", "profiles")
    assert "smollm2-135m" in installed.run("edgepack", "models")
    assert "int4" in installed.run("edgepack", "recipes")
    assert "no kits yet" in installed.run("edgepack", "kit", "list")
    assert f"kit {HOST}" in installed.run("edgepack", "doctor")
    assert device_runtime.__version__ in installed.run("edgepack-runtime", "--version")


def test_a_kit_of_the_wheel_is_the_kit_of_the_checkout(installed: Installed) -> None:
    installed.run("edgepack", "kit", "build", HOST)
    assert installed.kit() == kit.ensure(HOST).description
