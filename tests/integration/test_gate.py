"""The quality gate, as a user meets it: limits, recipes, the report."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from device_runtime.bundle.reader import open_bundle
from tests.support import tiny_gguf, tiny_model
from tests.support.commands import Outcome, edgepack, edgepack_quickly


def profile(folder: Path, limits: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(f'extends = "mobile"\nname = "mine"\n[limits]\n{limits}\n')
    return path


def build(cache: Path, model: Path, profile: Path | str, folder: Path, *more: str) -> Outcome:
    arguments = (
        "build",
        "--profile",
        profile,
        "--model",
        model,
        "-o",
        folder / "out.epk",
        "--json",
    )
    return edgepack_quickly(*arguments, *more, cache=cache)


def facts(outcome: Outcome) -> dict[str, Any]:
    assert outcome.status == 0, outcome.err
    quantization: dict[str, Any] = json.loads(outcome.out)["manifest"]["quantization"]
    return quantization


def test_smallest_that_keeps_the_limits_is_chosen(
    cache: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    found = facts(build(cache, tiny_hf, "mobile", tmp_path))
    assert found["recipe"] == found["tried"][-1]["recipe"]
    assert found["quality"] == found["tried"][-1]["quality"]
    assert not found["tried"][-1]["exceeded"]
    assert all(one["exceeded"] for one in found["tried"][:-1])
    quality = found["quality"]
    assert 0 <= quality["kl_interval"][0] <= quality["kl"] <= quality["kl_interval"][1]
    assert quality["kl"] <= 0.1
    assert quality["kl_tail"] <= quality["kl_max"]
    assert quality["tasks"]["tasks"] == len(found["tasks"])
    page = (tmp_path / "out.report.html").read_text()
    assert page.count("<svg") >= 1
    # Nothing is fetched when it is opened.
    assert not re.search(r"""(src|href)=["'](?!#)""", page)
    for one in found["tried"]:
        assert one["recipe"] in page
        assert f"largest {one['quality']['kl_max']:.2f}" in page
    for words in ("max_kl = 0.1,", "text that the reference model wrote", "Short tasks"):
        assert words in page


