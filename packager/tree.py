"""The files, links and programs of a folder, also where a file system cannot hold the latter two.

Windows has no mode for programs, and not every user there may make links.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The content of a folder. Names are paths relative to it, with `/`.

    Attributes:
        folder: the folder; it has the files, and perhaps the links.
        links: targets of the links by name.
        programs: names of the files that can be executed.
    """

    folder: Path
    links: Mapping[str, str]
    programs: frozenset[str]

    def names(self) -> list[str]:
        """List files and links, in the order of the parts of their names."""
        return sorted({*_files(self.folder), *self.links}, key=lambda name: name.split("/"))

    def mode(self, name: str) -> int:
        """Return the mode that a file has in a bundle."""
        return 0o755 if name in self.programs else 0o644


def read(folder: Path) -> Tree:
    """Read the content of a folder from its file system."""
    links = {
        path.relative_to(folder).as_posix(): str(path.readlink())
        for path in folder.rglob("*")
        if path.is_symlink()
    }
    programs = (name for name in _files(folder) if (folder / name).stat().st_mode & 0o100)
    return Tree(folder=folder, links=links, programs=frozenset(programs))


def _files(folder: Path) -> list[str]:
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    ]
