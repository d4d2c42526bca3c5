"""Speech models: what their folders say, and what is refused before any work."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.errors import ModelSourceError
from packager.models import embedding, source, speech
from packager.models.catalog import SPEECH_MODELS
from packager.models.speech import read
from tests.support import hub, tiny_speech
from tests.support.tiny_encoder import change

pytestmark = pytest.mark.usefixtures("own_cache")

STEERING = (
    "decoder_start_token_id",
    "lang_to_id",
    "no_timestamps_token_id",
    "prev_sot_token_id",
    "task_to_id",
)
"""Fields of generation_config.json that old checkpoints lack."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Whisper. Do not write into it."""
    return tiny_speech.make(tmp_path_factory.mktemp("speech") / "tiny-whisper")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def test_configuration_is_read(whole: Path) -> None:
    config = read(whole, "x")
    assert config.languages == tiny_speech.LANGUAGES
    assert config.generation == json.loads((whole / "generation_config.json").read_text())
    assert (config.bands, config.heads, config.frames) == (80, 2, 1500)


def test_model_of_english_alone_knows_english(tmp_path: Path) -> None:
    config = read(tiny_speech.make(tmp_path / "m", english=True), "x")
    assert config.languages == ("en",)
    assert "lang_to_id" not in config.generation


def test_bands_of_large_v3_are_read(tmp_path: Path) -> None:
    assert read(tiny_speech.make(tmp_path / "m", mels=128), "x").bands == 128


def test_what_an_old_checkpoint_lacks_comes_from_its_tokenizer(folder: Path) -> None:
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    old = {name: value for name, value in settings.items() if name not in STEERING}
    path.write_text(json.dumps(old))
    assert read(folder, "x").generation == settings


def test_checkpoint_without_generation_config_is_read(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    change(folder, "config.json", suppress_tokens=[3, 4], begin_suppress_tokens=[5])
    generation = read(folder, "x").generation
    # By the size of its vocabulary.
    assert generation["is_multilingual"] is False
    assert generation["suppress_tokens"] == [3, 4]
    assert generation["max_length"] == tiny_speech.CONTEXT


def test_spectrograms_may_be_described_in_the_file_of_the_processor(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    features = json.loads(path.read_text())
    path.unlink()
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": features}))
    assert read(folder, "x").bands == 80


def refused(model: str) -> str:
    """The message and the hint with which a model is refused."""
    with pytest.raises(ModelSourceError) as caught:
        speech.resolve(model)
    assert caught.value.hint
    return f"{caught.value} {caught.value.hint}"


def without_tokens(folder: Path) -> None:
    """Remove the tokens that steer a model from all files."""
    (folder / "generation_config.json").unlink()
    change(folder, "tokenizer.json", added_tokens=[{"id": "x"}])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
        (
            lambda folder: change(folder, "config.json", architectures=["WhisperModel"]),
            "not a speech model: its architecture is WhisperModel",
        ),
        (lambda folder: change(folder, "config.json", d_model="wide"), "its d_model is 'wide'"),
        (
            lambda folder: change(folder, "config.json", quantization_config={"quant_method": "x"}),
            "quantized with x",
        ),
        (
            lambda folder: change(folder, "preprocessor_config.json", feature_size=128),
            "the feature_size of its spectrograms is 128, not 80",
        ),
        (
            lambda folder: change(folder, "preprocessor_config.json", hop_length=80),
            "the hop_length of its spectrograms is 80, not 160",
        ),
        (
            lambda folder: (folder / "preprocessor_config.json").unlink(),
            "it has no preprocessor_config.json",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
        (without_tokens, "decoder_start_token_id is neither in its generation_config.json"),
        (
            lambda folder: change(folder, "generation_config.json", lang_to_id={"<|x-y|>": 270}),
            "its languages are x-y",
        ),
        (
            lambda folder: change(folder, "generation_config.json", suppress_tokens="none"),
            "its generation_config.json is damaged",
        ),
        (
            lambda folder: change(folder, "generation_config.json", is_multilingual="yes"),
            "its generation_config.json is damaged",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100), "safetensors"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "pickle files",
        ),
    ],
)
def test_folder_that_is_not_supported_is_refused(
    folder: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(folder)
    assert words in refused(str(folder))


def test_language_model_is_given_as_the_model(tiny_hf: Path) -> None:
    said = refused(str(tiny_hf))
    assert "its architecture is LlamaForCausalLM" in said
    assert "Give it as --model." in said


@pytest.mark.parametrize("resolve", [source.resolve, embedding.resolve])
def test_speech_model_is_given_as_the_speech_model(
    whole: Path, resolve: Callable[[str], object]
) -> None:
    with pytest.raises(ModelSourceError, match="--speech-model puts it beside a model"):
        resolve(str(whole))


@pytest.mark.parametrize("name", ["whisper-tinny", "./nowhere", "/dev/null", "a/b/c"])
def test_name_of_nothing_is_refused(name: str) -> None:
    assert "no such speech model" in refused(name)


def test_model_of_the_hub_is_that_of_a_folder(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub.serving(whole) as served:
        served.files["flax_model.msgpack"] = b"x"
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        found = speech.resolve("tiny/llama")
    assert (found.name, found.architecture) == ("tiny/llama", "WhisperForConditionalGeneration")
    assert found.digest == speech.resolve(str(whole)).digest
    assert not (found.path / "flax_model.msgpack").exists()


def test_language_model_of_the_hub_is_refused_before_its_weights_are_fetched(
    tiny_hf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub.serving(tiny_hf) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        assert "its architecture is LlamaForCausalLM" in refused("tiny/llama")
        assert not [request for request in served.requests if "safetensors" in request]


def test_names_are_those_of_the_hub() -> None:
    for model in SPEECH_MODELS.values():
        assert model.hub.rpartition("/")[2] == model.name
        assert (model.languages == "English") == model.name.endswith(".en")
