"""Flash into a mounted root file system, for instance an SD card's."""

from pathlib import Path

from device_runtime.bundle.reader import open_bundle
from device_runtime.update import incoming
from device_runtime.update.install import install
from device_runtime.update.preflight import check_signature, check_target, check_update
from device_runtime.update.target import Target
from packager import console
from packager.errors import FlashError
from packager.flash.request import FlashRequest, FlashResult, result, whole

DESCRIPTION = "a mounted root file system"


def accepts(target: str) -> bool:
    """Return whether the target is a folder."""
    return Path(target).is_dir()


def flash(request: FlashRequest) -> FlashResult:
    """Install a bundle into a root file system that is mounted on this host.

    Its architecture, C library and current release are known from its files. Its board is not: a
    bundle for another board of the same architecture is not detected.

    Raises:
        FlashError: the target is this host's own root, or an option is for other targets.
        BundleError: the bundle is damaged; the target is unchanged.
        InstallError: the bundle does not fit the target.
        ResourceError: the target has too little free space.
    """
    request.refuse(
        DESCRIPTION,
        grow=request.grow,
        output=request.output,
        sudo_password_file=request.sudo_password,
        delta_from=request.delta_from,
    )
    root = Path(request.target)
    if root.samefile("/"):
        raise FlashError(
            f"{root} is the root of this machine, not a device's",
            hint="Pass the mount point of the device's root partition; to install on this machine "
            "itself, run the bundle's own program: edgepack-runtime install FILE.epk",
        )
    target = Target(root)
    with open_bundle(request.bundle) as bundle, incoming.installed(target) as shared:
        blobs = bundle.manifest.blobs
        if request.dry_run:
            check_target(bundle, target, request.policy)
            check_signature(bundle, target, request.policy)
            check_update(bundle, target, request.policy)
        flashed = result(request, bundle, whole(request, bundle, shared))
    if not request.dry_run:
        with (
            console.step(f"Installing {request.bundle.name} into {root}"),
            console.progress("Copying", sum(blob.size for blob in blobs.values())) as advance,
        ):
            install(
                request.bundle,
                root,
                policy=request.policy,
                settings=request.settings,
                on_bytes=advance,
            )
    return flashed
