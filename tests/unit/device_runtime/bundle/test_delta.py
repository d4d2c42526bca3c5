"""An update gives the same release as the complete bundle, or is refused before it does harm."""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zstandard

from device_runtime import memory
from device_runtime.bundle import delta
from device_runtime.bundle.delta import MAX_PATCHED, open_update
from device_runtime.bundle.reader import open_bundle
from device_runtime.errors import BundleError, DeviceError, InstallError, ResourceError
from tests.support.bundles import tar
from tests.support.updates import PROGRAM, WEIGHTS, Update, scattered, version_of, with_delta

CODE = Random(1).randbytes(200_000)
LAYERS = Random(2).randbytes(300_000)
NEW_CODE = scattered(CODE, 20)


@pytest.fixture
def update(tmp_path: Path, own_cache: Path) -> Update:
    """The program changed a little, one file is new, the weights are the same."""
    old = {PROGRAM: CODE, WEIGHTS: LAYERS, "model/gone": b"gone"}
    new = {PROGRAM: NEW_CODE, WEIGHTS: LAYERS, "model/new.json": b"{}"}
    return Update(tmp_path, version_of(old, "1.0.0", 1), version_of(new, "1.1.0", 2))


def refuse(
    update: Update, data: bytes, match: str | None = None, error: type[DeviceError] = BundleError
) -> None:
    """Both ways of reading must refuse, with a hint."""
    path = update.folder / "bad.epk"
    path.write_bytes(data)
    with pytest.raises(error, match=match) as caught, update.opened(path) as opened:
        opened.verify()
    assert caught.value.hint
    folder = update.folder / "bad"
    folder.mkdir()
    with pytest.raises(error, match=match), update.opened(path) as opened:
        opened.unpack(folder)
    assert not (folder / "manifest.json").exists()


def test_gives_the_release_of_the_complete_bundle(update: Update) -> None:
    for name, path in (("whole", update.new), ("update", update.path)):
        (update.folder / name).mkdir()
        with update.opened(path) as bundle:
            release = bundle.unpack(update.folder / name)
        release.verify()
        assert release.manifest.version == "1.1.0"
    assert update.path.stat().st_size < update.new.stat().st_size / 10
    with open_bundle(update.new) as bundle:
        assert release.digest == bundle.digest
    assert release.program.read_bytes() == NEW_CODE


def test_content_of_the_device_is_linked_where_that_is_possible(update: Update) -> None:
    (update.folder / "out").mkdir()
    with update.opened() as bundle:
        release = bundle.unpack(
            update.folder / "out", shared=lambda record: update.base(record.sha256)
        )
    weights = release.folder / WEIGHTS
    assert weights.stat().st_ino == (update.release.folder / WEIGHTS).stat().st_ino


def test_other_readers_refuse_it_by_name(update: Update) -> None:
    with (
        pytest.raises(BundleError, match="this is an update") as caught,
        open_bundle(update.path),
    ):
        pass
    assert "complete bundle" in caught.value.hint


def test_device_without_the_older_release(update: Update) -> None:
    with (
        pytest.raises(InstallError, match=r"devices with version 1\.0\.0 .*2 of the 2") as caught,
        open_update(update.path) as bundle,
    ):
        bundle.build_on(lambda _: None)
    assert "complete bundle" in caught.value.hint


@pytest.mark.parametrize("path", [PROGRAM, WEIGHTS])
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"x", scattered])
def test_damaged_base(update: Update, path: str, damage: Callable[..., bytes]) -> None:
    file = update.release.folder / path
    file.write_bytes(
        damage(file.read_bytes(), 1) if damage is scattered else damage(file.read_bytes())
    )
    refuse(update, update.path.read_bytes(), "builds on is damaged")


