"""Run a bundle on this host: the same program and the same release layout as on a device."""

import os
import platform
import shutil
from pathlib import Path

from device_runtime.bundle.reader import open_bundle
from device_runtime.bundle.release import Release, open_release
from device_runtime.errors import BundleError
from packager import cache, console
from packager.errors import PackagerError


def unpack_for_host(path: Path) -> Release:
    """Unpack a bundle that this machine can run, with `release_of`.

    Raises:
        BundleError: the bundle is damaged.
        PackagerError: the bundle has no runtime, or one for another system or architecture.
        ResourceError: the cache has too little space.
    """
    with open_bundle(path) as bundle:
        kit = bundle.manifest.kit
    if kit is None:
        raise PackagerError(
            f"{path.name} contains only a model, without a runtime to start",
            hint="Build it without --model-only, with a profile that has a runtime.",
        )
    if platform.system() != "Linux":
        raise PackagerError(
            f"the runtime in {path.name} is a program for Linux; this is {platform.system()}",
            hint="Run it on the device, or in a virtual machine with Linux.",
        )
    if kit.machine != platform.machine():
        raise PackagerError(
            f"the runtime in {path.name} is for {kit.machine}; this machine is "
            f"{platform.machine()}",
            hint="Run it on the device, or build a bundle for this machine: "
            f"edgepack build --profile cpu-{platform.machine()}",
        )
    return release_of(path)


def release_of(path: Path) -> Release:
    """Return a bundle's release in the cache: unpacked if missing, verified in any case.

    Raises:
        BundleError: the bundle is damaged.
        PackagerError: this is Windows, whose file systems do not hold what is in a release.
        ResourceError: the cache has too little space.
    """
    if platform.system() == "Windows":
        raise PackagerError(
            f"{path.name} cannot be unpacked on Windows: its files have modes and links",
            hint="Use Linux, for instance in a virtual machine, or macOS.",
        )
    with open_bundle(path) as bundle:
        inputs = {"digest": bundle.digest}
    with console.step(f"Unpacking and verifying {path.name}"):
        folder = cache.stage("release", inputs, lambda target: _unpack(path, target))
        try:
            release = open_release(folder)
            release.verify()
        except BundleError:
            console.warn("the unpacked release in the cache is damaged; unpacking it again")
            shutil.rmtree(folder)
            folder = cache.stage("release", inputs, lambda target: _unpack(path, target))
            release = open_release(folder)
    return release


def _unpack(path: Path, target: Path) -> None:
    with open_bundle(path) as bundle:
        total = sum(blob.size for blob in bundle.manifest.blobs.values())
        with console.progress("Unpacking", total) as advance:
            bundle.unpack(target, advance)


def replace_process(release: Release, arguments: list[str]) -> None:
    """Replace this process with the bundle's program, which gets its signals and exit code."""
    program = str(release.program)
    os.execv(program, [program, *arguments])  # noqa: S606  (a list, no shell)
