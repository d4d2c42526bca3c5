"""What a prompt is cut into, with the default model: tiny ones hid a difference."""

import platform
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from device_runtime.inference.genai_model import GenAIModel
from device_runtime.inference.kv_cache import Slot, Tokens, step
from device_runtime.memory import PROMPT_STEP

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="other kernels round differently"),
]
CONTEXT = 2048


def logits(model: GenAIModel, prompt: Tokens, cut: int) -> npt.NDArray[np.float32]:
    """The logits after a prompt of which the first tokens were prefilled before."""
    slot = Slot(model.generator(CONTEXT, ""), CONTEXT, "")
    for end in (cut, len(prompt)):
        while rest := end - len(slot.tokens):
            begin = len(slot.tokens)
            slot.append(prompt[begin : begin + step(rest, PROMPT_STEP)])
    scores: npt.NDArray[np.float32] = slot.generator.get_logits().copy()
    return scores


def test_long_prompt_rewinds_to_any_place(default_model: Path) -> None:
    model = GenAIModel(default_model, context_length=CONTEXT, threads=2)
    prompt = np.random.default_rng(0).integers(1000, 40_000, 1500).astype(np.int32)
    slot = Slot(model.generator(CONTEXT, ""), CONTEXT, "")
    for begin in range(0, len(prompt), PROMPT_STEP):
        slot.append(prompt[begin : begin + PROMPT_STEP])
    slot.rewind(100)
    slot.append(prompt[100:200])
    assert np.array_equal(slot.generator.get_logits(), logits(model, prompt[:200], 0))

    kept = model.generator(CONTEXT, "")
    for part, source in zip(kept.parts(1500), slot.generator.parts(1500), strict=True):
        part[:] = source
    kept.holds(1500)
    kept.rewind_to(100)
    kept.append_tokens(prompt[100:200])
    assert np.array_equal(kept.get_logits(), logits(model, prompt[:200], 0))


@pytest.mark.parametrize("length", [PROMPT_STEP + 1, 2 * PROMPT_STEP + 1, 300])
def test_cut_of_a_prompt_changes_no_bit(default_model: Path, length: int) -> None:
    model = GenAIModel(default_model, context_length=CONTEXT, threads=2)
    prompt = np.random.default_rng(length).integers(1000, 40_000, length).astype(np.int32)
    expected = logits(model, prompt, 0)
    for cut in (2, 36, 63, 64, 65, 117, length - 2):
        assert np.array_equal(logits(model, prompt, cut), expected), cut
