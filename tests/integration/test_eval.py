"""`edgepack eval`, as a user sees it."""

import json
import math
from pathlib import Path

import pytest

from tests.support import graphs, tiny_model
from tests.support.commands import edgepack, edgepack_quickly, refused


@pytest.fixture(scope="module")
def bundle(cache: Path, tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "tiny.epk"
    outcome = edgepack_quickly(
        *("build", "--profile", "mobile", "--recipe", "int4-rtn", "--allow-quality-loss"),
        *("--model", tiny_hf, "--model-only", "-o", path),
        cache=cache,
    )
    assert outcome.status == 0, outcome.err
    return path


def test_folder_against_its_original(cache: Path, tiny_hf: Path, tiny_onnx: Path) -> None:
    outcome = edgepack("eval", tiny_onnx, "--reference", tiny_hf, "--json", cache=cache)
    assert outcome.status == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["model"] == str(tiny_onnx)
    assert found["reference"] == tiny_hf.name
    quality = found["quality"]
    assert quality["kl"] < 1e-6
    assert quality["top1"] == 1
    low, high = quality["kl_interval"]
    assert 0 <= low <= quality["kl"] <= high
    assert found["answers"][0]["prompt"] == "What is the capital of France?"
    assert quality["kl"] <= quality["kl_tail"] <= quality["kl_max"] < 1e-4
    assert quality["tasks"]["tasks"] == len(found["tasks"])
    assert quality["tasks"]["agreed"] == quality["tasks"]["compared"]
    assert {"prompt", "right", "reference", "quantized"} == {*found["tasks"][0]}


def test_table_has_figures_intervals_and_answers(
    cache: Path, tiny_hf: Path, tiny_onnx: Path
) -> None:
    outcome = edgepack_quickly("eval", tiny_onnx, "--reference", tiny_hf, cache=cache)
    assert outcome.status == 0, outcome.err
    for words in (
        *("mean KL divergence (nats)", "same top-1 token", "95 % confidence", "3060 tokens"),
        *("100.0%", "perplexity of the reference model", "What is the capital of France?"),
        *("KL of 99.9 % of the tokens, at most", "largest KL of a token", "tasks solved"),
    ):
        assert words in outcome.out


def test_bundle_gives_what_its_manifest_says(cache: Path, bundle: Path, tiny_hf: Path) -> None:
    outcome = edgepack_quickly("eval", bundle, "--reference", tiny_hf, "--json", cache=cache)
    assert outcome.status == 0, outcome.err
    head = edgepack_quickly("inspect", bundle, "--json")
    stated = json.loads(head.out)["manifest"]["quantization"]["quality"]
    assert json.loads(outcome.out)["quality"]["kl"] == pytest.approx(stated["kl"])


def test_text_file(cache: Path, tiny_hf: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Step {number}: turn the valve. " for number in range(40)))
    arguments = ("eval", tiny_onnx, "--reference", tiny_hf, "--eval-text", text)
    outcome = edgepack_quickly(*arguments, "--json", cache=cache)
    assert outcome.status == 0, outcome.err
    # As many whole windows as there are in it.
    assert json.loads(outcome.out)["quality"]["tokens"] == len(text.read_text()) // 256 * 255


def test_text_too_short(cache: Path, tiny_hf: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("Too short.")
    arguments = ("eval", tiny_onnx, "--reference", tiny_hf, "--eval-text", text)
    refused(
        edgepack_quickly(*arguments, cache=cache), 12, "short.txt is too short", "10 tokens", "512"
    )


def test_text_empty(cache: Path, tiny_hf: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    text = tmp_path / "empty.txt"
    text.touch()
    arguments = ("eval", tiny_onnx, "--reference", tiny_hf, "--eval-text", text)
    refused(edgepack_quickly(*arguments, cache=cache), 12, "empty.txt is empty")


def test_original_that_is_not_named(cache: Path, bundle: Path) -> None:
    refused(edgepack_quickly("eval", bundle, cache=cache), 12, "folder: hf", "--reference")


def test_original_instead_of_a_built_model(cache: Path, tiny_hf: Path) -> None:
    refused(
        edgepack_quickly("eval", tiny_hf, cache=cache), 12, "expected a built one", "edgepack build"
    )


def test_built_model_as_the_original(cache: Path, tiny_onnx: Path) -> None:
    outcome = edgepack_quickly("eval", tiny_onnx, "--reference", tiny_onnx, cache=cache)
    refused(outcome, 4, "is ONNX: its original weights are not available")


def test_file_that_is_no_bundle(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.epk"
    path.write_text("nothing")
    refused(edgepack_quickly("eval", path, cache=cache), 7, "bundle")


def test_model_that_computes_no_numbers(
    cache: Path, tiny_hf: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    spoilt = graphs.filled(tiny_onnx, tmp_path / "onnx", math.nan)
    outcome = edgepack_quickly("eval", spoilt, "--reference", tiny_hf, cache=cache)
    refused(outcome, 12, "its outputs (logits) are NaN or infinite")


def test_another_original(cache: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    """Of the same shape, but its letters have other numbers."""
    other = tiny_model.make_hf(tmp_path / "other")
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    path.write_text(json.dumps(tokenizer))
    outcome = edgepack_quickly("eval", tiny_onnx, "--reference", other, cache=cache)
    refused(outcome, 12, "the model's tokenizer differs from the reference model's", "--reference")
