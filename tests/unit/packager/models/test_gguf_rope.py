"""Scaled rotary positions in GGUF files: computed as transformers does, or refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from packager.errors import ModelSourceError
from packager.jobs import llama3_rope
from packager.models.source import as_hf_folder, resolve
from tests.support import tiny_gguf

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


pytestmark = pytest.mark.usefixtures("own_cache", "jobs_here")


def divisors(size: int, theta: float, parameters: dict[str, Any]) -> NDArray[np.float32]:
    """What llama.cpp's converter writes for a head: its loop over the frequencies, as it is."""
    factor, low, high = (parameters[f] for f in ("factor", "low_freq_factor", "high_freq_factor"))
    original = parameters["original_max_position_embeddings"]
    found = []
    for frequency in 1.0 / theta ** (np.arange(0, size, 2, dtype=np.float32) / size):
        wavelength = 2 * np.pi / frequency
        if wavelength < original / high:
            found.append(1)
        elif wavelength > original / low:
            found.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


def logits(folder: Path, **config: Any) -> NDArray[np.float32]:
    """Logits of transformers for 200 tokens, float32 [200, vocabulary]."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    changed = AutoConfig.from_pretrained(folder, **config)
    model = AutoModelForCausalLM.from_pretrained(folder, config=changed, dtype=torch.float32)
    tokens = torch.arange(200)[None] % 250
    with torch.inference_mode():
        return np.asarray(model(input_ids=tokens).logits[0])


@pytest.mark.parametrize(
    ("rope", "more", "parameters"),
    [
        ({}, {}, {}),
        (
            {"scaling.type": "linear", "scaling.factor": 4.0},
            {},
            {"rope_type": "linear", "factor": 4.0},
        ),
        ({"scale_linear": 4.0}, {}, {"rope_type": "linear", "factor": 4.0}),
        (
            {
                "scaling.type": "yarn",
                "scaling.factor": 4.0,
                "scaling.original_context_length": 64,
            },
            {},
            YARN,
        ),
        ({}, {llama3_rope.DIVISORS: divisors(16, 10000.0, LLAMA3)}, LLAMA3),
    ],
    ids=["none", "linear", "linear of old files", "yarn", "llama3"],
)
def test_converted_model_computes_what_transformers_does(
    tiny_hf: Path,
    tmp_path: Path,
    rope: dict[str, Any],
    more: dict[str, Any],
    parameters: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tiny_gguf.make_gguf(tiny_hf, tmp_path / "m.gguf", rope=rope, more=more)
    converted = as_hf_folder(resolve(str(file)))
    assert "does not use" not in capsys.readouterr().err
    plain = logits(tiny_hf)
    wanted = plain
    if parameters:
        wanted = logits(tiny_hf, rope_parameters={"rope_theta": 10000.0, **parameters})
        assert np.abs(wanted - plain).max() > 1e-3
    assert np.abs(logits(converted) - wanted).max() < 1e-5
    stored = json.loads((converted / "config.json").read_text())["rope_parameters"]
    assert stored["rope_type"] == parameters.get("rope_type", "default")


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_parameters_of_the_real_llama_3_models_are_recognized(size: int, factor: float) -> None:
    real = {**LLAMA3, "factor": factor, "original_max_position_embeddings": 8192}
    assert llama3_rope.parameters(divisors(size, 500000.0, real), 500000.0) == real
    assert llama3_rope.parameters(np.ones(size // 2, np.float32), 500000.0) == {}


@pytest.mark.parametrize(
    ("rope", "more", "name"),
    [
        ({"scaling.type": "longrope", "scaling.factor": 2.0}, [], "scaling.type longrope"),
        ({}, ["rope_factors_long.weight"], "rope_factors_long.weight"),
        (
            {"scaling.type": "yarn", "scaling.factor": 2.0, "scaling.attn_factor": 0.5},
            [],
            "llama.rope.scaling.attn_factor",
        ),
        ({"scaling.type": "linear", "scaling.factor": 2.0}, ["rope_freqs.weight"], "rope_freqs"),
    ],
)
def test_scaling_that_cannot_be_honoured_is_refused_by_name(
    tiny_hf: Path, tmp_path: Path, rope: dict[str, Any], more: list[str], name: str
) -> None:
    tensors = {each: np.ones(8, np.float32) for each in more}
    file = tiny_gguf.make_gguf(tiny_hf, tmp_path / "m.gguf", rope=rope, more=tensors)
    with pytest.raises(ModelSourceError, match=name):
        resolve(str(file))


def test_divisors_of_another_form_are_refused_by_name(tiny_hf: Path, tmp_path: Path) -> None:
    odd = {llama3_rope.DIVISORS: np.linspace(1, 9, 8, dtype=np.float32)}
    file = tiny_gguf.make_gguf(tiny_hf, tmp_path / "m.gguf", more=odd)
    with pytest.raises(ModelSourceError, match=llama3_rope.DIVISORS):
        as_hf_folder(resolve(str(file)))
