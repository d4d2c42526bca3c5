"""The difference of two bundles, as tables and as data."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from packager import console
from packager.diff import Change, Difference, Kind
from packager.units import megabytes

LISTED = 20
"""Records in the table; `--json` has all of them."""


def as_json(difference: Difference, update: Path | None) -> dict[str, Any]:
    """Return a difference with all records; sizes are in bytes."""
    return {
        "update": str(update) if update else None,
        "size": update.stat().st_size if update else None,
        "from": {"version": difference.delta.old_version, "digest": difference.delta.old},
        "bytes": _bytes(difference.changes),
        "memory_bytes": difference.memory_bytes,
        "components": {
            name: {**_counts(changes), **_bytes(changes)}
            for name, changes in _components(difference).items()
        },
        "records": [asdict(change) for change in difference.changes],
    }


def as_text(difference: Difference, update: Path | None) -> None:
    """Print a difference by component, and the records that move most."""
    rows = [
        [name, *map(str, _counts(changes).values()), *map(megabytes, _bytes(changes).values())]
        for name, changes in {**_components(difference), "all": difference.changes}.items()
    ]
    header = ["component", *get_args(Kind), *_bytes(())]
    console.table("Files; bytes in NEW, not in OLD (new), to move", header, rows)
    moved = sorted(
        (change for change in difference.changes if change.moved),
        key=lambda change: (-change.moved, change.path),
    )
    if moved:
        title = (
            "Bytes by file"
            if len(moved) <= LISTED
            else f"Bytes by file, the {LISTED} that move most"
        )
        rows = [
            [
                f"{change.moved:,}",
                f"{change.whole:,}",
                "patch" if change.moved < change.new else change.kind,
                change.path,
            ]
            for change in moved[:LISTED]
        ]
        console.table(title, ["to move", "in NEW", "", "file"], rows)
    if difference.memory_bytes:
        console.result(
            f"The patches need {megabytes(difference.memory_bytes)} of free memory on the device."
        )
    if update is not None:
        size = megabytes(update.stat().st_size)
        console.result(f"{update} ({size}) is for devices with {difference.delta.old_version}")


def _components(difference: Difference) -> dict[str, list[Change]]:
    components: dict[str, list[Change]] = {}
    for change in difference.changes:
        components.setdefault(change.component, []).append(change)
    return components


def _counts(changes: Sequence[Change]) -> dict[str, int]:
    return {kind: sum(change.kind == kind for change in changes) for kind in get_args(Kind)}


def _bytes(changes: Sequence[Change]) -> dict[str, int]:
    return {
        "whole": sum(change.whole for change in changes),
        "new": sum(change.new for change in changes),
        "moved": sum(change.moved for change in changes),
    }
