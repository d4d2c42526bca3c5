"""The lines of the terminal chat."""

import builtins
import sys
from collections.abc import Iterator

import pytest

from device_runtime.commands import chat


def test_lines_are_read_where_the_editor_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed: Iterator[str | BaseException] = iter(["Hi", KeyboardInterrupt(), "/exit", EOFError()])

    def type_next(prompt: str) -> str:
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr(builtins, "input", type_next)
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    assert list(chat._lines()) == ["Hi", "/exit"]
    log = capsys.readouterr().err
    assert "Lines are read without an editor" in log
    assert "Press Ctrl-D or type /exit to leave." in log
