"""What source code imports, and what the packages that it comes from need in turn."""

import ast
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from packager.kit.contents import normal

OWN = {"packager", "device_runtime"}


def imported(folder: Path) -> set[str]:
    """Packages that the modules below a folder import, at their top or inside a function."""
    modules = {
        name.partition(".")[0]
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        for name in _names(node)
    }
    providers = metadata.packages_distributions()
    return {
        normal(distribution)
        for module in modules - OWN - sys.stdlib_module_names
        for distribution in providers[module]
    }


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        yield node.module


def closure(names: Iterable[str], *, leaves: Iterable[str] = ()) -> set[str]:
    """Packages, what they need here, what that needs, and so on.

    Args:
        names: where to start.
        leaves: packages whose own needs are not followed.
    """
    needed: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        needed.add(name)
        if name not in leaves:
            waiting |= required(metadata.requires(name) or ()) - needed
    return needed


def required(lines: Iterable[str], extra: str = "") -> set[str]:
    """Names of the requirements that hold here: those of an extra too, if one is given."""
    requirements = [Requirement(line) for line in lines]
    return {
        normal(requirement.name)
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
    }
