"""Embedding models: what their folders say, and what is refused before any work."""

from collections.abc import Callable
from pathlib import Path

import pytest

from packager.errors import ModelSourceError
from packager.jobs.export_encoder import Dense
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
    assert (encoder.architecture, encoder.poolings) == ("BertModel", ("mean",))
    assert (encoder.steps, encoder.max_tokens, encoder.heads) == (("normalize",), 50, 4)


def test_dense_layers_are_read_in_their_order(tmp_path: Path) -> None:
    layers = ((96, "linear.Identity"), (24, "activation.Tanh"))
    folder = tiny_encoder.make(tmp_path / "m", "Gemma3TextModel", dense=layers)
    assert read(folder, "x").steps == (
        Dense(folder="2_Dense", activation="Identity"),
        Dense(folder="3_Dense", activation="Tanh"),
        "normalize",
    )


@pytest.mark.parametrize(
    ("pooling", "name"),
    [
        ("cls_token", "cls"),
        ("max_tokens", "max"),
        ("mean_tokens", "mean"),
        ("mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
        ("weightedmean_tokens", "weightedmean"),
        ("lasttoken", "lasttoken"),
    ],
)
def test_each_supported_pooling_is_read(tmp_path: Path, pooling: str, name: str) -> None:
    folder = tiny_encoder.make(tmp_path / "m", pooling=pooling, normalize=False)
    encoder = read(folder, "x")
    assert (encoder.poolings, encoder.steps) == ((name,), ())
    write(folder, "1_Pooling/config.json", {"pooling_mode": name})
    assert read(folder, "x").poolings == (name,)


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
                [{"type": f"a.{kind}"} for kind in ("Transformer", "Pooling", "LSTM")],
            ),
            "its modules are Transformer, Pooling, LSTM",
        ),
        (
            spoil("modules.json", [{"type": "Transformer", "path": "0_T"}, {"type": "Pooling"}]),
            "its encoder is in the folder 0_T",
        ),
        (lambda folder: (folder / "1_Pooling/config.json").unlink(), "cannot be read"),
        (
            spoil("1_Pooling/config.json", {"pooling_mode_median_tokens": True}),
            "pooling is median_tokens",
        ),
        (spoil("1_Pooling/config.json", {"pooling_mode": "median"}), "pooling is median"),
        (spoil("1_Pooling/config.json", {"pooling_mode": [{}]}), "pooling is {}"),
        (
            spoil("1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": False}),
            "leaves out prompts (include_prompt)",
        ),
        (spoil("1_Pooling/config.json", {}), "pooling is not given"),
        (
            spoil(
                "1_Pooling/config.json",
                {"pooling_mode_mean_tokens": 1, "pooling_mode_median_tokens": 1},
            ),
            "pooling is mean, median_tokens",
        ),
        (
            spoil("config_sentence_transformers.json", {"default_prompt_name": "query"}),
            "puts its prompt 'query' before each text",
        ),
        (
            lambda folder: change(folder, "config.json", auto_map={"AutoModel": "m.Model"}),
            "Python code that comes with the model",
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


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda folder: change(folder, "2_Dense/config.json", use_residual=True),
            "use_residual of 2_Dense is True",
        ),
        (
            lambda folder: change(folder, "2_Dense/config.json", module_input_name="tokens"),
            "module_input_name of 2_Dense is 'tokens'",
        ),
        (
            lambda folder: change(folder, "2_Dense/config.json", activation_function="my.Tanh"),
            "activation_function of 2_Dense is my.Tanh",
        ),
        (
            lambda folder: change(
                folder, "2_Dense/config.json", activation_function="torch.nn.Cat"
            ),
            "activation_function of 2_Dense is torch.nn.Cat",
        ),
        (
            spoil(
                "modules.json",
                [
                    {"type": "Transformer"},
                    {"type": "Pooling", "path": "1_Pooling"},
                    {"type": "Dense", "path": "../2"},
                ],
            ),
            "dense layer in the folder '../2'",
        ),
        (lambda folder: (folder / "2_Dense/config.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "2_Dense/model.safetensors").unlink(), "2_Dense has a config"),
    ],
)
def test_dense_layer_that_is_not_supported_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    folder = tiny_encoder.make(tmp_path / "m", dense=((24, "activation.Tanh"),))
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


def test_model_of_the_hub_comes_with_its_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_encoder.make(tmp_path / "tiny-encoder", dense=((24, "activation.Tanh"),))
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
