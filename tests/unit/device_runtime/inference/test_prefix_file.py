"""The KV cache of a prefix in a file, with a generator whose numbers tell the position."""

import errno
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import device_runtime
from device_runtime import onnx_api
from device_runtime.inference import prefix_file
from device_runtime.inference.kv_cache import KvCache, Tokens
from device_runtime.inference.kv_rows import KvRows, Layout
from device_runtime.inference.prefix_file import FILE_NAME, MIN_TOKENS, PrefixFile
from tests.support import syscalls

LAYOUT = Layout(shapes=((2, 16),) * 4, kind=np.float32)
PREFIX = np.arange(1000, 1100, dtype=np.int32)
QUESTION = [7, 8, 9]
ROOM = 20
SIZE = 16 + 2 * 32 + len(PREFIX) * LAYOUT.token_bytes


class Sequence:
    """A generator that computes something of each token and its position."""

    def __init__(self, rows: KvRows) -> None:
        self._rows = rows
        self.row = rows.take()

    def append_tokens(self, tokens: Tokens) -> None:
        begin = self.row.length
        self.row.length += len(tokens)
        places = np.arange(begin, self.row.length)
        computed = np.sin(places * 1000.0 + tokens).astype(np.float32)
        for cache in self._rows._caches:
            cache[self.row.index][:, begin : self.row.length] = computed[:, None]

    @property
    def cache(self) -> npt.NDArray[np.float32]:
        return np.array([cache[self.row.index] for cache in self._rows._caches])

    def parts(self, tokens: int) -> list[memoryview]:
        return self._rows.parts(self.row, tokens)

    def holds(self, tokens: int) -> None:
        self.row.length = tokens

    def keep_from(self, length: int) -> None:
        pass

    def rewind_to(self, length: int) -> None:
        self.row.length = length


