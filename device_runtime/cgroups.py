"""Control groups of this process, in versions 1 and 2; names are from the kernel's documents."""

from collections.abc import Iterator
from pathlib import Path

OWN = Path("/proc/self/cgroup")
"""Lists the control groups of this process."""

GROUPS = Path("/sys/fs/cgroup")
"""Mount point of the control group file systems."""


def folders(controller: str, own: Path = OWN, groups: Path = GROUPS) -> Iterator[tuple[int, Path]]:
    """Yield version and folder of each control group around this process, the innermost first.

    Args:
        controller: name of a controller, such as `memory`.
        own: file that lists the control groups of this process.
        groups: mount point of the control group file systems.
    """
    lines = own.read_text().splitlines() if own.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            version, top = 1, groups / controllers
            if not top.is_dir():
                top = groups / controller
        elif not controllers:
            version, top = 2, groups
        else:
            continue
        inner = top / path.lstrip("/")
        # In a container the path may be the host's and not exist; the group is then at the top.
        for folder in (inner, *inner.parents) if inner.is_dir() else (top,):
            yield version, folder
