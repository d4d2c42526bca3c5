"""Cases to measure: prompts by length, and the length of their answers."""

import random
from collections.abc import Iterator
from typing import NamedTuple

from device_runtime.bench.results import Skipped
from device_runtime.inference.engine import GenerationRequest, TokenIds

PREFILL = (32, 128, 512, 2048)
"""Lengths of prompts, tokens."""
CONTEXTS = (0, 512, 2048)
"""Lengths of contexts to decode after, tokens. An answer needs a prompt: for 0 it has one token."""
ANSWER = 64
"""Tokens of an answer."""
SHORT = 128
"""Longest prompt of the short benchmark, tokens."""
SEED = 1


class Case(NamedTuple):
    """Prompts of a length that are answered.

    Attributes:
        prompt: length of the prompt, tokens.
        answer: length of the answer, tokens: 1 measures the prefill alone.
    """

    prompt: int
    answer: int


def cases(context_length: int, *, whole: bool = True) -> tuple[list[Case], list[Skipped]]:
    """List the cases that a model has room for, from the shortest on, and what is left out.

    Args:
        context_length: maximum length of prompt and answer together, tokens.
        whole: include long prompts.
    """
    decoded = {max(1, context) for context in CONTEXTS}
    fitting, skipped = [], []
    for prompt in sorted(decoded | set(PREFILL)):
        if prompt > SHORT and not whole:
            continue
        case = Case(prompt, ANSWER if prompt in decoded else 1)
        if sum(case) > context_length:
            reason = f"the context length is {context_length} tokens; the answer needs room"
            skipped.append(Skipped(tokens=prompt, reason=reason))
        else:
            fitting.append(case)
    return fitting, skipped


class Prompts:
    """Prompts of tokens at random, the same in each run; no two begin alike.

    So no prompt is answered from the prompt cache. The tokens are from the middle of the
    vocabulary: control tokens, and those that stand for images, are at its ends.

    Args:
        vocabulary: number of tokens that the model knows.
    """

    def __init__(self, vocabulary: int) -> None:
        self._random = random.Random(SEED)  # noqa: S311  (not a secret)
        self._tokens = range(vocabulary // 4, max(1, vocabulary * 3 // 4))
        self._first = self._firsts()

    def request(self, case: Case) -> GenerationRequest:
        """Return a request of a case, with the next prompt."""
        rest = self._random.choices(self._tokens, k=case.prompt - 1)
        prompt = TokenIds((next(self._first), *rest))
        return GenerationRequest(prompt="", prompts=(prompt,), max_tokens=case.answer)

    def _firsts(self) -> Iterator[int]:
        while True:
            yield from self._random.sample(self._tokens, len(self._tokens))
