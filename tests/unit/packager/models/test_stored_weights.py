"""Weights of Hugging Face folders as they are stored: parts, indexes, types, quantized ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from device_runtime.tokenizer.files import chat_templates
from packager.models import shape
from packager.models.source import as_hf_folder, resolve
from packager.weights.layerwise import LayerwiseModel
from tests.support import quantized
from tests.support.sources import refused

pytestmark = pytest.mark.usefixtures("own_cache", "jobs_here")

NORM = "model.norm.weight"


@pytest.fixture
def folder(tiny_hf: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be spoilt."""
    return Path(shutil.copytree(tiny_hf, tmp_path / "model"))


def split(folder: Path) -> dict[str, Any]:
    """Split the weights into two files with an index; returns its map."""
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(whole)
    places: dict[str, str] = {}
    for number, share in enumerate((names[:9], names[9:]), 1):
        file = f"model-{number}.safetensors"
        save_file({n: whole[n] for n in share}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(share, file)
    write_index(folder, places)
    return places


def write_index(folder: Path, places: dict[str, Any]) -> None:
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def of_another_publisher(folder: Path) -> None:
    """Store the same weights again under other names, as Mistral's repositories have them."""
    norm = torch.full((64,), 7.0)
    save_file({"norm.weight": norm, NORM: norm.clone()}, folder / "consolidated.safetensors")


@pytest.mark.parametrize("parts", [True, False])
def test_files_that_transformers_does_not_read_do_not_count(
    folder: Path, tiny_hf: Path, parts: bool
) -> None:
    if parts:
        split(folder)
    before = resolve(str(folder))
    of_another_publisher(folder)
    source = resolve(str(folder))
    assert source.parameters == before.parameters == resolve(str(tiny_hf)).parameters
    assert shape.shape(source).stored < 4.1
    # A norm of 7 would change it.
    tokens = torch.arange(80, 90)[None]
    hidden, usual = (LayerwiseModel(place).start(tokens) for place in (folder, tiny_hf))
    assert torch.equal(hidden, usual)


def lost(folder: Path) -> None:
    places = split(folder)
    write_index(folder, {**places, "model.layers.9.mlp.weight": "model-1.safetensors"})


def twice(folder: Path) -> None:
    split(folder)
    second = folder / "model-2.safetensors"
    tensors = load_file(second)
    first = load_file(folder / "model-1.safetensors")
    name = sorted(first)[0]
    save_file({**tensors, name: first[name]}, second, metadata={"format": "pt"})


def another_name(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")


def in_eight_bits(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[NORM] = tensors[NORM].to(torch.float8_e4m3fn)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def wrong_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}')


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lost, ["model.layers.9.mlp.weight", "not in model-1.safetensors"]),
        (twice, ["model.embed_tokens.weight", "model-1.safetensors", "model-2.safetensors"]),
        (another_name, ["weights.safetensors", "model.safetensors"]),
        (in_eight_bits, [NORM, "F8_E4M3", "quantization_config"]),
        (wrong_index, ["model.safetensors.index.json is damaged"]),
    ],
)
def test_files_that_contradict_each_other_are_refused(
    folder: Path, spoil: Callable[[Path], None], words: list[str]
) -> None:
    spoil(folder)
    message = refused(folder)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
        ({"quant_method": "awq", "bits": 4}, "AWQ"),
        ({"load_in_4bit": True, "quant_method": "bitsandbytes"}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "torchao"}, "torchao"),
        ({"quant_method": "hqq"}, "HQQ"),
        ({"quant_method": "eetq"}, "EETQ"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt"),
        ({"quant_method": "of-the-future"}, "of-the-future"),
        ({}, "an unnamed method"),
    ],
)
def test_quantized_checkpoint_is_refused_by_name_at_once(
    folder: Path, config: dict[str, Any], name: str
) -> None:
    quantized.configure(folder, **config)
    message = refused(folder)
    assert f"quantized with {name}, " in message
    assert "GGUF" in message
    (folder / "README.md").write_text("---\nbase_model:\n- some-org/Some.Model-1B\n---\n")
    assert "some-org/Some.Model-1B" in refused(folder)


@pytest.mark.parametrize("block", [32, None], ids=["blocks", "matrix"])
def test_fp8_checkpoint_is_decoded(
    tiny_hf: Path, tmp_path: Path, block: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = quantized.fp8(tiny_hf, tmp_path / "fp8", block)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool_use.jinja").write_text("{{ tools }}")
    source = resolve(str(folder))
    assert source.quantization == "FP8"
    assert source.origin == "folder: fp8 (decoded from FP8)"
    assert shape.shape(source).stored == 2
    decoded = as_hf_folder(source)
    assert "quantization_config" not in json.loads((decoded / "config.json").read_text())
    assert (decoded / "tokenizer.json").is_file()
    assert chat_templates(decoded) == chat_templates(folder)
    stored = load_file(decoded / "model.safetensors")
    for name, weight in load_file(tiny_hf / "model.safetensors").items():
        assert stored[name].dtype == torch.bfloat16
        difference = (stored[name].float() - weight).abs().max()
        assert 0 <= difference < 0.05 * weight.abs().max()
    assert as_hf_folder(source) == decoded
    assert capsys.readouterr().err.count("is quantized (FP8)") == 1


def test_fp8_checkpoint_keeps_a_head_of_its_own(tiny_hf: Path, tmp_path: Path) -> None:
    folder = quantized.fp8(tiny_hf, tmp_path / "fp8", 32)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = -tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    decoded = as_hf_folder(resolve(str(folder)))
    assert json.loads((decoded / "config.json").read_text())["tie_word_embeddings"] is False
    stored = load_file(decoded / "model.safetensors")
    assert torch.equal(stored["lm_head.weight"], -stored["model.embed_tokens.weight"])


def test_mxfp4_checkpoint_is_decoded(tiny_hf: Path, tmp_path: Path) -> None:
    folder = quantized.mxfp4(tiny_hf, tmp_path / "mxfp4")
    decoded = as_hf_folder(resolve(str(folder)))
    assert "quantization_config" not in json.loads((decoded / "config.json").read_text())
    codes = load_file(folder / "model.safetensors")
    stored = load_file(decoded / "model.safetensors")
    # The format of OCP's specification: two E2M1 a byte, and a power of 2 for 32 of them.
    values = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = torch.cat([values, -values])
    name = "model.layers.0.mlp.experts.down_proj"
    pairs = codes[f"{name}_blocks"].int()
    weights = values[torch.stack([pairs & 15, pairs >> 4], -1)].flatten(-2)
    weights *= 2.0 ** (codes[f"{name}_scales"].int()[..., None] - 127)
    assert torch.equal(stored[name].float(), weights.flatten(-2).transpose(1, 2))


def test_fp8_checkpoint_with_a_gap_is_refused(tiny_hf: Path, tmp_path: Path) -> None:
    folder = quantized.fp8(tiny_hf, tmp_path / "fp8", 32)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Exception, match=r"missing tensors \(1\): model.layers.1.mlp.up_proj"):
        as_hf_folder(resolve(str(folder)))
