"""The lock files: exact versions and hashes of the packages that set-up and kits install."""

import re
from collections.abc import Iterable

from packager.kit.contents import normal
from packager.shipped import shipped

_FILES = ("host.txt", "kits.txt", "torch.txt")


def versions() -> dict[str, str]:
    """Read the exact versions, by normalized package names."""
    return {name: version for name, (version, _) in _read().items()}


def requirements(names: Iterable[str]) -> list[str]:
    """Write the requirements of packages for pip: exact versions, and hashes of their files."""
    locked = _read()
    return [
        f"{name}=={locked[name][0]} {' '.join(locked[name][1])}"
        for name in sorted(normal(name) for name in names)
    ]


def _read() -> dict[str, tuple[str, list[str]]]:
    """Read version and hashes (`--hash=sha256:...`) of each package."""
    text = "".join((shipped("locks") / name).read_text() for name in _FILES)
    entries = re.findall(r"^([\w.-]+)==(\S+)(.*)$", text.replace("\\\n", ""), re.MULTILINE)
    return {
        normal(name): (version, re.findall(r"--hash=\S+", rest)) for name, version, rest in entries
    }
