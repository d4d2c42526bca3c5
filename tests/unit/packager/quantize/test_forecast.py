"""What a model of the catalog needs on a device, before it is built."""

import json
import os
from pathlib import Path

import msgspec
import pytest

from packager import plan, profile
from packager.genai import folder
from packager.genai.folder import memory_bytes
from packager.models import shape
from packager.models.catalog import CATALOG
from packager.models.source import resolve
from packager.quantize import candidate
from packager.quantize.forecast import expected_recipe, forecast
from packager.recipes.recipes import RECIPES
from packager.units import MEGA
from tests.support.commands import edgepack, refused

PI = profile.load("raspberry-pi")


@pytest.mark.parametrize(
    ("name", "recipe", "built"),
    [
        ("smollm2-135m", "int4-rtn", 78_131_710),
        ("smollm2-135m", "int4-kquant", 80_266_775),
        ("smollm2-135m", "int4-mixed", 103_723_052),
        ("smollm2-135m", "int8", 145_371_766),
        ("gemma3-270m", "int4-rtn", 218_332_886),
    ],
)
def test_the_size_is_that_of_a_build(name: str, recipe: str, built: int) -> None:
    """The builds are real ones, measured once."""
    model = CATALOG[name]
    of = shape.shape_of(model.shape, parameters=model.parameters, stored=2.0)
    assert plan.model_bytes(of, RECIPES[recipe]) == pytest.approx(built, rel=0.01)


def test_larger_blocks_give_a_smaller_model() -> None:
    coarse = msgspec.structs.replace(PI, quantization={**PI.quantization, "block_size": 128})
    model = CATALOG["qwen3-0.6b"]
    assert forecast(model, coarse).model_bytes < 0.95 * forecast(model, PI).model_bytes


def test_smaller_blocks_need_a_larger_bundle(tiny_hf: Path) -> None:
    fine = msgspec.structs.replace(PI, quantization={**PI.quantization, "block_size": 16})
    small, large = (
        candidate.need(resolve(str(tiny_hf)), profile, RECIPES["int4-rtn"]).bundle
        for profile in (PI, fine)
    )
    assert large > small


def test_the_memory_is_that_of_a_folder_of_this_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CATALOG["qwen3-0.6b"]
    estimate = forecast(model, PI)
    monkeypatch.setattr(folder, "model_bytes", lambda _: estimate.model_bytes)
    shape = model.shape
    (tmp_path / "tokenizer.json").touch()
    os.truncate(tmp_path / "tokenizer.json", folder.TOKENIZER_BYTES * shape["vocab_size"])
    keys = shape["num_key_value_heads"] * shape["head_dim"]
    memory = memory_bytes(
        tmp_path,
        {"model": {"decoder": {}, "vocab_size": shape["vocab_size"]}},
        PI.context_length,
        cache_bytes=2 * 4 * shape["num_hidden_layers"] * keys,
        state_bytes=0,
    )
    assert memory == estimate.memory_bytes


def test_a_large_vocabulary_takes_memory() -> None:
    """Of Gemma 3 270M: its tokenizer takes 279 MiB."""
    estimate = forecast(CATALOG["gemma3-270m"], PI)
    assert estimate.memory_bytes - estimate.model_bytes > (279 + 150) << 20


def test_the_logits_of_all_tokens_take_memory(tiny_onnx: Path) -> None:
    config = {"model": {"decoder": {}, "vocab_size": 262_144}}
    last, whole = (
        memory_bytes(tiny_onnx, config, 64, cache_bytes=1, state_bytes=0, all_logits=whole)
        for whole in (False, True)
    )
    assert whole - last == 127 * 4 * 262_144


def test_a_profile_that_keeps_codes_is_estimated_for_a_usual_file(tmp_path: Path) -> None:
    path = tmp_path / "keeping.toml"
    path.write_text('name = "keeping"\nextends = "raspberry-pi"\nrecipe = "gguf"\n')
    keeping = profile.load(str(path))
    # Llama 3.2 1B in Q4_K_M is a file of 808 MB.
    assert forecast(CATALOG["llama3.2-1b"], keeping).model_bytes == pytest.approx(808e6, rel=0.1)
    outcome = edgepack("models", "--profile", path)
    assert outcome.status == 0, outcome.err
    assert "with gguf, for a GGUF file with Q4_K" in outcome.out


def test_a_model_that_does_not_fit_says_why() -> None:
    assert forecast(CATALOG["smollm2-135m"], PI).exceeded == ()
    (reason,) = forecast(CATALOG["phi3.5-mini"], PI).exceeded
    assert reason.startswith("memory ")
    assert reason.endswith("MiB > 3072 MiB")
    limits = msgspec.structs.replace(PI.limits, max_model_mb=100.0)
    (reason,) = forecast(
        CATALOG["smollm2-360m"], msgspec.structs.replace(PI, limits=limits)
    ).exceeded
    assert reason.endswith("MB > 100.0 MB")


def test_the_recipe_is_one_that_the_device_runs() -> None:
    assert expected_recipe(PI).body_bits == 4
    assert expected_recipe(profile.load("windows-dml")).name == "int4-rtn"
    assert expected_recipe(msgspec.structs.replace(PI, recipe="int8")).name == "int8"


def test_the_context_is_the_shorter_one() -> None:
    assert forecast(CATALOG["smollm2-135m"], PI).context_length == PI.context_length
    long = msgspec.structs.replace(PI, context_length=1 << 17)
    assert forecast(CATALOG["smollm2-135m"], long).context_length == 8192


def test_models_lists_what_fits() -> None:
    outcome = edgepack("models", "--profile", "raspberry-pi", "--json")
    assert outcome.status == 0
    models = {model["name"]: model for model in json.loads(outcome.out)}
    assert models.keys() == CATALOG.keys()
    small, large = models["smollm2-135m"]["forecast"], models["qwen3-4b"]["forecast"]
    assert small["model_bytes"] < 110 * MEGA
    assert small["exceeded"] == []
    assert "memory" in large["exceeded"][0]
    text = edgepack("models", "--profile", "raspberry-pi").out
    (line,) = (line for line in text.splitlines() if "qwen3-4b" in line)
    assert "no: memory" in line
    assert expected_recipe(PI).name in text


def test_models_lists_names_licenses_and_hub_ids() -> None:
    text = edgepack("models").out
    (line,) = (line for line in text.splitlines() if "llama3.2-1b" in line)
    for word in ("1.2 B", "128 K", "tools", "Llama-3.2-Community", "meta-llama/", "gated"):
        assert word in line
    assert "LlamaForCausalLM" in text
    assert "forecast" not in json.loads(edgepack("models", "--json").out)[0]


def test_models_for_a_profile_that_does_not_exist() -> None:
    refused(edgepack("models", "--profile", "raspbery-pi"), 3, "Did you mean raspberry-pi?")
