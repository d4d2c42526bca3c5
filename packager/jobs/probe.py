"""The probe of a model: a prompt whose greedy continuation is the same on every processor.

Kernels differ from processor to processor, and so do the logits: from those of the fp32 model by
0.09 to 0.11 on average on x86-64, Cortex-A53 and Cortex-A76. A token counts only if the second most
likely one is far behind.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from device_runtime.tokenizer.files import end_tokens
from packager.jobs import generation

MARGIN = 2.0
"""Distance of the two largest logits from which on all kernels choose the same token. Two kernels
differ in the distance of two logits by about 0.28 (standard deviation, from the 0.11 above): 2.0 is
seven times that, since a wrong expectation would make all devices of a kind refuse a good model."""
MAX_TOKENS = 16
LENGTH = 32
"""Tokens that an answer should have: the device goes on past the probe to measure its speed."""
PROMPTS = (
    "1, 2, 3, 4, 5, 6, 7, 8,",
    "10, 20, 30, 40, 50, 60, 70, 80,",
    "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
    "a, b, c, d, e, f, g, h, i, j, k,",
    "The cat sat on the mat. The cat sat on the mat. The cat sat on the mat. The cat sat on the",
)
"""Most models are sure of how series and repetitions go on."""


class Continuation(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt, and the ids of the tokens that follow it."""

    prompt: str
    tokens: tuple[int, ...]


def find(model: Any, tokenizer: Any, folder: Path) -> Continuation | None:
    """Find the prompt with the longest certain continuation, of those that do not end early.

    Args:
        model: model loaded from the folder.
        tokenizer: its `Tokenizer`.
        folder: an ONNX GenAI folder.

    Returns:
        The continuation, up to `MAX_TOKENS`; None if no prompt has a certain first token.
    """
    ends = {*end_tokens(folder)}
    context = json.loads((folder / "genai_config.json").read_text())["model"]["context_length"]
    best = (False, 0)
    chosen = None
    for prompt in PROMPTS:
        encoded = tokenizer.encode(prompt, special=True)
        if len(encoded) + LENGTH > context:
            continue
        tokens, goes_on = _certain(model, folder, encoded, ends)
        if tokens and (goes_on, len(tokens)) > best:
            best = (goes_on, len(tokens))
            chosen = Continuation(prompt=prompt, tokens=tokens)
        if best == (True, MAX_TOKENS):
            break
    return chosen


def _certain(model: Any, folder: Path, prompt: Any, ends: set[int]) -> tuple[tuple[int, ...], bool]:
    """Return the certain tokens after a prompt, and whether the answer reaches `LENGTH`."""
    runner = generation.generator(model, folder, len(prompt) + LENGTH)
    generation.prefill(runner, folder, prompt)
    tokens: list[int] = []
    certain = True
    for _ in range(LENGTH):
        logits = np.asarray(runner.get_logits())[0, -1].astype(np.float32)
        second, first = np.argpartition(logits, -2)[-2:]
        certain = certain and bool(logits[first] - logits[second] >= MARGIN)
        if int(first) in ends or not (certain or tokens):
            return tuple(tokens), False
        if certain and len(tokens) < MAX_TOKENS:
            tokens.append(int(first))
        runner.generate_next_token()
    return tuple(tokens), True
