"""An update for devices that have an older release: shown, written, installed, or refused."""

import json
from pathlib import Path
from random import Random

import pytest

from tests.support.commands import edgepack, edgepack_runtime, refused
from tests.support.targets import ELF_X86_64, make_root
from tests.support.updates import PROGRAM, WEIGHTS, scattered, version_of

CODE, LAYERS = Random(1).randbytes(2 << 20), Random(2).randbytes(3 << 20)
STATE = "var/lib/edgepack"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`old.epk` and `new.epk`, whose program is another, and a device."""
    make_root(tmp_path / "root", ELF_X86_64)
    files = {PROGRAM: CODE, WEIGHTS: LAYERS, "runtime/library": b"library"}
    for name, draft in {
        "old": version_of(files, "1.0.0", 1),
        "new": version_of({**files, PROGRAM: scattered(CODE, 30)}, "1.1.0", 2),
    }.items():
        draft.write(tmp_path / f"{name}.epk")
    return tmp_path


def diff(folder: Path, *options: str | Path) -> str:
    outcome = edgepack(
        *("diff", folder / "old.epk", folder / "new.epk", *options), cache=folder / "cache"
    )
    assert outcome.status == 0, outcome.err
    return outcome.out


def write_update(folder: Path) -> Path:
    path = folder / "update.epk"
    diff(folder, "-o", path)
    return path


def installed(folder: Path, name: str) -> str:
    outcome = edgepack_runtime(
        *("install", folder / name, "--root", folder / "root", "--json"),
    )
    assert outcome.status == 0, outcome.err
    digest: str = json.loads(outcome.out)["digest"]
    return digest


def test_table_and_json_say_what_moves(folder: Path) -> None:
    table = diff(folder)
    runtime = next(line.split() for line in table.splitlines() if line.startswith(" runtime"))
    assert runtime == ["runtime", "1", "0", "0", "1", "2.1", "MB", "2.1", "MB", "0.0", "MB"]
    assert f"patch   {PROGRAM}" in table
    assert "The patches need 4.2 MB of free memory on the device." in table
    assert not (folder / "update.epk").exists()

    result = json.loads(diff(folder, "--json", "-o", folder / "update.epk"))
    assert result["size"] == (folder / "update.epk").stat().st_size
    assert result["from"]["version"] == "1.0.0"
    moved = {record["path"]: record["moved"] for record in result["records"]}
    assert moved == {WEIGHTS: 0, "runtime/library": 0, PROGRAM: result["bytes"]["moved"]}
    assert result["bytes"]["moved"] < 5000
    assert result["bytes"]["new"] == len(CODE)
    assert result["components"]["model"]["unchanged"] == 1


def test_device_with_the_older_release_installs_the_new_one(folder: Path) -> None:
    installed(folder, "old.epk")
    update = write_update(folder)
    assert update.stat().st_size < 20_000
    digest = installed(folder, update.name)
    current = folder / "root" / STATE / "current"
    assert current.resolve().name == digest
    assert (current / PROGRAM).read_bytes() == scattered(CODE, 30)
    assert (current / WEIGHTS).stat().st_nlink == 2, "the weights are stored once"
    outcome = edgepack_runtime("verify", current.resolve())
    assert outcome.status == 0, outcome.err
    # The complete bundle is the same release, and an update can come again.
    assert installed(folder, "new.epk") == digest
    assert installed(folder, update.name) == digest


def test_update_has_the_signatures_of_the_complete_bundle(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPACK_KEYS", str(folder / "keys"))
    make_root(folder / "strict", ELF_X86_64, allow_unsigned=False)
    strict = ("--root", folder / "strict")
    unsigned = write_update(folder).rename(folder / "unsigned.epk")
    for name in ("old.epk", "new.epk"):
        assert edgepack("sign", folder / name).status == 0
    first = ("install", folder / "old.epk", *strict, "--key", folder / "keys/default.pem")
    assert edgepack_runtime(*first).status == 0
    refused(edgepack_runtime("install", unsigned, *strict), 8, "not signed")
    outcome = edgepack_runtime("install", write_update(folder), *strict)
    assert outcome.status == 0, outcome.err


def test_device_without_the_older_release_refuses(folder: Path) -> None:
    update = write_update(folder)
    outcome = edgepack_runtime("install", update, "--root", folder / "root")
    refused(outcome, 8, "devices with version 1.0.0", "3 of the 3 files", "complete bundle")
    assert list((folder / "root" / STATE / "releases").iterdir()) == []


def test_damaged_older_release_leaves_the_device_as_it_was(folder: Path) -> None:
    digest = installed(folder, "old.epk")
    update = write_update(folder)
    current = folder / "root" / STATE / "current"
    (current / PROGRAM).write_bytes(scattered(CODE, 1, seed=5))
    outcome = edgepack_runtime("install", update, "--root", folder / "root")
    refused(outcome, 7, "builds on is damaged", PROGRAM, "complete bundle")
    assert current.resolve().name == digest
    assert [path.name for path in current.resolve().parent.iterdir()] == [digest]
    installed(folder, "new.epk")


@pytest.mark.parametrize("command", ["inspect", "verify", "run", "flash"])
def test_host_refuses_an_update_where_it_needs_the_complete_bundle(
    folder: Path, command: str
) -> None:
    update = write_update(folder)
    target = [folder / "root"] if command == "flash" else []
    refused(edgepack(command, update, *target), 7, "this is an update", "complete bundle")


def test_update_as_one_of_the_two_bundles(folder: Path) -> None:
    update = write_update(folder)
    outcome = edgepack("diff", folder / "old.epk", update, cache=folder / "cache")
    refused(outcome, 7, "this is an update")


def test_damaged_bundle_leaves_no_update(folder: Path) -> None:
    data = (folder / "new.epk").read_bytes()
    (folder / "new.epk").write_bytes(data[: len(data) // 2])
    outcome = edgepack(
        *("diff", folder / "old.epk", folder / "new.epk", "-o", folder / "u.epk"),
        cache=folder / "cache",
    )
    refused(outcome, 7, "truncated")
    assert not (folder / "u.epk").exists()
