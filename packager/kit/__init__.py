"""Kits: the frozen runtime, one for each platform.

A kit is built once for each version of the runtime's source (`ensure`), or transferred from another
machine as a file (`export`, `import_`).
"""

from packager.kit.archive import export, import_
from packager.kit.collection import Kit, check, ensure, installed, is_there
from packager.kit.cuda import warn
from packager.kit.platforms import PLATFORMS, Platform
from packager.sbom import Package

__all__ = [
    "PLATFORMS",
    "Kit",
    "Package",
    "Platform",
    "check",
    "ensure",
    "export",
    "import_",
    "installed",
    "is_there",
    "warn",
]
