"""Answers that are kept to a grammar, as the engine decodes them, token by token."""

from collections.abc import Iterator

import numpy as np

from device_runtime.inference.decoder import Decoder
from device_runtime.inference.engine import GenerationRequest, Guidance
from device_runtime.inference.genai_model import GenAIModel
from device_runtime.inference.kv_cache import Slot
from device_runtime.inference.sampling import Sampler
from device_runtime.inference.thoughts import Stage


def decoder(
    model: GenAIModel, grammar: str, prompt: str, tokens: int, *, seed: int | None = None
) -> Decoder:
    """One that has read the prompt and may say so many tokens; greedy without a seed."""
    request = GenerationRequest(
        prompt=prompt,
        max_tokens=tokens,
        temperature=0 if seed is None else 1,
        seed=seed,
        guidance=Guidance(kind="lark_grammar", data=grammar),
    )
    ids = np.array(model.tokenizer.encode(prompt, special=True), np.int32)
    capacity = max(len(ids) + tokens, model.min_capacity)
    slot = Slot(model.generator(capacity, ""), capacity, "")
    slot.append(ids)
    cursor = model.grammar(request, Stage.ANSWER)
    return Decoder(slot, Sampler(request, ids, 0), cursor, scored=False)


def answer(
    model: GenAIModel, grammar: str, prompt: str, tokens: int, *, seed: int | None = None
) -> Iterator[int]:
    """The tokens of an answer, up to an end token or so many."""
    source = decoder(model, grammar, prompt, tokens, seed=seed)
    for _ in range(tokens):
        token = source.next()
        yield token
        if token in model.end_tokens:
            return
