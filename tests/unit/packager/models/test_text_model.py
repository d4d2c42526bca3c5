"""Models that also see: their text model is found, counted, taken out and checked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from packager.errors import ModelSourceError
from packager.jobs.compare_tensors import Tensors as Differences
from packager.jobs.extract_text import ExtractText
from packager.jobs.job import Work
from packager.models import shape
from packager.models.folder import hf_files
from packager.models.source import as_hf_folder, hf_folder, resolve, say_what_is_left_out
from packager.models.text_model import text_config, unchanged
from packager.weights import safetensors_file
from tests.support import families, tiny_phi3v
from tests.support.families.models import FAMILIES

GEMMA = FAMILIES["Gemma 3, with vision"]
Tensors = dict[str, Any]

pytestmark = pytest.mark.usefixtures("jobs_here")


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.make_hf(GEMMA, tmp_path_factory.mktemp("gemma") / "hf")


@pytest.fixture
def folder(seeing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the model, to be changed, and a cache of its own."""
    monkeypatch.setenv("EDGEPACK_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(seeing, tmp_path / "model"))


def change(folder: Path, to: Callable[[Tensors], Tensors]) -> Path:
    path = folder / "model.safetensors"
    tensors = {name: tensor.astype("float32") for name, tensor in read(path).items()}
    path.unlink()
    files = {}
    for number, (name, tensor) in enumerate(to(tensors).items()):
        # Several files, as large models have them.
        files[name] = f"part-{number:03}.safetensors"
        save_file({name: tensor}, folder / files[name], {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    return folder


def read(path: Path) -> Tensors:
    """The tensors of a file; numpy has no bfloat16."""
    from safetensors.torch import load_file as load_torch

    return {name: tensor.float().numpy() for name, tensor in load_torch(path).items()}


def extract(folder: Path, tmp_path: Path) -> Differences:
    """Take the text model out, to the folder `text`, in this process."""
    target = tmp_path / "text"
    target.mkdir()
    return ExtractText(source=folder, copied=unchanged(hf_files(folder))).run(Work(target))


def test_text_model_is_taken_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = resolve(str(folder))
    assert source.architecture == "Gemma3ForConditionalGeneration"
    whole = read(folder / "model.safetensors")
    text = {name: tensor for name, tensor in whole.items() if name.startswith("language_model.")}
    assert 0 < len(text) < len(whole)
    assert source.parameters == sum(tensor.size for tensor in text.values())
    taken = as_hf_folder(source)
    assert taken == hf_folder(source) != folder
    config = json.loads((taken / "config.json").read_text())
    assert config["architectures"] == ["Gemma3ForCausalLM"]
    assert config["num_hidden_layers"] == GEMMA.config["num_hidden_layers"]
    assert config["tie_word_embeddings"]
    own = read(taken / "model.safetensors")
    assert {f"language_model.{name}" for name in own} == set(text)
    for name, tensor in own.items():
        assert (tensor == text[f"language_model.{name}"]).all()
    assert "left out" not in capsys.readouterr().err
    say_what_is_left_out(source)
    said = capsys.readouterr().err
    assert said.count("only the text model of model is built") == 1
    assert f"{len(whole) - len(text)} tensors" in said
    assert "warning" not in said
    assert as_hf_folder(source) == taken


def test_names_of_later_checkpoints_are_known(folder: Path, tmp_path: Path) -> None:
    def renamed(tensors: Tensors) -> Tensors:
        return {
            name.replace("language_model.model.", "model.language_model."): tensor
            for name, tensor in tensors.items()
        }

    before = resolve(str(folder)).parameters
    assert resolve(str(change(folder, renamed))).parameters == before
    assert extract(folder, tmp_path) == Differences(missing=[], mismatched=[], unexpected=[])
    assert set(read(tmp_path / "text" / "model.safetensors")) >= {"model.norm.weight"}


@pytest.mark.parametrize(
    ("lost", "missing"),
    [
        ("language_model.model.layers.1.mlp.up_proj.weight", 1),
        ("language_model", 54),
        ("vision_tower", 0),
    ],
)
def test_lost_tensors_count_if_they_are_of_the_text_model(
    folder: Path, tmp_path: Path, lost: str, missing: int
) -> None:
    change(folder, lambda own: {name: own[name] for name in own if lost not in name})
    compared = extract(folder, tmp_path)
    assert len(compared.missing) >= missing
    assert (compared.missing == []) == (missing == 0)
    if missing == 1:
        assert compared.missing == ["model.layers.1.mlp.up_proj.weight"]


def test_tensors_of_the_text_model_without_a_place_are_named(folder: Path, tmp_path: Path) -> None:
    norm = read(folder / "model.safetensors")["language_model.model.norm.weight"]
    change(folder, lambda own: {**own, "language_model.model.extra.weight": norm})
    assert extract(folder, tmp_path).unexpected == ["model.extra.weight"]


def test_head_of_its_own_is_used_though_the_configuration_ties_it(folder: Path) -> None:
    def with_head(own: Tensors) -> Tensors:
        embedding = own["language_model.model.embed_tokens.weight"]
        return {**own, "language_model.lm_head.weight": -embedding}

    taken = as_hf_folder(resolve(str(change(folder, with_head))))
    config = json.loads((taken / "config.json").read_text())
    assert config["tie_word_embeddings"] is False


def test_text_among_the_parts_for_images_is_taken_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPACK_CACHE", str(tmp_path / "cache"))
    folder = tiny_phi3v.make_hf(tmp_path / "model")
    source = resolve(str(folder))
    whole = read(folder / "model.safetensors")
    text = {name: tensor for name, tensor in whole.items() if ".vision_" not in name}
    assert 0 < len(text) < len(whole)
    assert source.parameters == sum(tensor.size for tensor in text.values())
    taken = as_hf_folder(source)
    own = read(taken / "model.safetensors")
    assert set(own) == set(text)
    assert all((own[name] == tensor).all() for name, tensor in text.items())
    config = json.loads((taken / "config.json").read_text())
    assert config["architectures"] == ["Phi3ForCausalLM"]
    assert config["model_type"] == "phi3"
    assert not {"auto_map", "embd_layer", "img_processor"} & set(config)
    assert config["rope_parameters"]["rope_type"] == "longrope"
    assert not list(taken.glob("*.py"))
    assert {path.name for path in taken.glob("*processor*")} == set()


def test_forecast_is_that_of_the_text_model(folder: Path) -> None:
    of = shape.shape(resolve(str(folder)))
    assert of.layers == GEMMA.config["num_hidden_layers"]
    assert of.hidden == GEMMA.config["hidden_size"]
    assert of.stored == 2
    assert text_config(folder)["model_type"] == "gemma3_text"


def test_template_beside_the_processor_is_the_tokenizers(folder: Path, tmp_path: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    template = config.pop("chat_template")
    path.write_text(json.dumps(config))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    extract(folder, tmp_path)
    assert (tmp_path / "text" / "chat_template.jinja").read_text() == template


def test_damaged_file_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelSourceError, match="is damaged"):
        resolve(str(folder))


def test_tensors_are_copied_as_they_are(tmp_path: Path) -> None:
    import numpy as np

    one: Tensors = {"a": np.arange(5, dtype=np.int8), "b": np.ones((2, 3), np.float32)}
    save_file(one, tmp_path / "1.safetensors")
    save_file({"c": np.full(4, 7, np.int64), "d": np.zeros(0)}, tmp_path / "2.safetensors")
    target = tmp_path / "copy.safetensors"
    files = sorted(tmp_path.glob("?.safetensors"))
    safetensors_file.copy(files, target, {"a": "x", "c": "y", "d": "z"})
    copied = load_file(target)
    assert {name: tensor.tolist() for name, tensor in copied.items()} == {
        "x": [0, 1, 2, 3, 4],
        "y": [7, 7, 7, 7],
        "z": [],
    }
