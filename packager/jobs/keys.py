"""Cache keys for the results of jobs: the jobs as data, and the code that runs them.

The result of a job depends on its fields, on the contents of the files they name, on the modules of
this project that its own module imports, directly or indirectly, and on the packages that these
import. The imports are read from the sources: no list has to be maintained, nothing is imported.
"""

import ast
import functools
import importlib.metadata
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from packager import cache
from packager.jobs.job import Job

ROOT = Path(__file__).resolve().parents[2]
"""The folder that contains the project's packages: a checkout, or site-packages."""
PROJECT = ("packager", "device_runtime")

_BEHIND = {
    "onnxruntime_genai": ("onnxruntime",),
    "transformers": ("accelerate", "gguf", "safetensors", "tokenizers"),
}
"""Packages that others use without an import that is visible here: the model builder's and those
that read model files."""

_STAGE = re.compile(r"[a-z-]+/[0-9a-f]{64}(/.*)?")


def inputs(
    *jobs: Job[Any],
    content: Mapping[Path, str] | None = None,
    modules: Iterable[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """Collect the inputs of a stage for `cache.stage`.

    Args:
        jobs: all jobs that the stage runs.
        content: digests of the files and folders that the jobs' fields name, or of a folder above
            them. Stages of the cache need no digest: their names are digests.
        modules: names of other modules of this project that affect the result.
        more: everything else the result depends on, JSON-able.

    Raises:
        ValueError: a job names a file without a digest.
    """
    code, packages = sources([*(type(job).__module__ for job in jobs), *modules])
    digests = content or {}
    return {
        "jobs": [
            [type(job).__qualname__, msgspec.to_builtins(job, enc_hook=_by_content(digests))]
            for job in jobs
        ],
        "code": code,
        "packages": packages,
        **more,
    }


def sources(modules: Iterable[str], root: Path = ROOT) -> tuple[dict[str, str], dict[str, str]]:
    """Find all code that some modules depend on.

    Args:
        modules: full names of the modules.
        root: the folder that contains the project's packages.

    Returns:
        Digests of these modules and of all modules of this project that they import, and versions
        of the other packages imported there.
    """
    digests: dict[str, str] = {}
    packages: set[str] = set()
    pending = set(modules)
    while pending:
        module = pending.pop()
        path = _file(module, root)
        assert path is not None, f"no such module: {module}"
        digests[module] = cache.file_digest(path)
        for name in _imports(path.read_bytes(), module, path.name == "__init__.py"):
            top = name.partition(".")[0]
            if top not in PROJECT:
                packages.add(top)
            # The last part of `from module import name` is a module or a name inside one.
            elif (imported := _module(name, root)) not in digests:
                pending.add(imported)
    packages -= sys.stdlib_module_names
    packages |= {name for package in packages for name in _BEHIND.get(package, ())}
    return digests, {name: _version(name) for name in sorted(packages)}


def _by_content(content: Mapping[Path, str]) -> Callable[[Any], str]:
    """Make an encoder of paths: the digest of the content, and the path below it."""

    def encode(path: Any) -> str:
        assert isinstance(path, Path)
        around = [known for known in content if path.is_relative_to(known)]
        if around:
            # A folder with a digest may lie inside another whose digest does not cover it.
            known = max(around, key=lambda folder: len(folder.parts))
            return f"{content[known]}/{path.relative_to(known)}"
        if path.is_relative_to(cache.root()):
            place = path.relative_to(cache.root()).as_posix()
            if _STAGE.fullmatch(place):
                return place
        raise ValueError(f"the content of {path} is not part of the key")

    return encode


@functools.cache  # each module is part of several stages
def _imports(source: bytes, module: str, is_package: bool) -> frozenset[str]:
    """Return the names of everything a module imports at run time, inside functions too.

    The packages that contain a module are not included: they hold only a docstring, and the
    version, which would invalidate the cache at every release.
    """
    package = module.split(".") if is_package else module.split(".")[:-1]
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and _for_types_only(node.test):
            pending += node.orelse
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
        else:
            pending += ast.iter_child_nodes(node)
    return frozenset(names)


def _for_types_only(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def _module(name: str, root: Path) -> str:
    """Return the module that an imported name denotes or belongs to."""
    return name if _file(name, root) else name.rpartition(".")[0]


def _file(module: str, root: Path) -> Path | None:
    place = root.joinpath(*module.split("."))
    for path in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


@functools.cache
def _version(package: str) -> str:
    """Look up the version of an imported package, without its local build suffix."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # The distribution has another name, as GPU builds do.
        names = importlib.metadata.packages_distributions().get(package, [])
        version = " ".join(importlib.metadata.version(name) for name in sorted(set(names)))
    return version.partition("+")[0]
