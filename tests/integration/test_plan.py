"""The forecast of a build against what it takes, with a limit in force."""

import json
import sys
from pathlib import Path

import pytest

from scripts.build_memory import measure, number
from tests.support import phi_shape, tiny_gguf
from tests.support.commands import Outcome, refused


@pytest.mark.slow
@pytest.mark.requires("root", "cgroups")
def test_forecast_and_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = phi_shape.make(tmp_path / "model", layers=1)
    config = json.loads((model / "config.json").read_text())
    # Nearly every token ends an answer: what the answers take is not what is compared here.
    config["eos_token_id"] = [token for token in range(config["vocab_size"]) if token % 1024]
    (model / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("EDGEPACK_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text(" ".join(str(number) for number in range(400)))
    build = (
        *(sys.executable, "-m", "packager", "build", "--profile", "mobile", "--model", model),
        *("--recipe", "int4-rtn", "--allow-quality-loss", "--eval-text", text),
        *("-o", tmp_path / "out.epk"),
    )
    found, output = measure(build, 1_600_000_000)
    assert found["status"] == 0, output
    # Too little for fp32, enough for the type that the model is stored in.
    assert "generates in its stored dtype" in output
    assert number(r"needs up to (.*) GB RAM", output) == pytest.approx(
        found["peak_anonymous_gb"], rel=0.2
    )
    assert (tmp_path / "out.epk").is_file()


@pytest.mark.requires("root", "cgroups")
@pytest.mark.parametrize(
    ("kind", "work"), [("hf", "the build"), ("gguf", "converting model")], ids=["hf", "gguf"]
)
def test_too_little_memory(
    tmp_path: Path, tiny_hf: Path, monkeypatch: pytest.MonkeyPatch, kind: str, work: str
) -> None:
    source = tiny_hf if kind == "hf" else tiny_gguf.make_gguf(tiny_hf, tmp_path / "model.gguf")
    monkeypatch.setenv("EDGEPACK_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "out.epk"
    build = ("-m", "packager", "build", "--profile", "mobile", "--model", source, "-o", output)
    found, said = measure((sys.executable, *build), 400_000_000)
    refused(Outcome(found["status"], "", said), 9, f"{work} needs 0.4 GB of memory", "smaller")
    assert list(tmp_path.glob("*.epk")) == []
