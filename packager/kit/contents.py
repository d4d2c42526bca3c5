"""Contents of a frozen kit: its distributions, and the C library that it needs."""

import re
from importlib import metadata
from pathlib import Path

from device_runtime.processor import CPP_LIBRARY

PROGRAM = "edgepack-runtime"
FREEZER_PACKAGES = ("altgraph", "packaging", "pyinstaller", "pyinstaller-hooks-contrib")


def frozen_distributions(site: Path) -> list[metadata.Distribution]:
    """List the distributions with code in a kit; PyInstaller's is its bootloader."""
    absent = {*FREEZER_PACKAGES} - {"pyinstaller"}
    distributions = metadata.distributions(path=[str(site)])
    return [package for package in distributions if normal(package.name) not in absent]


def min_glibc(frozen: Path) -> str:
    """Find the oldest C library with which every program and library in a folder runs, `2.36`.

    An ELF file lists the symbol versions it needs as zero-terminated strings in `.dynstr`
    (LSB Core, "Symbol Versioning"); only a C library itself would also define such names.

    Two libraries do not count: of the C++ library, the runtime takes the system's if it is not
    older; and without expat, only the editor of the terminal chat is missing.
    """
    newest = 17  # the manylinux floor: arm64 has no older one
    for path in sorted(frozen.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.name in (CPP_LIBRARY, "libexpat.so.1"):
            continue
        data = path.read_bytes()
        if data.startswith(b"\x7fELF"):
            minor_versions = re.findall(rb"\0GLIBC_2\.(\d{1,3})(?:\.\d+)?(?=\0)", data)
            newest = max(newest, *map(int, minor_versions), 0)
    return f"2.{newest}"


def normal(name: str) -> str:
    """Normalize a package's name as the index does (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
