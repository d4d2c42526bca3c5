"""Requirements of a bundle, checked against facts about a device; nothing is read here.

`install` refuses a device that does not meet a requirement; `doctor` reports it. The processor's
are also checked before a model is loaded: a library would end the program otherwise.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from device_runtime.bundle.kit_facts import KitFacts
from device_runtime.bundle.manifest import Manifest
from device_runtime.processor import GPU_LIBRARY

GENERIC = "linux-"
"""Prefix of the names that match any Linux machine of an architecture: `linux-aarch64`."""


@dataclass(frozen=True, kw_only=True)
class Unmet:
    """A requirement that a device does not meet.

    Attributes:
        problem: the requirement, and what the device has instead.
        hint: what to do next.
    """

    problem: str
    hint: str


def architecture(machine: str | None, kit: KitFacts) -> Unmet | None:
    """Compare the architecture, as `uname -m` reports it; None if it is not known."""
    if machine == kit.machine:
        return None
    return Unmet(
        problem=f"the runtime is for {kit.machine}, the device is "
        f"{machine or 'of an unknown architecture'}",
        hint="Build the bundle with a profile for this device.",
    )


def c_library(glibc: str | None, kit: KitFacts) -> Unmet | None:
    """Compare the version of the GNU C library; None if the device has none."""
    if glibc is not None and _version(glibc) >= _version(kit.min_glibc):
        return None
    return Unmet(
        problem=f"the runtime needs glibc {kit.min_glibc}, the device has {glibc or 'none'}",
        hint=f"Use an operating system with glibc {kit.min_glibc} or newer.",
    )


def hardware(board: Sequence[str] | None, machine: str, manifest: Manifest) -> Unmet | None:
    """Compare the names of the hardware: one of the bundle's must be one of the device's.

    If the board is not known, only a bundle for any machine of another architecture is refused.

    Args:
        board: names in the device tree; None if they are not known, empty if there are none.
        machine: architecture of the device; part of its generic name.
        manifest: manifest of the bundle.
    """
    names = [*(board or ()), f"{GENERIC}{machine}"]
    if not set(names).isdisjoint(manifest.compatible):
        return None
    if board is None and not all(name.startswith(GENERIC) for name in manifest.compatible):
        return None
    return Unmet(
        problem=f"the bundle is for {', '.join(manifest.compatible)}; the device is "
        f"{', '.join(names)}",
        hint="Build the bundle with a profile for this device, or install it with --force if it is "
        "known to run here.",
    )


def uses_gpu(manifest: Manifest) -> bool:
    """Return whether the runtime in a bundle computes on a GPU if there is one."""
    cuda = manifest.kit is not None and manifest.kit.cuda is not None
    return cuda or any(record.path.endswith(f"/{GPU_LIBRARY}") for record in manifest.records)


def processor(features: Collection[str] | None, kit: KitFacts) -> Unmet | None:
    """Compare the features of the processor, as /proc/cpuinfo names them.

    If they are not known (None), nothing is refused.
    """
    missing = [name for name in kit.cpu if features is not None and name not in features]
    if not missing:
        return None
    return Unmet(
        problem=f"the runtime needs a processor with {', '.join(kit.cpu)}; the device's lacks "
        f"{', '.join(missing)}",
        hint="Use a device with a newer processor: the runtime's libraries cannot run on this one.",
    )


def memory(total: int, manifest: Manifest) -> Unmet | None:
    """Compare the memory of the whole machine, bytes."""
    if total >= manifest.memory_bytes:
        return None
    return Unmet(
        problem=f"the model needs {manifest.memory_bytes >> 20} MiB of memory, the device has "
        f"{total >> 20}",
        hint="Use a smaller model, or a profile with a smaller context_length.",
    )


def product(installed: Manifest, manifest: Manifest) -> Unmet | None:
    """Compare the ids: an update has that of the installed release."""
    if manifest.id == installed.id:
        return None
    return Unmet(
        problem=f"the bundle is {manifest.id}, the device has {installed.id}",
        hint="Install it with --force if it is to replace that.",
    )


def update(installed: Manifest, manifest: Manifest) -> Unmet | None:
    """Compare sequences; sequences of bundles with different ids are unrelated."""
    if manifest.id != installed.id or manifest.sequence >= installed.sequence:
        return None
    return Unmet(
        problem=f"the bundle is older than the installed release: {manifest.id} "
        f"{manifest.version} has sequence {manifest.sequence}, {installed.version} has "
        f"{installed.sequence}",
        hint="Build the update with a higher --sequence, or pass --allow-downgrade to go back.",
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
