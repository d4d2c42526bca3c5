"""What a frozen kit consists of: packages, and the C library it needs."""

import re
from importlib import metadata
from pathlib import Path

import msgspec

PROGRAM = "edgepack-runtime"
FREEZER_PACKAGES = ("altgraph", "packaging", "pyinstaller", "pyinstaller-hooks-contrib")

_SPDX = {
    "MIT License": "MIT",
    # A classifier that does not tell which; of what is frozen only prompt_toolkit has it.
    "BSD License": "BSD-3-Clause",
    "GPLv2-or-later with a special exception which allows to use PyInstaller to build and "
    "distribute non-free programs (including commercial ones)": "GPL-2.0-or-later WITH "
    "Bootloader-exception",
}


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A package whose code is in a kit.

    Attributes:
        license: SPDX expression as its metadata has it.
    """

    name: str
    version: str
    license: str


def packages(site: Path, python: str) -> tuple[Package, ...]:
    """What a kit consists of: Python, PyInstaller's loader, and the packages."""
    found = [Package(name="python", version=python, license="PSF-2.0")]
    for distribution in frozen_distributions(site):
        found.append(
            Package(
                name=normal(distribution.name),
                version=distribution.version,
                license=_license(distribution.metadata),
            )
        )
    return tuple(sorted(found, key=lambda package: package.name))


def _license(facts: metadata.PackageMetadata) -> str:
    """As the metadata has it, else as its classifiers say; empty if neither tells."""
    said = [facts[key] for key in ("License-Expression", "License") if key in facts]
    classifiers = facts.get_all("Classifier") or ()
    said += [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License ::")]
    return _SPDX.get(said[0], said[0]) if said else ""


def frozen_distributions(site: Path) -> list[metadata.Distribution]:
    """The distributions of which something is in a kit; of PyInstaller, that is its loader."""
    absent = {*FREEZER_PACKAGES} - {"pyinstaller"}
    found = metadata.distributions(path=[str(site)])
    return [each for each in found if normal(each.name) not in absent]


def min_glibc(frozen: Path) -> str:
    """The oldest C library that every program and library in a folder starts with, `2.36`.

    An ELF file names the symbol versions it needs as zero-terminated strings in `.dynstr`
    (LSB Core, "Symbol Versioning"); only a C library itself would also define such names.
    """
    newest = 17  # the manylinux floor: arm64 has no older one
    for path in sorted(frozen.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        if data.startswith(b"\x7fELF"):
            found = re.findall(rb"\0GLIBC_2\.(\d{1,3})(?:\.\d+)?(?=\0)", data)
            newest = max(newest, *map(int, found), 0)
    return f"2.{newest}"


def normal(name: str) -> str:
    """A package's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
