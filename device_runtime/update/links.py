"""The links in the state folder that say which release has which role.

They are the truth about a device: whatever else is lost, `current` leads to the release that
serves.
"""

import os
import re
from typing import Literal

from device_runtime.durable import Folder

STATE = "var/lib/edgepack"
"""Folder of the state, on a target."""
RELEASES = "releases"
"""Folder of the releases, in the state folder."""

Role = Literal["current", "previous", "guard"]
"""`current` serves, `previous` served before it, `guard` judges the release on trial."""

ROLES: tuple[Role, ...] = ("current", "previous", "guard")

_TARGET = re.compile(rf"{RELEASES}/([0-9a-f]{{64}})")


def read(state: Folder, role: Role) -> str | None:
    """Return the digest of the release with a role; None if there is no such link."""
    try:
        target = _TARGET.fullmatch(os.readlink(role, dir_fd=state.descriptor))
    except OSError:
        return None
    return target[1] if target else None


def point(state: Folder, role: Role, digest: str | None) -> None:
    """Give a role to a release, or to none, in one atomic and durable step."""
    if digest is None:
        if state.stat(role) is not None:
            state.remove(role)
    elif read(state, role) != digest:
        state.link(role, f"{RELEASES}/{digest}")
