"""Building a bundle with a tiny speech model, and its gate."""

import json
import shutil
from pathlib import Path

import pytest

from device_runtime.bundle.manifest import SPEECH_FOLDER
from device_runtime.bundle.reader import open_bundle
from packager import profile
from packager.build import build
from packager.errors import ModelSourceError
from packager.evaluation import sounds, speech_quality
from packager.models import speech
from packager.quantize import hearing
from packager.quantize.hearing import ChosenSpeech
from packager.request import BuildRequest
from tests.support import tiny_speech
from tests.support.commands import edgepack, refused


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny speech model. Do not write into it."""
    return tiny_speech.make(tmp_path_factory.mktemp("speech") / "tiny-whisper")


def chosen(folder: Path, tmp_path: Path, limits: str) -> ChosenSpeech:
    """The speech model that a profile with limits takes, measured on three sounds."""
    (tmp_path / "mine.toml").write_text(f'extends = "mobile"\n[limits]\n{limits}\n')
    device = profile.load(str(tmp_path / "mine.toml"))
    return hearing.choose(speech.resolve(str(folder)), device, speech_quality.prepare(None))


@pytest.mark.usefixtures("few_sounds", "jobs_here")
@pytest.mark.parametrize(
    ("limits", "weights", "tried"),
    [
        ("max_kl = 9", "int8", ["int4", "int8", "fp32"]),
        ("max_kl = 1e-7", "fp32", ["int4", "int8", "fp32"]),
    ],
)
def test_smallest_weights_within_the_limits_are_taken(
    whisper: Path, tmp_path: Path, limits: str, weights: str, tried: list[str]
) -> None:
    model = chosen(whisper, tmp_path, limits)
    facts = model.facts
    assert (facts.weights, facts.languages) == (weights, tiny_speech.LANGUAGES)
    assert [part.weights for part in facts.tried] == tried
    assert facts.tried[-1].quality.kl < 1e-6
    assert facts.tried[-1].quality.top1 == 1
    sizes = [part.model_bytes for part in facts.tried]
    assert sizes == sorted(sizes)
    assert facts.memory_bytes > model.model.size


@pytest.mark.usefixtures("few_sounds", "jobs_here")
def test_four_bits_are_taken_if_they_lose_little(
    whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "MOST_KL", 9)
    facts = chosen(whisper, tmp_path, "max_kl = 9").facts
    assert facts.weights == "int4"
    assert [part.weights for part in facts.tried] == ["int4", "fp32"]


@pytest.mark.usefixtures("few_sounds", "jobs_here")
def test_model_of_english_alone_is_measured_on_english(tmp_path: Path) -> None:
    folder = tiny_speech.make(tmp_path / "tiny.en", english=True)
    facts = chosen(folder, tmp_path, "max_kl = 9").facts
    assert facts.languages == ("en",)
    assert facts.tried[-1].quality.kl < 1e-6


@pytest.mark.usefixtures("few_sounds", "jobs_here")
def test_graphs_that_compute_something_else_are_refused(
    whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "ROUNDING", 0.0)
    with pytest.raises(ModelSourceError, match="compute other probabilities than transformers"):
        chosen(whisper, tmp_path, "max_kl = 9")


@pytest.fixture
def few_sounds(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sounds in place of all, and a cache that tests share."""
    monkeypatch.setenv("EDGEPACK_CACHE", str(cache))
    monkeypatch.setattr(sounds, "SENTENCES", sounds.SENTENCES[:3])


@pytest.mark.usefixtures("few_sounds", "jobs_here")
def test_bundle_has_what_a_device_needs(
    whisper: Path, tiny_hf: Path, cache: Path, tmp_path: Path
) -> None:
    text = tmp_path / "eval.txt"
    text.write_text("".join(f"7 x {n} = {7 * n}. " for n in range(99)))
    bundle = tmp_path / "m.epk"
    request = BuildRequest(
        profile=profile.load("mobile"),
        model=str(tiny_hf),
        output=bundle,
        recipe="int8",
        eval_text=text,
        allow_quality_loss=True,
        speech_model=str(whisper),
    )
    manifest = build(request).manifest
    facts = manifest.speech
    assert facts is not None
    assert facts.model.name == "tiny-whisper"
    assert facts.model.architecture == "WhisperForConditionalGeneration"
    assert facts.model.source_sha256 == speech.resolve(str(whisper)).digest
    assert manifest.memory_bytes > facts.memory_bytes > 0
    files = {
        record.path.removeprefix(f"{SPEECH_FOLDER}/"): record.component
        for record in manifest.records
        if record.path.startswith(SPEECH_FOLDER)
    }
    assert files.keys() >= {
        *("genai_config.json", "generation_config.json", "preprocessor_config.json"),
        *("encoder.onnx", "encoder.onnx.data", "decoder.onnx", "decoder.onnx.data"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    assert files["tokenizer.json"] == "tokenizer"

    shown = edgepack("inspect", bundle, cache=cache).out
    assert f"tiny-whisper ({facts.weights}, en, zh, de, es, ru, fr, yue)" in shown
    assert "Quality on recordings" in shown
    with open_bundle(bundle) as opened:
        bill = json.loads(opened.sbom)
    assert "tiny-whisper" in {component["name"] for component in bill["components"]}
    page = bundle.with_suffix(".report.html").read_text()
    assert "<h2>Speech model</h2>" in page
    assert f"--speech-model {whisper}" in page


def test_two_models_of_one_name_are_refused(
    cache: Path, tiny_hf: Path, whisper: Path, tmp_path: Path
) -> None:
    shutil.copytree(whisper, tmp_path / tiny_hf.name)
    outcome = edgepack(
        *("build", "--profile", "mobile", "--model", tiny_hf, "-o", tmp_path / "x.epk"),
        *("--speech-model", tmp_path / tiny_hf.name),
        cache=cache,
    )
    refused(outcome, 4, "both models have the name 'hf'")
    assert not (tmp_path / "x.epk").exists()


def test_recordings_are_for_speech_models(tiny_hf: Path, tmp_path: Path) -> None:
    outcome = edgepack(
        *("build", "--profile", "mobile", "--model", tiny_hf, "-o", tmp_path / "x.epk"),
        *("--eval-audio", tmp_path),
    )
    assert outcome.status == 2
    assert "--eval-audio is for a build with --speech-model" in outcome.err
