"""The kits in the cache: described, listed, and frozen.

A kit is a folder `runtime/` with the program `edgepack-runtime` and all it needs, and `kit.json`
beside that folder.
"""

import hashlib
import platform as host
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

import device_runtime
from device_runtime.bundle.kit_facts import KitFacts, WheelFacts
from packager import cache, console
from packager.errors import CommandError, KitError
from packager.kit import contents, cpu, cuda, engine_wheels, freeze, native, rootfs
from packager.kit.engine_wheels import Wheel
from packager.kit.freeze import Environment
from packager.kit.platforms import PLATFORMS, Platform
from packager.sbom import Package
from packager.suggest import suggest
from packager.tree import Tree, read

FROZEN, IMPORTED = "kit", "kit-imported"
"""The kinds of stages of the cache that hold kits."""
RUNTIME = "runtime"
DESCRIPTION = "kit.json"


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of kit.json.

    Attributes:
        facts: the kit's entry in a bundle's manifest.
        recipe: digest of edgepack's own inputs: runtime source, packages, steps.
        python: version of the frozen Python.
        edgepack: version of the edgepack that built the kit.
        packages: packages in the kit and their files, for the SBOM.
        links: targets of the links in the folder, by name.
        programs: names of the files in the folder that can be executed.
    """

    facts: KitFacts
    recipe: str
    python: str
    edgepack: str
    packages: tuple[Package, ...]
    # A host's file system may hold neither. Kits of older versions in the cache have no lists.
    links: dict[str, str] = {}
    programs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Kit:
    """A kit in the cache.

    Attributes:
        folder: folder with the program `edgepack-runtime` and all it needs, nothing else.
        description: contents of kit.json.
        imported: True if the kit was frozen on another machine.
    """

    folder: Path
    description: Description
    imported: bool

    @property
    def facts(self) -> KitFacts:
        """The kit's entry in a bundle's manifest."""
        return self.description.facts

    @property
    def tree(self) -> Tree:
        """The content of the folder."""
        about = self.description
        return Tree(folder=self.folder, links=about.links, programs=frozenset(about.programs))

    @property
    def size(self) -> int:
        """Size of the files, bytes."""
        return sum(path.lstat().st_size for path in self.folder.rglob("*") if path.is_file())

    @property
    def packages(self) -> tuple[Package, ...]:
        """The packages in the kit, for the SBOM."""
        return self.description.packages


class _Builder(Protocol):
    """A module that can run the programs of a platform."""

    def python(self, target: Platform) -> str: ...
    def origin(self, target: Platform) -> dict[str, str]: ...
    def wheel_options(self, target: Platform) -> list[str]: ...
    def check(self, target: Platform) -> None: ...
    def environment(
        self, target: Platform, work: Path, wheels: Path
    ) -> AbstractContextManager[Environment]: ...


def platform(name: str) -> Platform:
    """Look up a platform by name.

    Raises:
        KitError: there is no platform of that name.
    """
    if name not in PLATFORMS:
        raise KitError(f"there is no kit {name!r}", hint=suggest(name, PLATFORMS))
    return PLATFORMS[name]


def recipe(target: Platform, own: Sequence[WheelFacts] = ()) -> dict[str, Any]:
    """Return the inputs of a kit that are the same on every machine.

    Args:
        target: platform of the kit.
        own: the user's wheels in place of ONNX Runtime's pinned packages; empty for these.
    """
    return {
        "platform": target.name,
        "steps": freeze.RECIPE,
        "source": freeze.source_digest(),
        "requirements": freeze.requirements(() if own else target.engine),
        "own": [wheel.sha256 for wheel in own],
    }


def frozen(target: Platform, own: Sequence[Wheel] = ()) -> Kit:
    """Return the kit that this machine freezes for a platform, from the cache if it is there.

    Args:
        target: platform of the kit.
        own: the user's wheels in place of ONNX Runtime's pinned packages; empty for these.

    Raises:
        KitError: this machine cannot freeze it.
    """
    builder = _builder(target)
    files = {wheel.facts(): wheel.path for wheel in own}
    inputs = _inputs(target, builder, tuple(files))
    folder = cache.stage(FROZEN, inputs, lambda aside: _make(target, builder, inputs, files, aside))
    return load(folder, imported=False)


def with_wheels(name: str, source: Path | str) -> Kit:
    """Freeze a kit with the user's own builds of ONNX Runtime; bundles get it from then on.

    Args:
        name: name of the kit.
        source: folder with the wheels, or address of a package index that has them.

    Raises:
        KitError: the wheels do not fit, or the kit cannot be frozen with them here.
    """
    target = platform(name)
    check(name)
    builder = _builder(target)
    python = builder.python(target)
    with tempfile.TemporaryDirectory() as aside:
        if isinstance(source, Path):
            return frozen(target, engine_wheels.check(source, target, python))
        fetched = Path(aside)
        index = engine_wheels.fetch(source, target, builder.wheel_options(target), fetched)
        return frozen(target, engine_wheels.check(fetched, target, python, index))


def is_frozen(target: Platform) -> bool:
    """Return whether the cache has the kit that `frozen` would return.

    Raises:
        KitError: this machine cannot freeze it.
    """
    return cache.place(FROZEN, _inputs(target, _builder(target))).is_dir()


def check(name: str) -> None:
    """Check that this machine can freeze the kit.

    Raises:
        KitError: this machine lacks something; the message lists it.
    """
    target = platform(name)
    freeze.check_pip()
    _builder(target).check(target)


def _builder(target: Platform) -> _Builder:
    if host.system() != "Linux":
        raise KitError(
            f"the kit {target.name} can only be frozen on Linux; this is {host.system()}",
            hint=rootfs.elsewhere(target),
        )
    return native if target.machine == host.machine() else rootfs


def _inputs(target: Platform, builder: _Builder, own: Sequence[WheelFacts] = ()) -> dict[str, Any]:
    return {"recipe": recipe(target, own), "origin": builder.origin(target)}


def _make(
    target: Platform,
    builder: _Builder,
    inputs: dict[str, Any],
    own: Mapping[WheelFacts, Path],
    folder: Path,
) -> None:
    with (
        console.step(f"Building the kit {target.name}"),
        tempfile.TemporaryDirectory(dir=folder) as work_name,
    ):
        work = Path(work_name)
        version = builder.python(target)
        try:
            wheels = freeze.wheels(
                inputs["recipe"]["requirements"], version, builder.wheel_options(target), own
            )
            with builder.environment(target, work, wheels) as environment:
                if own:
                    engine_wheels.check_loads(environment, version)
                frozen = freeze.freeze(
                    environment,
                    work,
                    wheels,
                    python=version,
                    source=inputs["recipe"]["source"],
                    libraries=target.opened_libraries,
                    own=tuple(own),
                )
                features = cpu.features(environment, version)
        except CommandError as error:
            raise KitError(
                f"the kit {target.name} could not be built: {error}\n{error.log}",
                hint=error.hint or "See the program's own output above.",
            ) from error
        frozen.folder.rename(folder / RUNTIME)
        tree, internal = read(folder / RUNTIME), folder / RUNTIME / "_internal"
        facts = KitFacts(
            name=target.name,
            machine=target.machine,
            digest=contents_digest(tree),
            min_glibc=contents.min_glibc(folder / RUNTIME),
            cuda=cuda.facts((internal / name).read_bytes() for name in target.cuda.libraries)
            if target.cuda
            else None,
            cpu=features,
            wheels=tuple(own),
        )
        cuda.warn_of_c_library(facts)
        description = Description(
            facts=facts,
            recipe=cache.key(inputs["recipe"]),
            python=frozen.python,
            edgepack=device_runtime.__version__,
            packages=frozen.packages,
            links=dict(tree.links),
            programs=tuple(sorted(tree.programs)),
        )
        encoded = msgspec.json.format(msgspec.json.encode(description), indent=1)
        (folder / DESCRIPTION).write_bytes(encoded + b"\n")


def installed() -> Sequence[Kit]:
    """List the kits in the cache, of all versions, newest first."""
    kits = [
        (path.stat().st_mtime, load(path.parent, imported=kind == IMPORTED))
        for kind in (FROZEN, IMPORTED)
        for path in (cache.root() / kind).glob(f"[!.]*/{DESCRIPTION}")
    ]
    return [kit for _, kit in sorted(kits, key=lambda pair: pair[0], reverse=True)]


def load(folder: Path, *, imported: bool) -> Kit:
    """Read a kit in the cache.

    Raises:
        KitError: its kit.json is not valid.
    """
    try:
        description = msgspec.json.decode((folder / DESCRIPTION).read_bytes(), type=Description)
    except (OSError, msgspec.DecodeError) as error:
        raise KitError(
            f"the kit in {folder} is damaged: {error}", hint=f"Remove it: rm -r {folder}"
        ) from None
    return Kit(folder=folder / RUNTIME, description=description, imported=imported)


def contents_digest(tree: Tree) -> str:
    """Compute the sha256 over names, modes, links and contents of everything in a folder."""
    digest = hashlib.sha256()
    for name in tree.names():
        if name in tree.links:
            digest.update(f"link {name}\0{tree.links[name]}\0".encode())
        else:
            content = cache.file_digest(tree.folder / name)
            digest.update(f"file {name}\0{tree.mode(name):o} {content}\0".encode())
    return digest.hexdigest()
