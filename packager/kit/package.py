"""Kits as packages: a wheel `edgepack-kit-NAME` for every host, since it is data to each.

The wheel (PEP 427) has the compressed kit as one file, since wheels hold no links, and its kit.json
beside that, so that a kit that does not fit is not even unpacked.
"""

import base64
import hashlib
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import msgspec

import device_runtime
from packager import cache, console
from packager.aside import written_aside
from packager.errors import KitError
from packager.kit import archive
from packager.kit.collection import DESCRIPTION, IMPORTED, Description, Kit, load
from packager.kit.platforms import PLATFORMS, Platform
from packager.units import megabytes

LIMIT = 100_000_000
"""Longest file that package indexes take by default, bytes."""

_SUMMARY = "The frozen runtime of edgepack for {0}, to build bundles with on any machine."


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A kit in an installed package.

    Attributes:
        name: name of the package.
        version: its version, that of the edgepack that it is for.
        folder: folder of the package's files.
        description: contents of kit.json.
    """

    name: str
    version: str
    folder: Path
    description: Description

    @property
    def title(self) -> str:
        """Name and version of the package."""
        return f"{self.name} {self.version}"

    def unpacked(self) -> Kit:
        """Return the kit in the cache, where it is imported at its first use.

        Raises:
            KitError: the package is damaged.
        """
        place = cache.place(IMPORTED, archive.key(self.description))
        if place.is_dir():
            return load(place, imported=True)
        with console.step(f"Unpacking {self.title}"):
            return archive.import_(self.folder / archive.COMPRESSED)


def find(target: Platform) -> Packaged | None:
    """Return the installed package of a platform's kit; None without one.

    Raises:
        KitError: the package is damaged.
    """
    name = target.package
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    folder = Path(str(distribution.locate_file(_folder(target))))
    try:
        encoded = (folder / DESCRIPTION).read_bytes()
        description = msgspec.json.decode(encoded, type=Description)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KitError(
            f"the package {name} {distribution.version} is damaged: {error}",
            hint=f"Install it again: pip install --force-reinstall --no-deps {name}",
        ) from None
    return Packaged(name=name, version=distribution.version, folder=folder, description=description)


def installed() -> list[Packaged]:
    """List the kits in installed packages.

    Raises:
        KitError: a package is damaged.
    """
    return [packaged for target in PLATFORMS.values() if (packaged := find(target)) is not None]


def write(kit: Kit, folder: Path) -> Path:
    """Write the wheel of a kit; the same kit gives the same bytes.

    Args:
        kit: a kit that fits this edgepack.
        folder: folder for the wheel, created if missing.

    Raises:
        ResourceError: the wheel cannot be written.
    """
    target = PLATFORMS[kit.facts.name]
    version = device_runtime.__version__
    escaped = re.sub(r"[-_.]+", "_", target.package)
    path = folder / f"{escaped}-{version}-py3-none-any.whl"
    inside, info = _folder(target), f"{escaped}-{version}.dist-info"
    hint = "Free some space there, or choose another folder with --output."
    with (
        console.step(f"Packaging {target.name}"),
        written_aside(path, hint) as file,
        zipfile.ZipFile(file, "w") as wheel,
    ):
        record = [
            _member(wheel, f"{inside}/{DESCRIPTION}", _text(_description(kit))),
            _member(wheel, f"{inside}/{archive.COMPRESSED}", lambda f: archive.compress(kit, f)),
            _member(wheel, f"{info}/METADATA", _text(_metadata(target, version))),
            _member(wheel, f"{info}/WHEEL", _text(_wheel(version))),
        ]
        lines = [*record, f"{info}/RECORD,,"]
        _member(wheel, f"{info}/RECORD", _text("\n".join(lines) + "\n"))
    if path.stat().st_size > LIMIT:
        console.warn(
            f"{path.name} has {megabytes(path.stat().st_size)}; an index takes no more than "
            f"{megabytes(LIMIT)} unless asked. pip also installs it as a file, and edgepack kit "
            "push has no such limit"
        )
    return path


def _folder(target: Platform) -> str:
    return f"edgepack_kits/{target.name.replace('-', '_')}"


def _description(kit: Kit) -> str:
    return (kit.folder.parent / DESCRIPTION).read_text(encoding="utf-8")


def _metadata(target: Platform, version: str) -> str:
    return (
        "Metadata-Version: 2.1\n"
        f"Name: {target.package}\n"
        f"Version: {version}\n"
        f"Summary: {_SUMMARY.format(target.name)}\n"
        f"Requires-Dist: edgepack=={version}\n"
        "\n"
        f"{DESCRIPTION} lists the packages in the runtime and their licences, whose texts are in "
        f"it.\n"
    )


def _wheel(version: str) -> str:
    return (
        "Wheel-Version: 1.0\n"
        f"Generator: edgepack {version}\n"
        "Root-Is-Purelib: true\n"
        "Tag: py3-none-any\n"
    )


def _text(text: str) -> Callable[[IO[bytes]], Any]:
    return lambda file: file.write(text.encode())


class _Hashed:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0
        self._file = file

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self._file.write(data)


def _member(wheel: zipfile.ZipFile, name: str, write: Callable[[Any], Any]) -> str:
    """Write a file of the wheel, without time and owner; return its line of RECORD."""
    about = zipfile.ZipInfo(name)  # of 1980
    about.create_system = 3  # Unix, on every system
    about.external_attr = 0o100644 << 16
    with wheel.open(about, "w") as file:
        hashed = _Hashed(file)
        write(hashed)
    digest = base64.urlsafe_b64encode(hashed.sha256.digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{hashed.size}"
