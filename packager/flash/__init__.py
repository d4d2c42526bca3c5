"""Put a bundle on a device. A flasher is a module that satisfies `Flasher`, listed in FLASHERS."""

from pathlib import Path
from typing import Protocol

from device_runtime.bundle.install import STRICT, Policy
from device_runtime.bundle.release import Release
from packager.errors import FlashError
from packager.flash import directory


class Flasher(Protocol):
    """One way to reach a device.

    Attributes:
        DESCRIPTION: the kind of target, for people.
    """

    DESCRIPTION: str

    def accepts(self, target: str) -> bool:
        """Whether a target, as the user wrote it, is one of this kind."""
        ...

    def flash(self, bundle: Path, target: str, policy: Policy) -> Release:
        """Install a bundle there. Raises FlashError, BundleError, InstallError, ResourceError."""
        ...


FLASHERS: dict[str, Flasher] = {"directory": directory}


def flash(bundle: Path, target: str, policy: Policy = STRICT) -> Release:
    """Install a bundle on a target with the flasher that knows its kind.

    Raises:
        FlashError: no flasher knows this kind of target, or the target must not be written to.
        BundleError: the bundle is damaged; the target is as it was.
        InstallError: the bundle does not fit the target.
        ResourceError: too little space there.
    """
    for flasher in FLASHERS.values():
        if flasher.accepts(target):
            return flasher.flash(bundle, target, policy)
    kinds = " or ".join(flasher.DESCRIPTION for flasher in FLASHERS.values())
    raise FlashError(
        f"{target} is not {kinds}",
        hint="Mount the device's root partition (an SD card's, say) and give its mount point.",
    )
