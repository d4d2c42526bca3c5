"""The wheels, installed where nothing else is: what a user of `pip install edgepack` meets."""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import msgspec
import pytest

import device_runtime
from packager import kit
from packager.kit import archive
from packager.kit.collection import DESCRIPTION, Description
from tests.support.commands import edgepack_quickly
from tests.support.dependencies import closure, required
from tests.support.fakes import ROOT

pytestmark = pytest.mark.slow

HOST = f"linux-{os.uname().machine}-cpu"

QUICKLY = "import sys; from packager import bundle, cli; bundle.LEVEL = 1; sys.exit(cli.main())"
"""The program `edgepack`, but it compresses a kit in three seconds instead of sixty."""


class Installed:
    """An environment with the wheel in it and the packages that it declares, no others."""

    def __init__(self, folder: Path) -> None:
        self._bin = folder / "venv" / "bin"
        self._cache = folder / "cache"
        self._cache.mkdir()
        venv.create(folder / "venv", symlinks=True)
        (site,) = folder.glob("venv/lib/python*/site-packages")
        _link(metadata.distribution("pip"), site)  # as `python -m venv` puts it there
        self.install(_wheel(folder))
        (info,) = metadata.distributions(name="edgepack", path=[str(site)])
        for name in closure(required(info.requires or ())):
            _link(metadata.distribution(name), site)

    def install(self, wheel: Path) -> None:
        """Install a wheel without the packages that it needs."""
        self.run("python", "-m", "pip", "install", "--no-deps", "--no-index", wheel)

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run a program of the environment far from the checkout; returns what it printed."""
        return self._run([self._bin / program, *arguments], {"EDGEPACK_CACHE": str(self._cache)})

    def run_bare(self, home: Path, program: str, *arguments: str | Path) -> str:
        """The same as an ordinary user with an empty home, who finds no other program."""
        user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
        variables = {"HOME": str(home), "PATH": str(self._bin)}
        return self._run([*user, self._bin / program, *arguments], variables)

    def _run(self, command: Sequence[str | Path], variables: Mapping[str, str]) -> str:
        own = ("PYTHON", "EDGEPACK", "XDG")
        others = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        program, *arguments = map(str, command)
        done = subprocess.run(
            [shutil.which(program) or program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=self._cache,
            env={**others, "COLUMNS": "200", **variables},
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


@pytest.mark.requires("root", "mmdebstrap", "qemu-aarch64-static")
def test_bundle_for_a_pi_is_built_without_root_and_tools(
    installed: Installed, tiny_hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--profile", "raspberry-pi", "--recipe", "int4-rtn", "--allow-quality-loss")
    build = ("build", *options, "--model", tiny_hf, "--no-sign", "--json", "-o")
    whole = edgepack_quickly(*build, tmp_path / "whole.epk")
    assert whole.status == 0, whole.err
    monkeypatch.setattr(archive, "LEVEL", 3)  # half a minute less, and 8 MB more
    wheel = kit.write_package(kit.ensure("linux-aarch64-cpu"), tmp_path)
    assert wheel.stat().st_size < 100_000_000
    installed.install(wheel)
    (tmp_path / "home").mkdir()
    installed.run_bare(tmp_path / "home", "python", "-c", QUICKLY, *build, tmp_path / "bare.epk")
    bare, expected = (tmp_path / name for name in ("bare.epk", "whole.epk"))
    assert bare.read_bytes() == expected.read_bytes()
    assert json.loads(whole.out)["manifest"]["kit"]["name"] == "linux-aarch64-cpu"
