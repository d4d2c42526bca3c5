"""What the demo suggests to try next can be typed as it is printed."""

import shlex
import sys
from pathlib import Path

import click
import pytest

from packager import demo, profile
from packager.cli import cli
from packager.models.catalog import DEFAULT_MODEL


def _commands(bundle: Path, model: str = DEFAULT_MODEL) -> list[list[str]]:
    return [shlex.split(line.partition(": ")[2]) for line in demo.next_steps(bundle, model)]


@pytest.mark.parametrize("model", [DEFAULT_MODEL, "./my model"])
def test_suggested_commands_are_valid(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/elsewhere/edgepack", "demo"])
    monkeypatch.setenv("PATH", str(tmp_path))
    bundle = tmp_path / "a name.epk"
    bundle.touch()
    for program, name, *arguments in _commands(bundle, model):
        assert program == "/elsewhere/edgepack"
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        context = command.make_context(name, list(arguments))
        if name == "build":
            assert context.params["model"] == model
            profile.load(context.params["profile_name"])
        else:
            assert context.params["bundle"] == bundle


def test_the_program_is_named_as_it_can_be_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "edgepack"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    assert {command[0] for command in _commands(tmp_path / "x.epk")} == {"edgepack"}
    monkeypatch.setattr(sys, "argv", ["/site-packages/packager/__main__.py", "demo"])
    for command in _commands(tmp_path / "x.epk"):
        assert command[:3] == [sys.executable, "-m", "packager"]
