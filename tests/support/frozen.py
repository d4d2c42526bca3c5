"""What is inside a frozen program."""

import zipfile
from pathlib import Path

from PyInstaller.archive.readers import CArchiveReader

from packager.kit.contents import PROGRAM


def frozen_modules(folder: Path) -> set[str]:
    """Names of the Python modules in a kit: the frozen ones and the standard library's."""
    archive = CArchiveReader(str(folder / PROGRAM))
    modules = set(archive.open_embedded_archive("PYZ.pyz").toc)
    with zipfile.ZipFile(folder / "_internal" / "base_library.zip") as library:
        names = [Path(name) for name in library.namelist()]
    return modules | {
        ".".join(name.parent.parts if name.stem == "__init__" else name.with_suffix("").parts)
        for name in names
    }
