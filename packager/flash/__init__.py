"""Put a bundle on a device. A flasher is a module that satisfies `Flasher`, listed in FLASHERS."""

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from device_runtime.bundle.reader import open_bundle
from device_runtime.bundle.release import Release
from device_runtime.update.install import STRICT, Policy
from packager.errors import FlashError
from packager.flash import directory
from packager.keys import signer_keys


class Flasher(Protocol):
    """A way to write a bundle to a kind of target.

    Attributes:
        DESCRIPTION: human-readable name of the kind of target.
    """

    DESCRIPTION: str

    def accepts(self, target: str) -> bool:
        """Return whether a target, as the user wrote it, is of this kind."""
        ...

    def flash(self, bundle: Path, target: str, policy: Policy) -> Release:
        """Install a bundle; raises FlashError, BundleError, InstallError or ResourceError."""
        ...


FLASHERS: dict[str, Flasher] = {"directory": directory}


def flash(bundle: Path, target: str, policy: Policy = STRICT) -> Release:
    """Install a bundle on a target with the flasher for its kind.

    A target without keys trusts from then on those keys of this host that signed the bundle.

    Raises:
        FlashError: there is no flasher for this kind of target, or the target must not be written.
        BundleError: the bundle is damaged; the target is unchanged.
        InstallError: the bundle does not fit the target.
        ResourceError: the target has too little free space.
    """
    for flasher in FLASHERS.values():
        if flasher.accepts(target):
            with open_bundle(bundle) as opened:
                policy = replace(policy, keys=signer_keys(opened))
            return flasher.flash(bundle, target, policy)
    kinds = " or ".join(flasher.DESCRIPTION for flasher in FLASHERS.values())
    raise FlashError(
        f"{target} is not {kinds}",
        hint="Mount the device's root partition (for instance an SD card's) and pass its mount "
        "point.",
    )
