"""The arguments that `edgepack run` and `edgepack bench` pass to the runtime of a bundle."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from packager import launch
from packager.commands.bundle import bench, run


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of runtimes that were started."""
    started: list[list[str]] = []
    monkeypatch.setattr(launch, "unpack_for_host", lambda bundle: bundle)
    monkeypatch.setattr(launch, "replace_process", lambda _, arguments: started.append(arguments))
    return started


def invoke(tmp_path: Path, *arguments: str) -> Result:
    bundle = tmp_path / "a.epk"
    bundle.touch()
    return CliRunner().invoke(run, [str(bundle), *arguments])


def test_images_go_with_the_question(tmp_path: Path, started: list[list[str]]) -> None:
    asked = ("--generate", "--what?", "--image", "a.png", "--image", "b c.png")
    assert invoke(tmp_path, *asked).exit_code == 0
    assert started == [["generate", "--image", "a.png", "--image", "b c.png", "--", "--what?"]]


def test_images_need_a_question(tmp_path: Path, started: list[list[str]]) -> None:
    refused = invoke(tmp_path, "--image", "a.png")
    assert refused.exit_code == 2
    assert "--image requires --generate" in refused.output
    assert not started


def test_bench_passes_its_options_on(tmp_path: Path, started: list[list[str]]) -> None:
    bundle = tmp_path / "a.epk"
    bundle.touch()
    options = ["--rounds", "2", "--json", "--picture", "a b.svg"]
    assert CliRunner().invoke(bench, [str(bundle), *options]).exit_code == 0
    assert started == [["bench", *options]]
    assert CliRunner().invoke(bench, [str(tmp_path / "missing.epk")]).exit_code == 2