def test_cut_anywhere(update: Update) -> None:
    data = update.path.read_bytes()
    for number in range(40):
        update.path.write_bytes(data[: len(data) * number // 40])
        with pytest.raises(BundleError), update.opened() as opened:
            opened.verify()


def test_any_flipped_byte(update: Update) -> None:
    data = update.path.read_bytes()
    for position in range(0, len(data), 5):
        flipped = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        update.path.write_bytes(flipped)
        with pytest.raises(DeviceError), update.opened() as opened:
            opened.verify()


def frame(data: bytes, **options: Any) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(compression_level=1, **options)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def test_truncated_patch_under_its_right_digest(update: Update) -> None:
    patch = next(iter(update.difference.patches.values()))
    for size in (1, 5, len(patch) // 2, len(patch) - 1):
        with (
            pytest.raises(BundleError),
            update.opened(_written(update, update.with_patch(patch[:size]))) as opened,
        ):
            opened.verify()


def _written(update: Update, data: bytes) -> Path:
    path = update.folder / "bad.epk"
    path.write_bytes(data)
    return path


def test_patch_for_another_base(update: Update) -> None:
    """It decodes to something else, which the manifest's digest shows."""
    other = zstandard.ZstdCompressionDict(NEW_CODE, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    patch = zstandard.ZstdCompressor(dict_data=other).compress(NEW_CODE)
    refuse(update, update.with_patch(patch), f"the data of {PROGRAM} is damaged")


def test_patch_bomb(update: Update) -> None:
    """A gigabyte in 30 KB is stopped at the length of the record."""
    bomb = frame(bytes(1 << 30), window_log=17)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    refuse(update, update.with_patch(bomb), f"the data of {PROGRAM} is damaged")
    assert time.process_time() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


def test_patch_that_asks_for_a_giant_window(update: Update) -> None:
    patch = frame(bytes(1 << 20), window_log=27, write_content_size=False)
    # The window log is the second byte after the magic number: RFC 8878, section 3.1.1.1.2.
    giant = patch[:5] + bytes([(31 - 10) << 3]) + patch[6:]
    refuse(update, update.with_patch(giant), "is damaged")


def test_base_of_the_update_itself(update: Update) -> None:
    """Only installed content is a base, so a patch can neither follow another nor itself."""
    with open_bundle(update.new) as bundle:
        own = next(r for r in bundle.manifest.records if r.path == PROGRAM)
    for base in (own.sha256, bundle.manifest.records[-1].sha256):

        def change(fields: dict[str, Any], base: str = base) -> None:
            fields["patches"][0].update(base=base, base_size=own.size)

        path = _written(update, update.changed(change))
        with (
            pytest.raises(InstallError, match="not installed here"),
            update.opened(path),
        ):
            pass


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: f["patches"][0].update(size=1 << 62), "Expected `int`"),
        (lambda f: f["patches"][0].update(size=-1), "Expected `int`"),
        (lambda f: f["patches"][0].update(size=1 << 64), "is not valid"),
        (lambda f: f["patches"][0].update(size=1 << 30), "wrong size"),
        (
            lambda f: f["patches"][0].update(base_size=MAX_PATCHED + 1),
            "Expected `int`",
        ),
        (lambda f: f["patches"][0].update(base_size=0), "Expected `int`"),
        (lambda f: f["patches"][0].update(base="../../etc/passwd"), "Expected `str`"),
        (lambda f: f["patches"][0].update(sha256="x"), "Expected `str`"),
        (lambda f: f["patches"][0].update(blob="0" * 64), "does not have"),
        (lambda f: f["patches"].append(f["patches"][0]), "named twice"),
        (lambda f: f["held"].append(f["patches"][0]["blob"]), "named twice"),
        (lambda f: f["held"].append("0" * 64), "does not have"),
        (lambda f: f.update(old_version="\x1b[2J"), "Expected `str`"),
        (lambda f: f.update(old="x"), "Expected `str`"),
        (lambda f: f.update(held=3), "is not valid"),
        (lambda f: f.pop("held"), "is not valid"),
        # What is not held is expected in the file.
        (lambda f: f["held"].pop(), "expected blobs/sha256/"),
    ],
)
def test_wrong_delta(update: Update, change: Callable[[dict[str, Any]], Any], match: str) -> None:
    refuse(update, update.changed(change), match)


def test_base_of_another_size(update: Update) -> None:
    refuse(update, update.changed(lambda f: f["patches"][0].update(base_size=5)), "is damaged")


def test_bases_that_are_too_much_together(update: Update, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta, "MAX_BASES", len(CODE) - 1)
    refuse(update, update.path.read_bytes(), "bases of more than")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[" * 400_000, b'{"patches": []}', b"\xff", b"{}" * 3_000_000]
)
def test_delta_that_is_not_one(update: Update, text: bytes) -> None:
    refuse(update, tar(with_delta(update.members(), text)))


def test_another_format_version(update: Update) -> None:
    members = update.members()
    members[0] = (members[0][0], members[0][1].replace(b" 2 ", b" 3 "))
    refuse(update, tar(members), "version 3")


def test_too_little_memory(update: Update, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 300_000)
    refuse(update, update.path.read_bytes(), "MiB of memory", ResourceError)
