"""Put a bundle on a device. A flasher is a module that satisfies `Flasher`, listed in FLASHERS."""

import platform
from dataclasses import replace
from typing import Protocol

from device_runtime.bundle.reader import open_bundle
from packager.errors import FlashError
from packager.flash import directory, image, ssh
from packager.flash.request import FlashRequest, FlashResult
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

    def flash(self, request: FlashRequest) -> FlashResult:
        """Install a bundle, or with `dry_run` only find out what would be written.

        Raises:
            FlashError: the target must not be written, or an option is not for its kind.
            BundleError: the bundle is damaged; the target is unchanged.
            InstallError: the bundle does not fit the target.
            ResourceError: the target has too little free space.
        """
        ...


FLASHERS: dict[str, Flasher] = {"directory": directory, "image": image, "ssh": ssh}


def flash(request: FlashRequest) -> FlashResult:
    """Install a bundle on a target with the flasher for its kind.

    A target without keys trusts from then on those keys of this host that signed the bundle.

    Raises:
        FlashError: there is no flasher for this kind of target; else as `Flasher.flash`.
    """
    for flasher in FLASHERS.values():
        if flasher.accepts(request.target):
            _check_system(flasher)
            with open_bundle(request.bundle) as bundle:
                policy = replace(request.policy, keys=signer_keys(bundle))
            return flasher.flash(replace(request, policy=policy))
    kinds = " or ".join(flasher.DESCRIPTION for flasher in FLASHERS.values())
    raise FlashError(
        f"{request.target} is not {kinds}",
        hint="Mount the device's root partition (for instance an SD card's) and pass its mount "
        "point, or pass the address of a running device.",
    )


def _check_system(flasher: Flasher) -> None:
    system = platform.system()
    # OpenSSH for Windows has no ControlMaster.
    if system == "Linux" or (flasher is ssh and system != "Windows"):
        return
    instead = (
        "Push the bundle to a registry, from which a device installs it: edgepack push"
        if system == "Windows"
        else "Flash a running device: edgepack flash BUNDLE ssh://USER@HOST"
    )
    raise FlashError(
        f"{flasher.DESCRIPTION} cannot be flashed on {system}",
        hint=f"{instead}. Or run this command on Linux, for instance in a virtual machine.",
    )
