"""Recipes that are known to fail on a model of the catalogue are not built again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from packager import profile
from packager.errors import QualityError
from packager.models.catalog import CATALOG, DEFAULT_MODEL, MeasuredLoss, measured_loss
from packager.models.source import ModelSource, resolve
from packager.profile import DeviceProfile
from packager.quantize import quantize
from packager.quantize.quantize import QuantizeRequest
from packager.recipes.recipes import AUTO, RECIPES
from tests.support import tiny_gguf, tiny_model

WHOLE = ["int4-rtn", "int4-gptq-light", "int4-gptq-mixed", "int8"]
TEXT = Path("own.txt")
PACKAGED = CATALOG[DEFAULT_MODEL].packaged
assert PACKAGED is not None
DIGEST = PACKAGED.sha256


def _profile(
    *, max_kl: float | None = 0.1, provider: str = "cpu", **quantization: Any
) -> DeviceProfile:
    base = profile.load("cpu-x86_64")
    return msgspec.structs.replace(
        base,
        execution_provider=provider,
        limits=msgspec.structs.replace(base.limits, max_kl=max_kl),
        quantization={**base.quantization, **quantization},
    )


def _source(digest: str = DIGEST) -> ModelSource:
    return ModelSource(
        kind="hf",
        name="any name",
        origin="file: any.gguf",
        path=Path("/models/any.gguf"),
        digest=digest,
        architecture="LlamaForCausalLM",
        license="",
        parameters=134_515_008,
        quantization="FP8",  # its weights are not looked at
    )


def _names(device: DeviceProfile, source: ModelSource | None = None, **more: Any) -> list[str]:
    """Names of the recipes that a build tries."""
    fields = {"recipe": AUTO, "source": source or _source(), "profile": device, **more}
    request = QuantizeRequest(output=Path("out.epk"), **fields)
    return [recipe.name for recipe in quantize.candidates(request)]


@pytest.mark.parametrize(
    ("max_kl", "tried"),
    [
        (0.1, ["int4-gptq-light", "int4-gptq-mixed", "int8"]),
        (0.05, ["int4-gptq-mixed", "int8"]),
        # The last one is built whatever is known, and its figures are shown.
        (0.0, ["int8"]),
        # Too near to what is known: another processor may be within the limit, or the tasks agree.
        (0.07, ["int4-gptq-light", "int4-gptq-mixed", "int8"]),
        (0.42, WHOLE),
        (0.6, WHOLE),
        (None, WHOLE),
    ],
)
def test_recipes_that_exceed_the_limit_for_sure_are_skipped(
    max_kl: float | None, tried: list[str]
) -> None:
    assert _names(_profile(max_kl=max_kl)) == tried


def test_what_is_skipped_is_reported_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    _names(_profile())
    line = " ".join(capsys.readouterr().err.split())
    assert "skipping int4-rtn (0.567): KL known" in line
    assert "limit 0.1" in line


@pytest.mark.parametrize(
    "change",
    [
        {"source": _source("0" * 64)},
        {"eval_text": TEXT},
        {"calibration_text": TEXT},
        {"device": _profile(block_size=64)},
        {"device": _profile(block_size=16)},
    ],
    ids=["another model", "own text", "own calibration text", "larger blocks", "smaller blocks"],
)
def test_whatever_is_not_the_same_is_tried(change: Mapping[str, Any]) -> None:
    assert _names(**{"device": _profile(), **change}) == WHOLE


def test_a_gpu_that_gets_the_same_weights_skips_the_same() -> None:
    assert _names(_profile(provider="cuda")) == [*WHOLE[1:], "fp16"]
    assert _names(_profile(provider="dml"))[0] == "int4-rtn"


def test_a_recipe_that_the_user_names_is_built() -> None:
    assert _names(_profile(), recipe="int4-rtn") == ["int4-rtn"]


def test_results_are_of_recipes_that_exist() -> None:
    assert isinstance(measured_loss(DIGEST), MeasuredLoss)
    for model in CATALOG.values():
        assert model.measured is None or set(model.measured.kl) <= set(RECIPES)


@pytest.mark.parametrize(
    ("types", "kept"),
    [
        ({"ffn": "Q4_1", "attn": "Q5_0", "token_embd": "Q8_0"}, ["gguf"]),
        # Floats are not the file's own quantization.
        ({}, []),
        ({"attn": "Q4_0", "ffn": "F16", "token_embd": "F16"}, []),
    ],
    ids=["codes", "floats", "most are floats"],
)
def test_auto_keeps_the_codes_of_a_gguf_file_that_has_them(
    tiny_hf: Path, tmp_path: Path, types: dict[str, str], kept: list[str]
) -> None:
    source = resolve(str(tiny_gguf.make_gguf(tiny_hf, tmp_path / "tiny.gguf", types=types)))
    assert _names(_profile(), source) == [*kept, *WHOLE]
    assert _names(_profile(provider="dml"), source)[0] == "int4-rtn"


def test_auto_keeps_the_grid_that_weights_lie_on(tiny_hf: Path, tmp_path: Path) -> None:
    trained = resolve(str(tiny_model.round_to_q4_0(tiny_hf, tmp_path / "trained")))
    assert _names(_profile(), trained) == ["int4-own", *WHOLE]
    # Its blocks are of 32 weights.
    assert _names(_profile(block_size=64), trained) == WHOLE
    assert _names(_profile(provider="dml"), trained)[0] == "int4-rtn"
    ordinary = resolve(str(tiny_hf))
    assert _names(_profile(), ordinary) == WHOLE
    with pytest.raises(QualityError, match=r"0 % of the weights of .* lie on a grid of 4 bits"):
        _names(_profile(), ordinary, recipe="int4-own")


def test_codes_that_are_not_there_are_not_kept(tiny_hf: Path, tmp_path: Path) -> None:
    with pytest.raises(QualityError, match="only a GGUF file has codes to keep") as caught:
        _names(_profile(), recipe="gguf")
    assert "--recipe auto" in caught.value.hint
    file = tiny_gguf.make_gguf(tiny_hf, tmp_path / "tiny.gguf", types={"ffn": "F16"})
    with pytest.raises(QualityError, match=r"tiny cannot be kept: F16 .* %, F32 .* % of its"):
        _names(_profile(), resolve(str(file)), recipe="gguf")