class Engine:
    """The slots of a process, and the file as that process uses it."""

    def __init__(self, folder: Path, *, layout: Layout = LAYOUT, model: str = "a") -> None:
        self.sequences: list[Sequence] = []
        rows = KvRows(layout, capacity=512, count=4)

        def make(*_: object) -> Sequence:
            self.sequences.append(Sequence(rows))
            return self.sequences[-1]

        self.cache = KvCache(
            make,
            token_bytes=layout.token_bytes,
            returns=True,
            budget=1 << 30,
            context_length=512,
            most=4,
            available=lambda: 1 << 40,
        )
        self.layout = layout
        self.file = PrefixFile(folder, model=model, threads=0)
        self.writing: Iterator[bool] = iter(())

    def start(self, prefix: Tokens = PREFIX) -> bool:
        """Read the file; return whether it had the prefix."""
        self.writing = self.file.load(self.cache, prefix, ROOM, self.layout)
        return any(len(slot.tokens) == len(prefix) for slot in self.cache.slots)

    def idle(self, prefix: Tokens = PREFIX) -> None:
        """Do all that is left to do."""
        while next(self.writing, False) or self.cache.warm(prefix, ROOM, 40):
            pass

    def numbers(self) -> npt.NDArray[np.float32]:
        """The KV cache of the prefix, in the first slot."""
        return self.sequences[0].cache[:, :, : len(PREFIX)].copy()


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with the file."""
    engine = Engine(tmp_path)
    assert not engine.start()
    engine.idle()
    return tmp_path


def events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, Any]]:
    """The lines of the log, and their reasons."""
    return [
        (record.msg, record.__dict__["edgepack_fields"].get("reason")) for record in caplog.records
    ]


def test_next_process_reads_bit_for_bit_what_was_prefilled(
    kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert [path.name for path in kept.iterdir()] == [FILE_NAME]
    assert (kept / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert (kept / FILE_NAME).stat().st_size == SIZE
    changed = (kept / FILE_NAME).stat().st_mtime_ns
    prefilled, read = Engine(kept.parent / "missing"), Engine(kept)
    assert not prefilled.start()
    while prefilled.cache.warm(PREFIX, ROOM, 30):
        pass
    assert read.start()
    assert read.numbers().tobytes() == prefilled.numbers().tobytes()
    assert len(set(read.numbers().ravel().tolist())) == len(PREFIX)
    read.idle()
    assert len(read.sequences) == 1
    assert events(caplog) == [("prefix_read", None)]
    assert (kept / FILE_NAME).stat().st_mtime_ns == changed


def test_tokens_that_are_prefilled_already_are_not_written_over(kept: Path) -> None:
    path = kept / FILE_NAME
    whole = path.read_bytes()
    expected = Engine(kept)
    assert expected.start()
    path.write_bytes(whole[:80] + bytes(len(whole) - 80))
    engine = Engine(kept)
    assert engine.cache.warm(PREFIX, ROOM, 40)
    assert not engine.start()
    engine.idle()
    assert engine.numbers().tobytes() == expected.numbers().tobytes()
    assert path.read_bytes() == whole


def test_conversation_goes_on_from_what_was_read(kept: Path) -> None:
    engine = Engine(kept)
    assert engine.start()
    slot = engine.cache.take([*PREFIX.tolist(), *QUESTION], 200, "")
    assert slot is not None
    assert slot.tokens == PREFIX.tolist()
    slot.append(np.array(QUESTION, np.int32))
    assert engine.sequences[0].row.length == len(PREFIX) + len(QUESTION)


def test_nothing_of_a_conversation_is_in_the_file(kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    engine = Engine(folder)
    engine.start()
    slot = engine.cache.take([*PREFIX.tolist(), *QUESTION], 200, "")
    assert slot is not None
    slot.append(np.concatenate((PREFIX, np.array(QUESTION, np.int32))))
    engine.cache.give_back(slot)
    engine.idle()
    assert (folder / FILE_NAME).read_bytes() == (kept / FILE_NAME).read_bytes()


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda _: b"", "another form"),
        (lambda data: data[:10], "another form"),
        (lambda data: flipped(data, 3), "another form"),
        (lambda data: b"\xff" * len(data), "another form"),
        (lambda data: data[:40], "of another"),
        (lambda data: flipped(data, 20), "of another"),
        (lambda data: data[:48], "another size"),
        (lambda data: data[:80], "another size"),
        (lambda data: data[:-1], "another size"),
        (lambda data: data + b"\0", "another size"),
        (lambda data: data[:48] + bytes(32) + data[80:], "damaged"),
        (lambda data: flipped(data, 50), "damaged"),
        (lambda data: flipped(data, 80), "damaged"),
        (lambda data: flipped(data, len(data) - 1), "damaged"),
        (lambda data: data[:80] + bytes(len(data) - 80), "damaged"),
    ],
)
def test_damaged_file_is_ignored_and_replaced(
    kept: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes],
    reason: str,
) -> None:
    path = kept / FILE_NAME
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    engine = Engine(kept)
    assert not engine.start()
    ((event, text),) = events(caplog)
    assert event == "prefix_ignored"
    assert reason in text
    engine.idle()
    assert path.read_bytes() == whole
    prefilled = Engine(kept)
    assert prefilled.start()
    assert engine.numbers().tobytes() == prefilled.numbers().tobytes()


def test_huge_file_is_not_read(kept: Path) -> None:
    os.truncate(kept / FILE_NAME, 1 << 40)
    assert not Engine(kept).start()


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_entry_that_is_not_a_file_is_ignored(
    kept: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path = kept / FILE_NAME
    elsewhere = path.rename(kept / "elsewhere")
    if kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    engine = Engine(kept)
    assert not engine.start()
    assert "not a plain file" in events(caplog)[0][1]
    engine.idle()
    assert Engine(kept).start() == (kind != "folder")
    assert len(elsewhere.read_bytes()) == SIZE


@pytest.mark.parametrize(
    "change",
    [
        "model",
        "threads",
        "program",
        "library",
        "processor",
        "layers",
        "heads",
        "width",
        "kind",
        "tokens",
        "longer",
    ],
)
def test_file_for_anything_else_is_ignored_and_replaced(
    kept: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    prefix = PREFIX
    more: dict[str, Any] = {
        "layers": {"shapes": ((2, 16),) * 2},
        "heads": {"shapes": ((4, 16),) * 4},
        "width": {"shapes": ((2, 32),) * 4},
        "kind": {"kind": np.int32},
    }
    layout = replace(LAYOUT, **more.get(change, {}))
    if change == "program":
        monkeypatch.setattr(device_runtime, "__version__", "0")
    elif change == "library":
        monkeypatch.setattr(onnx_api, "library_version", lambda: "1.0.0")
    elif change == "processor":
        monkeypatch.setattr(prefix_file, "fingerprint", lambda: "b")
    elif change == "tokens":
        prefix = PREFIX.copy()
        prefix[-1] += 1
    elif change == "longer":
        prefix = np.arange(1000, 1101, dtype=np.int32)
    engine = Engine(kept, layout=layout, model="b" if change == "model" else "a")
    if change == "threads":
        engine.file = PrefixFile(kept, model="a", threads=1)
    before = (kept / FILE_NAME).read_bytes()
    assert not engine.start(prefix)
    assert "of another prefix, model, program or processor" in events(caplog)[0][1]
    engine.idle(prefix)
    assert [path.name for path in kept.iterdir()] == [FILE_NAME]
    assert (kept / FILE_NAME).read_bytes() != before
    next_engine = Engine(kept, layout=layout)
    next_engine.file = engine.file
    assert next_engine.start(prefix)


def test_short_prefix_is_not_kept(tmp_path: Path) -> None:
    for count in (MIN_TOKENS, MIN_TOKENS - 1):
        folder = tmp_path / str(count)
        folder.mkdir()
        engine = Engine(folder)
        engine.start(PREFIX[:count])
        engine.idle(PREFIX[:count])
        assert (folder / FILE_NAME).exists() == (count == MIN_TOKENS)


@pytest.mark.parametrize(("free", "fits"), [(SIZE * 10, True), (SIZE * 10 - 4096, False)])
def test_file_takes_at_most_a_tenth_of_the_free_disk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    free: int,
    fits: bool,
) -> None:
    class Disk(NamedTuple):
        f_bavail: int
        f_frsize: int

    monkeypatch.setattr(os, "statvfs", lambda _: Disk(-(-free // 4096), 4096))
    engine = Engine(tmp_path)
    engine.start()
    engine.idle()
    assert (tmp_path / FILE_NAME).exists() == fits
    assert [event for event, _ in events(caplog)] == ["prefix_not_kept"] * (not fits)
    assert not any(path.name != FILE_NAME for path in tmp_path.iterdir())


def test_folder_that_is_missing_costs_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(tmp_path / "missing")
    engine.start()
    engine.idle()
    assert [event for event, _ in events(caplog)] == ["prefix_not_kept"]


def test_processor_that_is_not_known_costs_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> str:
        raise FileNotFoundError("/proc/cpuinfo")

    monkeypatch.setattr(prefix_file, "fingerprint", fail)
    engine = Engine(tmp_path)
    engine.start()
    engine.idle()
    assert [event for event, _ in events(caplog)] == ["prefix_not_kept"]


def test_writing_takes_steps_and_waits_for_a_prefix_that_was_dropped(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "steps"
    folder.mkdir()
    monkeypatch.setattr(prefix_file, "STEP", 3 * len(PREFIX) * 16 * 4)
    engine = Engine(folder)
    engine.start()
    assert not next(engine.writing)
    while engine.cache.warm(PREFIX, ROOM, 40):
        pass
    assert next(engine.writing)
    engine.cache.clear()
    assert not next(engine.writing)
    assert not next(engine.writing)
    while engine.cache.warm(PREFIX, ROOM, 40):
        pass
    assert list(engine.writing) == [True, True]
    assert (folder / FILE_NAME).read_bytes() == (kept / FILE_NAME).read_bytes()


def test_writing_goes_on_beside_a_conversation_that_took_the_slot(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "steps"
    folder.mkdir()
    monkeypatch.setattr(prefix_file, "STEP", 1)
    engine = Engine(folder)
    engine.start()
    while engine.cache.warm(PREFIX, ROOM, 40):
        pass
    assert next(engine.writing)
    slot = engine.cache.take([*PREFIX.tolist(), *QUESTION], 200, "")
    assert slot is not None
    slot.append(np.array(QUESTION, np.int32))
    engine.cache.give_back(slot)
    assert list(engine.writing) == [True] * 7
    assert (folder / FILE_NAME).read_bytes() == (kept / FILE_NAME).read_bytes()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("error", [0, errno.ENOSPC, errno.EIO])
def test_writing_that_is_interrupted_leaves_the_old_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool, error: int
) -> None:
    monkeypatch.setattr(prefix_file, "STEP", 3 * len(PREFIX) * 16 * 4)
    onnx_api.library_version()
    folders = (tmp_path / str(number) for number in itertools.count())

    def prepared() -> Path:
        folder = next(folders)
        folder.mkdir()
        if old:
            (folder / FILE_NAME).write_bytes(b"old")
        return folder

    def change(folder: Path) -> Callable[[], int]:
        def run() -> int:
            engine = Engine(folder)
            engine.start()
            engine.idle()
            return 0

        return run

    folder = prepared()
    calls = syscalls.run(change(folder)).calls
    whole = (folder / FILE_NAME).read_bytes()
    assert len(whole) == SIZE
    assert {"rename", "fsync", "fdatasync", "write"} <= {name.removesuffix("at") for name in calls}
    for at in range(len(calls)):
        folder = prepared()
        run = syscalls.run(change(folder), at, error)
        assert run.status == (0 if error else None), run.output
        path = folder / FILE_NAME
        left = path.read_bytes() if path.exists() else None
        assert left in (whole, b"old" if old else None), (at, calls[at])
        after = Engine(folder)
        assert after.start() == (left == whole)
        after.idle()
        assert path.read_bytes() == whole
        assert [entry.name for entry in folder.iterdir()] == [FILE_NAME]