def test_impossible_limit_shows_the_table_and_leaves_nothing(
    cache: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    mine = profile(tmp_path, "max_kl = 0")
    outcome = build(cache, tiny_hf, mine, tmp_path)
    assert outcome.status == 11
    assert "Traceback" not in outcome.err
    assert "no recipe keeps the limits of mine" in outcome.err
    for name in ("int4-rtn", "int4-gptq-light", "int4-gptq-mixed", "int8"):
        assert re.search(rf"^ +{name} .* MB +KL 0\.\d+ .*exceeds KL", outcome.err, re.MULTILINE)
    assert "--allow-quality-loss" in outcome.err
    assert list(tmp_path.iterdir()) == [mine]

    found = facts(build(cache, tiny_hf, mine, tmp_path, "--allow-quality-loss"))
    assert found["quality_loss_allowed"]
    losses = [one["quality"]["kl"] for one in found["tried"]]
    assert found["quality"]["kl"] == min(losses)


@pytest.mark.parametrize(
    ("recipe", "bits", "zeros"),
    [
        ("int4-rtn", {4}, {""}),
        ("int4-kquant", {4}, {"UINT8"}),
        ("int4-gptq", {4}, {"UINT8"}),
        ("int4-mixed", {4, 8}, {"", "UINT8"}),
        ("int4-gptq-light", {4, 8}, {"", "UINT8"}),
        ("int4-gptq-mixed", {4, 8}, {"", "UINT8"}),
        ("int8", {8}, {""}),
    ],
)
def test_each_recipe_gives_its_graph(
    cache: Path, tiny_hf: Path, tmp_path: Path, recipe: str, bits: set[int], zeros: set[str]
) -> None:
    outcome = build(cache, tiny_hf, "mobile", tmp_path, "--recipe", recipe, "--allow-quality-loss")
    assert facts(outcome)["recipe"] == recipe
    seen = [json.loads(path.read_text())["quantized"] for path in cache.glob("onnx/*/check.json")]
    graphs = [
        ({one["bits"] for one in graph}, {one["zeros"] for one in graph})
        for graph in seen
        if {one["accuracy_level"] for one in graph if one["operator"] == "MatMulNBits"} == {4}
    ]
    assert (bits, zeros) in graphs


def test_a_gguf_file_keeps_its_codes(cache: Path, tiny_hf: Path, tmp_path: Path) -> None:
    types = {"attn_v": "Q5_1", "attn": "Q4_1", "ffn_up": "Q4_0", "ffn": "Q4_1", "embd": "Q8_0"}
    file = tiny_gguf.make_gguf(tiny_hf, tmp_path / "tiny.gguf", types=types)
    outcome = build(cache, file, "mobile", tmp_path)
    found = facts(outcome)
    assert [one["recipe"] for one in found["tried"]] == [found["recipe"]] == ["gguf"]
    assert found["precision"] == "int4+int8"
    assert found["quality"]["kl"] < 0.001
    assert {one["type"] for one in found["source_types"]} == set(types.values())
    assert all(one["kept"] for one in found["source_types"])
    assert found["operators"]["AveragePool"] == 8  # four inputs of linear layers, two layers
    assert "Calibrating" not in outcome.err
    assert "Weights of the GGUF file: Q4_1" in (tmp_path / "out.report.html").read_text()


def test_a_model_trained_for_4_bits_keeps_its_grid(
    cache: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    trained = tiny_model.round_to_q4_0(tiny_hf, tmp_path / "trained")
    found = facts(build(cache, trained, "mobile", tmp_path))
    assert [one["recipe"] for one in found["tried"]] == [found["recipe"]] == ["int4-own"]
    assert found["quality"]["kl"] < 0.001


@pytest.mark.slow
def test_the_default_model_is_its_file_in_fewer_bytes(host_bundle: Path) -> None:
    with open_bundle(host_bundle) as bundle:
        found = bundle.manifest.quantization
    assert [model.recipe for model in found.tried] == ["gguf"]
    assert found.quality is not None
    assert found.quality.kl < 0.01
    assert found.tried[0].model_bytes < 98_400_000
    assert {entry.type for entry in found.source_types} == {"Q4_1", "Q8_0"}


def test_fp32_is_what_it_was(cache: Path, tiny_hf: Path, tmp_path: Path) -> None:
    quality = facts(build(cache, tiny_hf, "mobile", tmp_path, "--recipe", "fp32"))["quality"]
    assert quality["kl"] < 1e-4
    assert quality["top1"] > 0.995


def test_unknown_recipe(cache: Path, tiny_hf: Path, tmp_path: Path) -> None:
    outcome = build(cache, tiny_hf, "mobile", tmp_path, "--recipe", "int4-gptk")
    assert outcome.status == 5
    assert "Did you mean int4-gptq" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_recipe_that_the_device_cannot_run(cache: Path, tiny_hf: Path, tmp_path: Path) -> None:
    outcome = build(cache, tiny_hf, "mobile", tmp_path, "--recipe", "fp16")
    assert outcome.status == 11
    assert "cpu takes" in outcome.err


@pytest.mark.parametrize("option", ["--eval-text", "--calibration-text"])
@pytest.mark.parametrize(("content", "says"), [("", "is empty"), ("Too short.", "too short")])
def test_text_that_will_not_do(
    cache: Path, tiny_hf: Path, tmp_path: Path, option: str, content: str, says: str
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(content)
    outcome = build(cache, tiny_hf, "mobile", tmp_path, option, str(text))
    assert outcome.status == 12
    assert says in outcome.err
    assert "Traceback" not in outcome.err
    assert list(tmp_path.iterdir()) == [text]


def test_recipes_are_listed() -> None:
    listed = json.loads(edgepack("recipes", "--json").out)
    assert {one["name"] for one in listed if one["auto"]} >= {"int4-rtn", "int4-gptq-mixed"}
    assert "int4-kquant" in edgepack("recipes").out
