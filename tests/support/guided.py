"""A generator of ONNX Runtime GenAI that is kept to a grammar, as tests drive it token by token."""

from typing import Any

import numpy as np

from device_runtime.tokenizer.tokenizer import Tokenizer


def generator(model: Any, tokenizer: Tokenizer, grammar: str, prompt: str, tokens: int) -> Any:
    """One that has read the prompt and may say so many tokens."""
    import onnxruntime_genai as og

    ids = tokenizer.encode(prompt, special=True)
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + tokens, do_sample=False)
    params.set_guidance("lark_grammar", grammar)
    made = og.Generator(model, params)
    made.append_tokens(ids)
    return made


def next_token(made: Any, random: np.random.Generator | None) -> int:
    """The next token: the likeliest, or a sample at temperature 1."""
    if random is not None:
        scores = np.asarray(made.get_logits(), np.float32)
        made.set_logits(scores + random.gumbel(size=scores.shape).astype(np.float32))
    made.generate_next_token()
    return int(made.get_next_tokens()[0])
