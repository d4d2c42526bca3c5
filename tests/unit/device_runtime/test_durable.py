"""Changes to a folder, where the tests of their users do not get to."""

import ctypes
import errno
import os
from pathlib import Path

import pytest

from device_runtime.durable import open_folder


@pytest.mark.parametrize("supported", [True, False])
def test_exchange_of_a_folder_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/inner").write_text("")
    (tmp_path / "file").write_text("text")
    if not supported:  # as with an old C library
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    with open_folder(tmp_path) as opened:
        opened.exchange("folder", "file")
        assert (tmp_path / "file/inner").is_file()
        assert (tmp_path / "folder").read_text() == "text"
        assert sorted(opened.names()) == ["file", "folder"]


def test_exchange_with_what_is_missing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with open_folder(tmp_path) as opened, pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        opened.exchange("file", "missing")
