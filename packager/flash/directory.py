"""Flash into a mounted root file system, for instance an SD card's."""

from pathlib import Path

from device_runtime.bundle.reader import open_bundle
from device_runtime.bundle.release import Release
from device_runtime.update.install import Policy, install
from packager import console
from packager.errors import FlashError

DESCRIPTION = "a mounted root file system"


def accepts(target: str) -> bool:
    """Return whether the target is a folder."""
    return Path(target).is_dir()


def flash(bundle: Path, target: str, policy: Policy) -> Release:
    """Install a bundle into a root file system that is mounted on this host.

    Its architecture, C library and current release are known from its files. Its board is not: a
    bundle for another board of the same architecture is not detected.

    Raises:
        FlashError: the target is this host's own root.
        BundleError: the bundle is damaged; the target is unchanged.
        InstallError: the bundle does not fit the target.
        ResourceError: the target has too little free space.
    """
    root = Path(target)
    if root.samefile("/"):
        raise FlashError(
            f"{target} is the root of this machine, not a device's",
            hint="Pass the mount point of the device's root partition; to install on this machine "
            "itself, run the bundle's own program: edgepack-runtime install FILE.epk",
        )
    with open_bundle(bundle) as opened:
        total = sum(blob.size for blob in opened.manifest.blobs.values())
    with (
        console.step(f"Installing {bundle.name} into {root}"),
        console.progress("Copying", total) as advance,
    ):
        return install(bundle, root, policy=policy, on_bytes=advance)
