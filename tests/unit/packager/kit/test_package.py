"""Kits as packages: the wheel, how it is found, and what is left aside."""

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import device_runtime
from packager import bundle, kit
from packager.cli import main
from packager.errors import KitError
from packager.kit import Kit, collection, package
from packager.kit.collection import Description
from tests.support.kits import NAME, cannot_freeze, install, put, stored

PACKAGE = "edgepack-kit-linux-aarch64-cpu"
VERSION = device_runtime.__version__
INSIDE = "edgepack_kits/linux_aarch64_cpu"


@pytest.fixture(autouse=True)
def cache(own_cache: Path) -> Path:
    return own_cache


@pytest.fixture
def wheel(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel of a kit, and a machine that has nothing else and can freeze nothing."""
    path = kit.write_package(stored(cache), tmp_path / "dist")
    shutil.rmtree(cache)
    cannot_freeze(monkeypatch)
    return path


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(KitError) as caught:
        call()
    assert caught.value.hint
    return f"{caught.value} {caught.value.hint}"


def changed(wheel: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The wheel with other content; None leaves a file out."""
    path = wheel.with_name("changed.whl")
    with zipfile.ZipFile(wheel) as before, zipfile.ZipFile(path, "w") as after:
        for name in before.namelist():
            data = change(name, before.read(name))
            if data is not None:
                after.writestr(name, data)
    return path


def of_another_version(cache: Path, tmp_path: Path) -> Path:
    """The wheel that edgepack 0.0.9 made of its kit."""
    path = kit.write_package(stored(cache, recipe="0" * 64, edgepack="0.0.9"), tmp_path / "old")
    shutil.rmtree(cache)
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(tmp_path / "old.whl", "w") as after:
        for name in before.namelist():
            data = before.read(name)
            if not name.endswith(".zst"):
                data = data.replace(f"Version: {VERSION}".encode(), b"Version: 0.0.9")
            after.writestr(name.replace(f"-{VERSION}.", "-0.0.9."), data)
    return tmp_path / "old.whl"


def test_wheel_is_for_every_host_and_the_same_each_time(cache: Path, tmp_path: Path) -> None:
    folder = put(cache)
    again = tmp_path / "another-cache"
    shutil.copytree(cache, again, symlinks=True)
    for file in again.rglob("*"):
        os.utime(file, (1e9, 1e9), follow_symlinks=False)
    load = collection.load
    first = kit.write_package(load(folder, imported=False), tmp_path / "1")
    second = kit.write_package(
        load(again / folder.relative_to(cache), imported=True), tmp_path / "2"
    )
    assert first.name == f"edgepack_kit_linux_aarch64_cpu-{VERSION}-py3-none-any.whl"
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_record_of_the_wheel_is_right(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        (record,) = (name for name in archive.namelist() if name.endswith("/RECORD"))
        rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
        assert {row[0] for row in rows} == set(archive.namelist())
        for name, digest, size in rows:
            if name != record:
                data = archive.read(name)
                sha256 = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
                assert (digest, size) == (f"sha256={sha256.decode()}", str(len(data)))
            about = archive.getinfo(name)
            assert about.date_time == (1980, 1, 1, 0, 0, 0)
            assert about.external_attr >> 16 == 0o100644


def test_wheel_that_an_index_would_not_take_is_warned_of(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = stored(cache)
    kit.write_package(whole, tmp_path)
    assert "warning" not in capsys.readouterr().err
    monkeypatch.setattr(package, "LIMIT", 1000)
    kit.write_package(whole, tmp_path)
    assert "edgepack kit push" in capsys.readouterr().err


def test_pip_installs_the_wheel_beside_its_edgepack_only(wheel: Path, tmp_path: Path) -> None:
    def pip(*arguments: str | Path) -> str:
        command = [sys.executable, "-m", "pip", "install", "--no-index", "--target"]
        done = subprocess.run(
            [*command, tmp_path / "site", *arguments, wheel],
            env={**os.environ, "PATH": "/usr/bin:/bin", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stderr if done.returncode else ""

    assert f"edgepack=={VERSION}" in pip()
    assert pip("--no-deps") == ""
    assert (tmp_path / "site" / INSIDE / "kit.json").is_file()


def test_installed_package_is_taken_before_any_is_frozen(
    wheel: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"pip install {PACKAGE}=={VERSION}" in refused(lambda: kit.ensure(NAME))
    install(wheel, tmp_path / "site", monkeypatch)
    assert kit.is_there(NAME)
    assert not (cache / "kit-imported").exists()
    taken = kit.ensure(NAME)
    assert (taken.folder / "edgepack-runtime").read_bytes() == b"\x7fELF program"
    assert (taken.folder / "_internal/a.so").readlink() == Path("lib/a.so.1")
    # From then on, the kit in the cache does.
    (tmp_path / "site" / INSIDE / "kit.tar.zst").write_bytes(b"")
    assert kit.ensure(NAME).folder == taken.folder


def test_package_of_another_version_is_left_aside(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(of_another_version(cache, tmp_path), tmp_path / "site", monkeypatch)
    fits = stored(cache)
    assert kit.is_there(NAME)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert kit.ensure(NAME).folder == fits.folder
    warning = capsys.readouterr().err
    assert f"ignoring the package {PACKAGE} 0.0.9: edgepack 0.0.9 froze it" in warning
    assert f"edgepack {VERSION} uses" in warning
    assert f"pip install {PACKAGE}=={VERSION}" in warning


def test_package_of_another_version_and_no_other_kit(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(of_another_version(cache, tmp_path), tmp_path / "site", monkeypatch)
    cannot_freeze(monkeypatch)
    assert f"pip install {PACKAGE}=={VERSION}" in refused(lambda: kit.ensure(NAME))
    assert "0.0.9" in capsys.readouterr().err
    assert not (cache / "kit-imported").exists()


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("kit.json", lambda data: b"{", "is damaged"),
        ("kit.json", lambda data: None, "is damaged"),
        ("kit.tar.zst", lambda data: None, "does not exist"),
        ("kit.tar.zst", lambda data: b"text", "is not a kit"),
        ("kit.tar.zst", lambda data: data[:60], "is not a kit"),
        ("kit.tar.zst", lambda data: data[:-20] + bytes(20), "is not a kit"),
    ],
)
def test_damaged_package(
    wheel: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    change: Callable[[bytes], bytes | None],
    word: str,
) -> None:
    broken = changed(wheel, lambda n, data: change(data) if n.endswith(name) else data)
    install(broken, tmp_path / "site", monkeypatch)
    assert word in refused(lambda: kit.ensure(NAME))
    folder = cache / "kit-imported"
    assert not folder.exists() or list(folder.iterdir()) == []


def test_file_of_a_package_is_imported_as_well(wheel: Path) -> None:
    assert kit.import_(wheel).facts.name == NAME
    assert kit.ensure(NAME).imported


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_cut_wheel(wheel: Path, cache: Path, part: float) -> None:
    data = wheel.read_bytes()
    wheel.write_bytes(data[: int(len(data) * part)])
    assert "is not a kit" in refused(lambda: kit.import_(wheel))
    assert list((cache / "kit-imported").iterdir()) == []


def test_encrypted_wheel(wheel: Path) -> None:
    data = bytearray(wheel.read_bytes())
    entry = -1
    while (entry := data.find(b"PK\x01\x02", entry + 1)) >= 0:
        data[entry + 8] |= 1
    wheel.write_bytes(data)
    assert "encrypted" in refused(lambda: kit.import_(wheel))


def test_wheel_of_something_else(wheel: Path) -> None:
    other = changed(wheel, lambda name, data: None if name.endswith(".zst") else data)
    assert "is not the package of a kit" in refused(lambda: kit.import_(other))


def test_given_kit_comes_first_and_must_fit(
    wheel: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = kit.import_(wheel)
    assert kit.ensure(NAME, given) is given
    other = refused(lambda: kit.ensure("linux-x86_64-cpu", given))
    assert "the given kit is linux-aarch64-cpu; this build needs linux-x86_64-cpu" in other
    old = stored(cache, recipe="0" * 64, edgepack="0.0.9")
    message = refused(lambda: kit.ensure(NAME, old))
    assert "edgepack 0.0.9" in message
    assert f"pip install {PACKAGE}=={VERSION}" in message


def listed(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, bool]]:
    capsys.readouterr()
    main(["kit", "list", "--json"])
    return [(row["from"], row["folder"] is None) for row in json.loads(capsys.readouterr().out)]


def test_list_tells_where_kits_come_from(
    wheel: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert listed(capsys) == []
    kit.import_(wheel)
    put(cache, recipe="0" * 64)
    assert sorted(listed(capsys)) == [("frozen here", False), ("imported", False)]
    shutil.rmtree(cache)
    install(wheel, tmp_path / "site", monkeypatch)
    assert listed(capsys) == [(f"{PACKAGE} {VERSION}", True)]
    kit.ensure(NAME)
    assert listed(capsys) == [(f"{PACKAGE} {VERSION}", False)]


def packed(of: Kit) -> list[object]:
    parts = bundle.pack(of.tree, "runtime", {"kit": str(of.folder)}, lambda _: "runtime")
    return [part.record for part in parts]


def test_kit_is_the_same_where_files_have_no_modes_and_links_cannot_be_made(
    wheel: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = kit.import_(wheel)
    kit.export(whole, tmp_path / "whole.tar")
    records = packed(whole)
    monkeypatch.setenv("EDGEPACK_CACHE", str(tmp_path / "poor"))

    def no_links(path: Path, target: object) -> None:
        raise OSError("A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    monkeypatch.setattr(Path, "chmod", lambda path, mode: None)
    poor = kit.import_(wheel)
    assert not (poor.folder / "_internal/a.so").exists()
    assert not (poor.folder / "edgepack-runtime").stat().st_mode & 0o100
    kit.export(poor, tmp_path / "poor.tar")
    assert (tmp_path / "poor.tar").read_bytes() == (tmp_path / "whole.tar").read_bytes()
    assert packed(poor) == records


def test_lists_of_links_and_programs_are_those_of_the_files(cache: Path, tmp_path: Path) -> None:
    for field in ("links", "programs"):
        folder = put(cache)
        about = msgspec.json.decode((folder / "kit.json").read_bytes(), type=Description)
        wrong = msgspec.structs.replace(about, **{field: type(getattr(about, field))()})
        given = collection.load(folder, imported=False)
        (folder / "kit.json").write_bytes(msgspec.json.encode(wrong))
        kit.export(given, tmp_path / "kit.tar")
        message = refused(lambda: kit.import_(tmp_path / "kit.tar"))
        assert "do not match its digest" in message
        shutil.rmtree(cache)
