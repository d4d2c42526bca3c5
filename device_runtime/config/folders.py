"""The folders that systemd makes for the service (systemd.exec(5))."""

import os
from pathlib import Path

RUNTIME_VARIABLE = "RUNTIME_DIRECTORY"
"""Environment variable with the folder for what ends with the service."""
STATE_VARIABLE = "STATE_DIRECTORY"
"""Likewise, with the folder for what survives a restart."""


def runtime_folder() -> Path | None:
    """Return the runtime folder that systemd made for this service; None without one."""
    return _first(RUNTIME_VARIABLE)


def state_folder() -> Path | None:
    """Return the state folder that systemd made for this service; None without one."""
    return _first(STATE_VARIABLE)


def _first(variable: str) -> Path | None:
    folders = os.environ.get(variable, "")
    return Path(folders.partition(":")[0]) if folders else None
