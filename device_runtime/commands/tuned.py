"""The configuration of a release with the threads that `tune` has kept."""

import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from device_runtime.bundle.release import Release
from device_runtime.config import folders
from device_runtime.config.options import RuntimeConfig
from device_runtime.config.sources import Resolved
from device_runtime.worker import tuning
from device_runtime.worker.tuning import Setting

OF_SERVICE = Path("/var/lib/edgepack-runtime")
"""State folder that systemd gives to the service."""


class Tuned(NamedTuple):
    """A configuration, and the threads in it.

    Attributes:
        config: the configuration, with the number of threads that applies.
        setting: threads that were measured to be faster; None for the configured ones.
    """

    config: RuntimeConfig
    setting: Setting | None


def tuned(release: Release, resolved: Resolved) -> Tuned:
    """Return a configuration with the threads that were kept, unless the user has set others."""
    config = resolved.config
    folder = state_folder(config)
    if folder is None or threads_are_set(resolved):
        return Tuned(config, None)
    setting = tuning.read(folder, release)
    if setting is not None:
        config = msgspec.structs.replace(config, threads=setting.threads)
    return Tuned(config, setting)


def threads_are_set(resolved: Resolved) -> bool:
    """Return whether the user has set the threads; a release is not the user."""
    return resolved.origins["threads"] not in ("default", "release")


def state_folder(config: RuntimeConfig) -> Path | None:
    """Return the state folder, also outside of the service; None if there is none."""
    of_service = OF_SERVICE if os.access(OF_SERVICE, os.R_OK) else None
    return config.state_folder or folders.state_folder() or of_service
