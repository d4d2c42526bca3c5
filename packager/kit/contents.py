"""Contents of a frozen kit: its packages, and the C library that it needs."""

import re
from importlib import metadata
from pathlib import Path

import msgspec

PROGRAM = "edgepack-runtime"
FREEZER_PACKAGES = ("altgraph", "packaging", "pyinstaller", "pyinstaller-hooks-contrib")

_SPDX = {
    "MIT License": "MIT",
    # An ambiguous classifier; of the frozen packages only prompt_toolkit has it.
    "BSD License": "BSD-3-Clause",
    "GPLv2-or-later with a special exception which allows to use PyInstaller to build and "
    "distribute non-free programs (including commercial ones)": "GPL-2.0-or-later WITH "
    "Bootloader-exception",
}


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A package whose code is in a kit.

    Attributes:
        name: normalized name of the package.
        version: exact version of the package.
        license: SPDX expression from the package's metadata; empty if it has none.
    """

    name: str
    version: str
    license: str


def packages(site: Path, python: str) -> tuple[Package, ...]:
    """List the contents of a kit: Python, PyInstaller's bootloader, and the packages."""
    frozen = [Package(name="python", version=python, license="PSF-2.0")]
    for distribution in frozen_distributions(site):
        frozen.append(
            Package(
                name=normal(distribution.name),
                version=distribution.version,
                license=_license(distribution.metadata),
            )
        )
    return tuple(sorted(frozen, key=lambda package: package.name))


def _license(facts: metadata.PackageMetadata) -> str:
    """Read the licence from the metadata, else from its classifiers; empty if neither has one."""
    names = [facts[key] for key in ("License-Expression", "License") if key in facts]
    classifiers = facts.get_all("Classifier") or ()
    names += [text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License ::")]
    return _SPDX.get(names[0], names[0]) if names else ""


def frozen_distributions(site: Path) -> list[metadata.Distribution]:
    """List the distributions with code in a kit; PyInstaller's is its bootloader."""
    absent = {*FREEZER_PACKAGES} - {"pyinstaller"}
    distributions = metadata.distributions(path=[str(site)])
    return [package for package in distributions if normal(package.name) not in absent]


def min_glibc(frozen: Path) -> str:
    """Find the oldest C library with which every program and library in a folder runs, `2.36`.

    An ELF file lists the symbol versions it needs as zero-terminated strings in `.dynstr`
    (LSB Core, "Symbol Versioning"); only a C library itself would also define such names.
    """
    newest = 17  # the manylinux floor: arm64 has no older one
    for path in sorted(frozen.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        if data.startswith(b"\x7fELF"):
            minor_versions = re.findall(rb"\0GLIBC_2\.(\d{1,3})(?:\.\d+)?(?=\0)", data)
            newest = max(newest, *map(int, minor_versions), 0)
    return f"2.{newest}"


def normal(name: str) -> str:
    """Normalize a package's name as the index does (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
