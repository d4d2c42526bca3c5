"""Embedding models: what their folders say, and what is refused before any work."""

from collections.abc import Callable
from pathlib import Path

import pytest

from packager.errors import ModelSourceError
from packager.models import embedding
from packager.models.catalog import EMBEDDING_MODELS, Wheel
from packager.models.embedding import read
from tests.support import hub, tiny_encoder
from tests.support.tiny_encoder import change, write

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_encoder.make(tmp_path / "tiny-encoder")


def test_configuration_of_sentence_transformers_is_read(folder: Path) -> None:
    encoder = read(folder, "x")
    assert (encoder.architecture, encoder.pooling) == ("BertModel", "mean")
    assert (encoder.normalize, encoder.max_tokens, encoder.heads) == (True, 50, 4)


@pytest.mark.parametrize(
    ("pooling", "name"), [("cls_token", "cls"), ("mean_tokens", "mean"), ("lasttoken", "lasttoken")]
)
def test_each_supported_pooling_is_read(tmp_path: Path, pooling: str, name: str) -> None:
    folder = tiny_encoder.make(tmp_path / "m", pooling=pooling, normalize=False)
    encoder = read(folder, "x")
    assert (encoder.pooling, encoder.normalize) == (name, False)


@pytest.mark.parametrize(
    ("architecture", "longest"), [("BertModel", 66), ("XLMRobertaModel", 65), ("MPNetModel", 65)]
)
def test_longest_text_is_what_the_positions_allow(
    tmp_path: Path, architecture: str, longest: int
) -> None:
    folder = tiny_encoder.make(tmp_path / "m", architecture, max_seq_length=None)
    assert read(folder, "x").max_tokens == longest
    write(folder, "sentence_bert_config.json", {"max_seq_length": 1000})
    assert read(folder, "x").max_tokens == longest


def refused(model: str) -> str:
    """The message and the hint with which a model is refused."""
    with pytest.raises(ModelSourceError) as caught:
        embedding.resolve(model)
    assert caught.value.hint
    return f"{caught.value} {caught.value.hint}"


def spoil(name: str, content: object) -> Callable[[Path], None]:
    return lambda folder: write(folder, name, content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "modules.json").unlink(), "no modules.json"),
        (spoil("modules.json", {"type": "x"}), "no modules.json"),
        (spoil("modules.json", [{"type": "a.Transformer", "path": ""}]), "modules are Transformer"),
        (
            spoil(
                "modules.json",
                [{"type": f"a.{kind}"} for kind in ("Transformer", "Pooling", "Dense")],
            ),
            "its modules are Transformer, Pooling, Dense",
        ),
        (
            spoil("modules.json", [{"type": "Transformer", "path": "0_T"}, {"type": "Pooling"}]),
            "its encoder is in the folder 0_T",
        ),
        (lambda folder: (folder / "1_Pooling/config.json").unlink(), "cannot be read"),
        (
            spoil("1_Pooling/config.json", {"pooling_mode_max_tokens": True}),
            "pooling is max_tokens",
        ),
        (spoil("1_Pooling/config.json", {}), "pooling is not given"),
        (
            spoil(
                "1_Pooling/config.json",
                {"pooling_mode_cls_token": 1, "pooling_mode_mean_tokens": 1},
            ),
            "pooling is cls_token, mean_tokens",
        ),
        (spoil("sentence_bert_config.json", {"do_lower_case": True}), "do_lower_case"),
        (
            spoil("sentence_bert_config.json", {"max_seq_length": "long"}),
            "max_seq_length is 'long'",
        ),
        (spoil("sentence_bert_config.json", {"max_seq_length": -1}), "max_seq_length is -1"),
        (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
        (
            lambda folder: change(folder, "config.json", architectures=["LlamaForCausalLM"]),
            "architecture LlamaForCausalLM is not supported",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100), "safetensors"),
    ],
)
def test_folder_that_is_not_supported_is_refused(
    folder: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(folder)
    assert words in refused(str(folder))


def test_model_that_is_too_large_for_one_file_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "MAX_PARAMETERS", 1000)
    assert "B weights, more than 1 B" in refused(str(folder))


@pytest.mark.parametrize("name", ["all-minilm", "./nowhere", "/dev/null", "a/b/c"])
def test_name_of_nothing_is_refused(name: str) -> None:
    assert "no such embedding model" in refused(name)


def test_model_of_the_hub_comes_with_its_pooling(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub.serving(folder) as served:
        served.files["onnx/model.onnx"] = b"x"
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        source = embedding.resolve("tiny/llama")
    assert (source.name, source.architecture) == ("tiny/llama", "BertModel")
    assert source.digest == embedding.resolve(str(folder)).digest
    assert not (source.path / "onnx").exists()


def test_language_model_of_the_hub_is_refused_before_its_weights_are_fetched(
    tiny_hf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub.serving(tiny_hf) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        assert "architecture LlamaForCausalLM is not supported" in refused("tiny/llama")
        assert not [request for request in served.requests if "safetensors" in request]


def test_names_have_a_pinned_wheel() -> None:
    for model in EMBEDDING_MODELS.values():
        assert isinstance(model.wheel, Wheel)
        assert "==" in model.wheel.package
        assert model.wheel.member.endswith("/")
