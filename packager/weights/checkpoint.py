"""Files of a Hugging Face folder: its weights, as transformers chooses them, and their places."""

import json
import shutil
from pathlib import Path

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ENDINGS = (".safetensors", ".safetensors.index.json")
"""Endings of the names of files with weights, and of their indexes."""


def files(folder: Path) -> list[Path]:
    """List the files with the weights as transformers does: the whole, or those of the index.

    Others may hold the same weights once more, under the names of another library. Files that are
    listed and missing are included.

    Raises:
        ValueError: the index is damaged.
    """
    if (folder / WHOLE).is_file() or not (folder / INDEX).is_file():
        return [folder / WHOLE]
    return [folder / name for name in sorted(set(index(folder).values()))]


def place(path: Path, folder: Path, target: Path) -> Path:
    """Return the place of a folder's file in another folder; make the folder around it."""
    there = target / path.relative_to(folder)
    there.parent.mkdir(exist_ok=True)
    return there


def link(path: Path, folder: Path, target: Path) -> None:
    """Let a folder's file appear in another folder too, at the same place.

    Not every user of Windows may make links; there it is a copy.
    """
    there = place(path, folder, target)
    try:
        there.symlink_to(path.resolve())
    except OSError:
        shutil.copyfile(path, there)


def index(folder: Path) -> dict[str, str]:
    """Read which file each tensor is in; empty without an index.

    Raises:
        ValueError: the index is damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError("it has no weight_map")
    if any(Path(name).name != name for name in places.values()):
        raise ValueError("it names files of other folders")
    return places
