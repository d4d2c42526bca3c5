"""The command line of the bench."""

import sys

import pytest

from scripts.bench import __main__ as bench


@pytest.mark.parametrize("option", [["--models", "nobody"], ["--only", "engines,nothing"]])
def test_unknown_names_are_refused_before_anything_is_built(
    option: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts.bench", *option])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 2
    assert f"there is no '{option[1].split(',')[-1]}': choose among" in capsys.readouterr().err
