"""The echo of a prompt: its text, and the log probability of each of its tokens.

The prompt's text comes before the answer's, as in OpenAI's completions. Evaluations (EleutherAI's
lm-evaluation-harness, say) compare continuations so.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from device_runtime.inference.engine import GenerationRequest, Prompt, TokenLogprob
from device_runtime.inference.kv_cache import Tokens
from device_runtime.inference.sampling import Scores, check_finite, log_probabilities, most_likely
from device_runtime.tokenizer.tokenizer import Tokenizer


class Echo:
    """The echo of one prompt, as its prefill goes on.

    Args:
        request: the request.
        prompt: one of its raw prompts.
        tokens: that prompt's token ids.
        tokenizer: the model's tokenizer.

    Attributes:
        text: the prompt's text, without special tokens.
        logprobs: of the tokens so far, the first of which has none; empty unless requested.
        scored: whether log probabilities are requested: the whole prompt must be prefilled for
            them, whatever is cached.
    """

    def __init__(
        self, request: GenerationRequest, prompt: Prompt, tokens: Tokens, tokenizer: Tokenizer
    ) -> None:
        stream = tokenizer.stream()
        self._pieces = [stream.push(token) for token in tokens.tolist()]
        self._tokens = tokens
        self._tokenizer = tokenizer
        self._count = request.logprobs or 0
        self._last: Scores | None = None
        self.text = prompt if isinstance(prompt, str) else "".join(self._pieces)
        self.logprobs: list[TokenLogprob] = []
        self.scored = request.logprobs is not None

    def add(self, logits: npt.NDArray[np.floating[Any]]) -> None:
        """Take the logits of a prefill chunk; each position has those of the token after it.

        Args:
            logits: the model's output, [tokens of the chunk, vocabulary].

        Raises:
            FloatingPointError: a logit is NaN or infinite.
        """
        check_finite(logits)
        for scores in self._before(logits):
            place = len(self.logprobs)
            token = int(self._tokens[place])
            self.logprobs.append(
                token_logprob(
                    self._tokenizer,
                    token,
                    scores,
                    count=self._count,
                    characters=len(self._pieces[place]),
                )
            )
        self._last = logits[-1].astype(np.float32)

    def _before(self, logits: npt.NDArray[np.floating[Any]]) -> Iterator[Scores | None]:
        """Yield the logits that stand before each token of a chunk."""
        yield self._last
        for row in logits[:-1]:
            yield row.astype(np.float32)


def token_logprob(
    tokenizer: Tokenizer, token: int, logits: Scores | None, *, count: int, characters: int
) -> TokenLogprob:
    """Compute a token's log probability.

    Args:
        tokenizer: the model's tokenizer.
        token: the token's id.
        logits: the model's output before the token, float32 [vocabulary]; None for the first token
            of a text, before which there is nothing.
        count: number of most likely tokens to report.
        characters: characters of the text that the token completes.
    """
    name = tokenizer.bytes_of
    if logits is None:
        return TokenLogprob(token=token, data=name(token), logprob=None, characters=characters)
    logprobs = log_probabilities(logits)
    top = tuple(
        (name(int(likely)), float(logprobs[likely])) for likely in most_likely(logprobs, count)
    )
    return TokenLogprob(
        token=token,
        data=name(token),
        logprob=float(logprobs[token]),
        top=top,
        characters=characters,
    )
