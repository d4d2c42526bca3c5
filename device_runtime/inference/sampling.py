"""Choosing the next token: scores in, scores out, for a generator that takes the highest one.

The generator is always greedy; what makes it sample is noise. With Gumbel noise added to scores
divided by the temperature, the highest one is a sample of their softmax (the Gumbel-max trick,
E. J. Gumbel, 1954) — also of the softmax over whatever tokens a grammar leaves, which the
generator rules out afterwards. So one KV cache serves requests with any options.
"""

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from device_runtime.inference.engine import GenerationRequest

Scores = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

NEGLIGIBLE = 25.0
"""Tokens whose score is this far below the best are not sampled: all of a vocabulary of 10^5
together have a probability below 2e-6."""

_BEHIND = 1e4
"""How far behind the others tokens are put that shall not be sampled. They stay in their order:
where a grammar allows none of the others, the best of these is taken."""

_LEAST = np.float32(2**-24)


class Sampler:
    """The scores of one answer.

    Args:
        request: its options.
        prompt: the prompt's token numbers, int32 [tokens].
        index: number of the answer among those to the same request.
    """

    def __init__(
        self, request: GenerationRequest, prompt: npt.NDArray[np.int32], index: int
    ) -> None:
        self._request = request
        # A top_p of 0 leaves the most likely token alone.
        self._greedy = request.temperature <= 0 or request.top_p <= 0
        self._answer: Counter[int] = Counter()
        self._seen = np.unique(prompt)
        seed = None if request.seed is None else (request.seed + index) % 2**63
        self._random = np.random.default_rng(seed)

    @property
    def changes_scores(self) -> bool:
        """Whether the model's own scores would not do."""
        request = self._request
        return (
            not self._greedy
            or request.repetition_penalty != 1.0
            or request.frequency_penalty != 0.0
            or request.presence_penalty != 0.0
            or bool(request.logit_bias)
        )

    def add(self, token: int) -> None:
        """The answer goes on with this token."""
        self._answer[token] += 1

    def scores(self, logits: Scores) -> Scores:
        """What the generator is to take the highest of.

        Args:
            logits: the model's, float32 [vocabulary].

        Returns:
            float32 [vocabulary], an array of its own.
        """
        scores = self._penalized(logits)
        return scores if self._greedy else self._with_noise(scores)

    def _penalized(self, logits: Scores) -> Scores:
        request = self._request
        scores = logits.astype(np.float32, copy=True)
        answer = np.fromiter(self._answer, np.int64)
        if request.repetition_penalty != 1.0:
            seen = np.union1d(self._seen, answer)
            found = scores[seen]
            penalty = np.float32(request.repetition_penalty)
            scores[seen] = np.where(found > 0, found / penalty, found * penalty)
        if self._answer and (request.frequency_penalty or request.presence_penalty):
            counts = np.fromiter(self._answer.values(), np.float32)
            scores[answer] -= request.frequency_penalty * counts + request.presence_penalty
        for token, bias in request.logit_bias:
            scores[token] += bias
        return scores

    def _with_noise(self, scores: Scores) -> Scores:
        scores /= np.float32(self._request.temperature)
        (kept,) = np.nonzero(scores >= scores.max() - NEGLIGIBLE)
        kept = self._truncated(kept, scores[kept])
        waiting = self._random.standard_exponential(len(kept), np.float32)
        # A zero, of which 32 bits have too many, would win whatever the score.
        noisy = scores[kept] - np.log(np.maximum(waiting, _LEAST))
        scores -= np.float32(_BEHIND)
        scores[kept] = noisy
        return scores

    def _truncated(self, kept: Numbers, found: Scores) -> Numbers:
        """The tokens that top_k, min_p and top_p leave of those given, with their scores."""
        request = self._request
        if request.top_k and request.top_k < len(kept):
            best = np.argpartition(found, -request.top_k)[-request.top_k :]
            kept, found = kept[best], found[best]
        if request.min_p > 0:
            likely = found >= found.max() + np.log(request.min_p)
            kept, found = kept[likely], found[likely]
        if request.top_p < 1:
            shares = np.exp(found - found.max())
            order = _best_first(shares, request.top_p * shares.sum())
            before = np.cumsum(shares[order]) - shares[order]
            kept = kept[order[before < request.top_p * shares.sum()]]
        return kept


def _best_first(shares: Scores, wanted: float) -> Numbers:
    """Places of the largest shares in order; not all, if fewer have as much as is wanted."""
    few = min(1024, len(shares))
    best = np.argpartition(shares, -few)[-few:]
    # Sorting all of a large vocabulary takes as long as a tenth of a token.
    places = best if shares[best].sum() > wanted else np.arange(len(shares))
    return places[np.argsort(-shares[places])]


def log_probabilities(logits: Scores) -> Scores:
    """Logarithm of the softmax, float32 [vocabulary]."""
    shifted: Any = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted, dtype=np.float64).sum()), np.float32)


def most_likely(logprobs: Scores, count: int) -> Numbers:
    """Numbers of the most likely tokens, best first."""
    if count == 0:
        return np.empty(0, np.int64)
    best = np.argpartition(-logprobs, min(count, len(logprobs)) - 1)[:count]
    return best[np.argsort(-logprobs[best], kind="stable")]
