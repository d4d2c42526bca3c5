"""What an update moves, for the changes that updates usually have."""

from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

from packager import diff
from tests.support.updates import PROGRAM, WEIGHTS, Update, scattered, version_of

pytestmark = pytest.mark.usefixtures("own_cache")

MIB = 1 << 20


def update(folder: Path, old: dict[str, bytes], new: dict[str, bytes]) -> Update:
    result = Update(folder, version_of(old, "1.0.0", 1), version_of(new, "1.1.0", 2))
    (folder / "new").mkdir()
    with result.opened() as bundle:
        bundle.unpack(folder / "new").verify()
    return result


def moved(update: Update) -> dict[str, int]:
    return {change.path: change.moved for change in update.difference.changes}


def test_program_that_is_frozen_again(tmp_path: Path) -> None:
    """10 MiB with 200 scattered edits: a hundredth of the bytes, and the weights not at all."""
    program, weights = Random(1).randbytes(10 * MIB), Random(2).randbytes(MIB)
    result = update(
        tmp_path,
        {PROGRAM: program, WEIGHTS: weights},
        {PROGRAM: scattered(program, 200), WEIGHTS: weights},
    )
    assert 200 * 16 < moved(result)[PROGRAM] < MIB // 10
    assert moved(result)[WEIGHTS] == 0
    assert result.path.stat().st_size < MIB // 10


def test_weights_that_change_in_one_layer(tmp_path: Path) -> None:
    """One of 30 layers, and what follows it shifted, in a file for the fast search."""
    layers = [Random(number).randbytes(MIB) for number in range(30)]
    weights = b"".join(layers)
    layers[10] = Random(99).randbytes(MIB + 1000)
    result = update(
        tmp_path,
        {PROGRAM: b"program", WEIGHTS: weights},
        {PROGRAM: b"program", WEIGHTS: b"".join(layers)},
    )
    assert len(weights) * 2 > diff.SMALL
    assert MIB < moved(result)[WEIGHTS] < MIB + MIB // 10


def test_library_under_the_name_of_its_new_version(tmp_path: Path) -> None:
    library = Random(1).randbytes(MIB)
    result = update(
        tmp_path,
        {PROGRAM: b"program", "runtime/liba.so.1.31.1": library, "runtime/b": b"b"},
        {PROGRAM: b"program", "runtime/liba.so.1.32.0": scattered(library, 10), "runtime/c": b"b"},
    )
    assert moved(result)["runtime/liba.so.1.32.0"] < 2000
    assert {change.path: change.kind for change in result.difference.changes} == {
        PROGRAM: "unchanged",
        "runtime/liba.so.1.31.1": "removed",
        "runtime/liba.so.1.32.0": "added",
        "runtime/b": "removed",
        "runtime/c": "added",
    }
    assert moved(result)["runtime/c"] == 0, "the device has that content, under another name"


def test_patch_is_used_only_if_it_saves_more_than_a_third(tmp_path: Path) -> None:
    old = Random(1).randbytes(90_000)
    for kept, patched in ((25_000, False), (35_000, True)):
        folder = tmp_path / str(kept)
        folder.mkdir()
        new = old[:kept] + Random(2).randbytes(90_000 - kept)
        result = update(folder, {PROGRAM: old}, {PROGRAM: new})
        assert bool(result.difference.delta.patches) == patched
        assert (moved(result)[PROGRAM] < 60_000) == patched


def test_two_files_with_the_same_patch(tmp_path: Path) -> None:
    """The same edit at the same place of two files may give equal patches, stored once."""
    first, second = (b"same start" + Random(seed).randbytes(50_000) for seed in (1, 2))
    result = update(
        tmp_path,
        {PROGRAM: first, "runtime/b": second},
        {PROGRAM: first[:-5] + b"edits", "runtime/b": second[:-5] + b"edits"},
    )
    assert len(result.difference.delta.patches) == 2
    assert len(result.difference.patches) == 1


def test_file_with_too_little_memory_for_a_patch_moves_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diff, "memory_available", lambda: 100_000)
    program = Random(1).randbytes(50_000)
    result = update(tmp_path, {PROGRAM: program}, {PROGRAM: scattered(program, 2)})
    assert moved(result)[PROGRAM] == 50_000
    assert "moves whole: a patch would need" in capsys.readouterr().err


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    program = Random(1).randbytes(50_000)
    result = update(tmp_path, {PROGRAM: program}, {PROGRAM: scattered(program, 2)})
    diff.diff(result.old, result.new, tmp_path / "again.epk")
    assert (tmp_path / "again.epk").read_bytes() == result.path.read_bytes()


def test_another_mode_moves_nothing(tmp_path: Path) -> None:
    files = {PROGRAM: b"program", "runtime/tool": b"tool"}
    old, new = version_of(files, "1.0.0", 1), version_of(files, "1.1.0", 2)
    records = tuple(replace(record, mode=0o755) for record in new.manifest.records)
    result = Update(tmp_path, old, new.replaced(records=records))
    assert sum(moved(result).values()) == 0
    kinds = {change.path: change.kind for change in result.difference.changes}
    assert kinds == {PROGRAM: "unchanged", "runtime/tool": "changed"}
