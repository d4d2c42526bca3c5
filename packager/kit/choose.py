"""The ways to a kit, in the order in which they are tried."""

import device_runtime
from packager import cache, console
from packager.errors import KitError
from packager.kit import collection, package
from packager.kit.collection import Description, Kit, platform
from packager.kit.platforms import Platform


def ensure(name: str, given: Kit | None = None) -> Kit:
    """Return the kit of a name for this version of edgepack.

    It is, whichever there is first:

    1. the kit that the user gave (`--kit`), which must fit;
    2. the newest that was frozen from wheels of the user's own (`edgepack kit build --wheels`);
    3. that of the installed package `edgepack-kit-NAME`;
    4. an imported one;
    5. one that this machine froze before;
    6. one that it freezes now.

    Kits of other versions are passed over with a warning.

    Raises:
        KitError: the given kit does not fit; or there is no kit, and this machine cannot freeze it.
    """
    target = platform(name)
    if given is not None:
        _check_given(given, target)
        return given
    kit = _of_own_wheels(target)
    if kit is not None:
        wheels = " and ".join(f"{wheel.name} {wheel.version}" for wheel in kit.facts.wheels)
        console.note(f"kit: {name}, with your own {wheels} ({kit.facts.digest[:12]})")
        return kit
    kit = _packaged(target) or _imported(target)
    if kit is not None:
        console.note(f"kit: {name}, imported ({kit.facts.digest[:12]})")
        return kit
    return collection.frozen(target)


def is_there(name: str) -> bool:
    """Return whether `ensure` would return a kit without freezing it.

    Raises:
        KitError: there is no such kit, a kit in the cache is damaged, or this machine cannot freeze
            the kit.
    """
    target = platform(name)
    packaged = package.find(target)
    if packaged is not None and _fits(packaged.description, target):
        return True
    ready = _given_kits(target, own=True, fitting=True) or _given_kits(
        target, own=False, fitting=True
    )
    return bool(ready) or collection.is_frozen(target)


def _of_own_wheels(target: Platform) -> Kit | None:
    for kit in _given_kits(target, own=True, fitting=True):
        return kit
    for kit in _given_kits(target, own=True, fitting=False):
        console.warn(
            f"ignoring the kit {target.name} with your own wheels: {_reason(kit.description)}. "
            f"Freeze it again: edgepack kit build {target.name} --wheels FOLDER"
        )
    return None


def _packaged(target: Platform) -> Kit | None:
    packaged = package.find(target)
    if packaged is None:
        return None
    if not _fits(packaged.description, target):
        _warn(f"the package {packaged.title}", packaged.description, target)
        return None
    return packaged.unpacked()


def _imported(target: Platform) -> Kit | None:
    for kit in _given_kits(target, own=False, fitting=True):
        return kit
    for kit in _given_kits(target, own=False, fitting=False):
        _warn(f"the imported kit {target.name}", kit.description, target)
    return None


def _given_kits(target: Platform, *, own: bool, fitting: bool) -> list[Kit]:
    """List the kits from the user's own wheels, or else the imported ones, newest first."""
    return [
        kit
        for kit in collection.installed()
        if (bool(kit.facts.wheels) if own else kit.imported and not kit.facts.wheels)
        and kit.facts.name == target.name
        and _fits(kit.description, target) == fitting
    ]


def _fits(description: Description, target: Platform) -> bool:
    return description.recipe == cache.key(collection.recipe(target, description.facts.wheels))


def _check_given(kit: Kit, target: Platform) -> None:
    if kit.facts.name != target.name:
        raise KitError(
            f"the given kit is {kit.facts.name}; this build needs {target.name}",
            hint="Give another kit, or choose another profile.",
        )
    if not _fits(kit.description, target):
        raise KitError(
            f"the given kit is not for this edgepack: {_reason(kit.description)}",
            hint=_advice(target),
        )


def _warn(what: str, description: Description, target: Platform) -> None:
    console.warn(f"ignoring {what}: {_reason(description)}. {_advice(target)}")


def _reason(description: Description) -> str:
    return (
        f"edgepack {description.edgepack} froze it from another runtime source or other package "
        f"versions than edgepack {device_runtime.__version__} uses"
    )


def _advice(target: Platform) -> str:
    return f"Get one that fits: pip install {target.requirement}"
