"""A stage of the cache is there whole or not at all."""

import os
import threading
from pathlib import Path

import pytest

from packager import cache

pytestmark = pytest.mark.usefixtures("own_cache")


def test_made_once_for_the_same_inputs() -> None:
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "result").write_text("x")

    first = cache.stage("s", {"a": 1, "b": 2}, make)
    assert cache.stage("s", {"b": 2, "a": 1}, make) == first
    assert (first / "result").read_text() == "x"
    other = cache.stage("s", {"a": 2, "b": 2}, make)
    assert other != first
    assert len(calls) == 2


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()])
def test_failure_leaves_nothing(own_cache: Path, error: BaseException) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise error

    with pytest.raises(type(error)):
        cache.stage("s", {}, make)
    assert [path for path in (own_cache / "s").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("moment", ["layer-001", "fsync", "rename"])
def test_what_is_done_of_a_stage_outlives_an_interruption(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    made: list[str] = []

    def make(target: Path) -> None:
        folder = cache.unfinished({"a": 1})
        for name in ("layer-000", "layer-001"):
            if not (folder / name).exists():
                if name == moment and not made.count("interrupted"):
                    made.append("interrupted")
                    raise KeyboardInterrupt
                made.append(name)
                (folder / name).write_text(name)
            (target / name).hardlink_to(folder / name)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if hasattr(os, moment):
            patch.setattr(os, moment, interrupt)
        cache.stage("s", {"a": 1}, make)
    assert list(cache.unfinished({"a": 2}).iterdir()) == []
    stage = cache.stage("s", {"a": 1}, make)
    assert sorted(path.name for path in stage.iterdir()) == ["layer-000", "layer-001"]
    assert [made.count(name) for name in ("layer-000", "layer-001")] == [1, 1]
    assert not (own_cache / "unfinished" / stage.name).exists()


def test_leftover_of_a_killed_process_is_removed(own_cache: Path) -> None:
    digest = cache.key({})
    leftover = own_cache / "s" / f".{digest}-killed"
    leftover.mkdir(parents=True)
    cache.stage("s", {}, lambda folder: None)
    assert not leftover.exists()


def test_two_at_once_make_it_once() -> None:
    calls = []
    barrier = threading.Barrier(2)

    def make(folder: Path) -> None:
        calls.append(folder)

    def work() -> None:
        barrier.wait()
        cache.stage("s", {}, make)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
