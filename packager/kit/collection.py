"""The kits in the cache: found, described, and built if none matches.

A kit is a folder `runtime/` with the program `edgepack-runtime` and all it needs, and `kit.json`
beside that folder.
"""

import hashlib
import platform as host
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

import device_runtime
from device_runtime.bundle.manifest import KitFacts
from packager import cache, console
from packager.errors import CommandError, KitError
from packager.kit import contents, cpu, cuda, freeze, native, rootfs
from packager.kit.freeze import Environment
from packager.kit.platforms import PLATFORMS, Platform
from packager.sbom import Package
from packager.suggest import suggest

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
    """

    facts: KitFacts
    recipe: str
    python: str
    edgepack: str
    packages: tuple[Package, ...]


@dataclass(frozen=True, kw_only=True)
class Kit:
    """A kit in the cache.

    Attributes:
        folder: folder with the program `edgepack-runtime` and all it needs, nothing else.
        description: contents of kit.json.
        imported: True if the kit was imported from another machine.
    """

    folder: Path
    description: Description
    imported: bool

    @property
    def facts(self) -> KitFacts:
        """The kit's entry in a bundle's manifest."""
        return self.description.facts

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


def recipe(target: Platform) -> dict[str, Any]:
    """Return edgepack's own inputs of a kit: the same on every machine."""
    return {
        "platform": target.name,
        "steps": freeze.RECIPE,
        "source": freeze.source_digest(),
        "requirements": freeze.requirements(target.engine),
    }


def ensure(name: str) -> Kit:
    """Return the kit of that name for this version of edgepack: imported, cached, or built now.

    Raises:
        KitError: the kit does not exist and cannot be built here.
    """
    target = platform(name)
    chosen = recipe(target)
    imported = [kit for kit in installed() if kit.imported and kit.facts.name == name]
    for kit in imported:
        if kit.description.recipe == cache.key(chosen):
            console.note(f"kit: {name}, imported ({kit.facts.digest[:12]})")
            return kit
    for kit in imported:
        console.warn(
            f"ignoring the imported kit {name}: edgepack {kit.description.edgepack} built it from "
            f"another runtime source or other package versions than this edgepack "
            f"{device_runtime.__version__} uses"
        )
    builder = _builder(target)
    inputs = _inputs(target, builder)
    folder = cache.stage("kit", inputs, lambda aside: _make(target, builder, inputs, aside))
    return load(folder, imported=False)


def is_there(name: str) -> bool:
    """Return whether the cache has the kit that `ensure` would return, built or imported.

    Raises:
        KitError: there is no such kit, a kit in the cache is damaged, or this machine cannot build
            the kit.
    """
    target = platform(name)
    digest = cache.key(recipe(target))
    if any(
        kit.imported and kit.facts.name == name and kit.description.recipe == digest
        for kit in installed()
    ):
        return True
    return cache.place("kit", _inputs(target, _builder(target))).is_dir()


def check(name: str) -> None:
    """Check that this machine can build the kit.

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


def _inputs(target: Platform, builder: _Builder) -> dict[str, Any]:
    return {"recipe": recipe(target), "origin": builder.origin(target)}


def _make(target: Platform, builder: _Builder, inputs: dict[str, Any], folder: Path) -> None:
    with (
        console.step(f"Building the kit {target.name}"),
        tempfile.TemporaryDirectory(dir=folder) as work_name,
    ):
        work = Path(work_name)
        version = builder.python(target)
        try:
            wheels = freeze.wheels(
                inputs["recipe"]["requirements"], version, builder.wheel_options(target)
            )
            with builder.environment(target, work, wheels) as environment:
                frozen = freeze.freeze(
                    environment,
                    work,
                    wheels,
                    python=version,
                    source=inputs["recipe"]["source"],
                    libraries=target.opened_libraries,
                )
                features = cpu.features(environment, version)
        except CommandError as error:
            raise KitError(
                f"the kit {target.name} could not be built: {error}\n{error.log}",
                hint=error.hint or "See the program's own output above.",
            ) from error
        frozen.folder.rename(folder / RUNTIME)
        description = Description(
            facts=KitFacts(
                name=target.name,
                machine=target.machine,
                digest=contents_digest(folder / RUNTIME),
                min_glibc=contents.min_glibc(folder / RUNTIME),
                cuda=cuda.facts(folder / RUNTIME, target.cuda) if target.cuda else None,
                cpu=features,
            ),
            recipe=cache.key(inputs["recipe"]),
            python=frozen.python,
            edgepack=device_runtime.__version__,
            packages=frozen.packages,
        )
        encoded = msgspec.json.format(msgspec.json.encode(description), indent=1)
        (folder / DESCRIPTION).write_bytes(encoded + b"\n")


def installed() -> Sequence[Kit]:
    """List the kits in the cache, of all versions, newest first."""
    kits = [
        (path.stat().st_mtime, load(path.parent, imported=kind == "kit-imported"))
        for kind in ("kit", "kit-imported")
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


def contents_digest(folder: Path) -> str:
    """Compute the sha256 over names, modes, links and contents of everything below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            digest.update(f"link {name}\0{path.readlink()}\0".encode())
        elif path.is_file():
            mode = path.stat().st_mode & 0o777
            digest.update(f"file {name}\0{mode:o} {cache.file_digest(path)}\0".encode())
    return digest.hexdigest()
