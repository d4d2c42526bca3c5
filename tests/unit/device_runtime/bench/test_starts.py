"""Starts of a program, and what is in the page cache before them."""

import json
import sys
from pathlib import Path

import pytest

from device_runtime.bench import page_cache, starts
from device_runtime.bundle.release import Release
from device_runtime.errors import EngineError
from tests.support import releases


def test_files_leave_the_page_cache_unless_they_are_mapped(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(range(256)) * 4096)
    empty = tmp_path / "empty"
    empty.touch()
    file.read_bytes()
    assert page_cache.cached_share([file, empty]) == 1.0
    page_cache.drop([file, empty])
    assert page_cache.cached_share([file]) in (0.0, 1.0)  # 1 on a file system that is memory
    assert page_cache.cached_share([empty]) is None


def _program(tmp_path: Path, text: str) -> list[str]:
    return [sys.executable, "-c", f"from pathlib import Path; {text}", str(tmp_path / "log")]


@pytest.fixture
def release(tiny_onnx: Path, tmp_path: Path) -> Release:
    return releases.release(tmp_path / "release", tiny_onnx)


def test_starts_are_cold_and_warm_in_turns(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[int] = []
    monkeypatch.setattr(page_cache, "drop", lambda files: dropped.append(len(list(files))))
    monkeypatch.setattr(page_cache, "cached_share", lambda _: 0.1)
    log = tmp_path / "log"
    answer = json.dumps({"start_to_first_token_s": 0.5})
    command = _program(
        tmp_path, f"import sys; open(sys.argv[1], 'a').write('s'); print({answer!r})"
    )
    told: list[str] = []
    result = starts.measure(release, command, 2, told.append)
    assert len(dropped) == 2
    assert dropped[0] >= 5
    assert log.read_text() == "ssss"
    assert (result.warm_s.runs, result.warm_s.median) == (2, 0.5)
    assert result.cold_s is not None
    assert (result.cold_s.runs, result.cached_share) == (2, 0.1)
    assert len(told) == 2


@pytest.mark.parametrize("share", [0.9, None])
def test_start_with_files_in_memory_is_not_called_cold(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float | None
) -> None:
    monkeypatch.setattr(page_cache, "cached_share", lambda _: share)
    answer = json.dumps({"start_to_first_token_s": 0.5})
    result = starts.measure(release, _program(tmp_path, f"print({answer!r})"), 1, lambda _: None)
    assert (result.cold_s, result.cached_share) == (None, share)


def test_program_that_fails_is_an_error(release: Release, tmp_path: Path) -> None:
    command = _program(tmp_path, "import sys; sys.exit('error: no model here')")
    with pytest.raises(EngineError, match=r"did not answer: no model here"):
        starts.measure(release, command, 1, lambda _: None)
