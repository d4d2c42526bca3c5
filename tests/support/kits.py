"""A small kit for tests, with a program that does nothing."""

import platform
import zipfile
from pathlib import Path

import msgspec
import pytest

from device_runtime.bundle.kit_facts import KitFacts, WheelFacts
from packager import cache, kit, tree
from packager.kit import collection, rootfs
from packager.kit.collection import Description

NAME = "linux-aarch64-cpu"


def put(
    root: Path,
    *,
    recipe: str | None = None,
    edgepack: str = "0.1.0",
    own: tuple[WheelFacts, ...] = (),
) -> Path:
    """A kit in a cache as a machine of another architecture leaves it that froze it."""
    chosen = collection.recipe(kit.PLATFORMS[NAME], own)
    inputs = {"recipe": chosen, "origin": rootfs.origin(kit.PLATFORMS[NAME])}
    folder = root / "kit" / cache.key(inputs)
    libraries = folder / "runtime" / "_internal"
    libraries.mkdir(parents=True)
    (folder / "runtime" / "edgepack-runtime").write_bytes(b"\x7fELF program")
    (folder / "runtime" / "edgepack-runtime").chmod(0o755)
    (libraries / "lib").mkdir()
    (libraries / "lib" / "a.so.1").write_bytes(b"library")
    (libraries / "a.so").symlink_to("lib/a.so.1")
    content = tree.read(folder / "runtime")
    digest = collection.contents_digest(content)
    description = Description(
        facts=KitFacts(name=NAME, machine="aarch64", digest=digest, min_glibc="2.36", wheels=own),
        recipe=recipe or cache.key(chosen),
        python="3.11.2",
        edgepack=edgepack,
        packages=(kit.Package(name="click", version="8", license="BSD-3-Clause"),),
        links=dict(content.links),
        programs=tuple(content.programs),
    )
    (folder / "kit.json").write_bytes(msgspec.json.encode(description))
    return folder


def stored(root: Path, *, recipe: str | None = None, edgepack: str = "0.1.0") -> kit.Kit:
    """The same, as `kit.ensure` returns it."""
    return collection.load(put(root, recipe=recipe, edgepack=edgepack), imported=False)


def install(wheel: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a wheel for this process."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(site)


def cannot_freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine be one of another architecture without any tool."""
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setenv("PATH", "/nonexistent")
