"""Kits: the frozen runtime, one for each platform.

`ensure` finds the kit of a platform for this version of edgepack; `choose` has the ways in their
order. A kit is frozen once for each version of the runtime's source, or comes from another machine:
as a file (`export`, `import_`) or as an installed package (`write_package`).
"""

from packager.kit.archive import COMPRESSED, compress, export, import_
from packager.kit.choose import ensure, is_there
from packager.kit.collection import Kit, check, installed, with_wheels
from packager.kit.cuda import check_gpu
from packager.kit.package import Packaged
from packager.kit.package import installed as packaged
from packager.kit.package import write as write_package
from packager.kit.platforms import PLATFORMS, Platform
from packager.sbom import Package

__all__ = [
    "COMPRESSED",
    "PLATFORMS",
    "Kit",
    "Package",
    "Packaged",
    "Platform",
    "check",
    "check_gpu",
    "compress",
    "ensure",
    "export",
    "import_",
    "installed",
    "is_there",
    "packaged",
    "with_wheels",
    "write_package",
]
