"""Sampling of the next token: scores in, scores out, for a generator that takes the highest one.

The generator is always greedy; noise makes it sample. With Gumbel noise added to the scores
divided by the temperature, the argmax is a sample of their softmax (the Gumbel-max trick,
E. J. Gumbel, 1954) — also of the softmax over the tokens that a grammar allows, although the
others are masked afterwards. So one KV cache serves requests with any parameters.
"""

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from device_runtime.inference.engine import GenerationRequest

Scores = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

NEGLIGIBLE = 25.0
"""Tokens whose score is this far below the best are not sampled: in a vocabulary of 10^5, all of
them together have a probability below 2e-6."""

_BEHIND = 1e4
"""Offset that ranks excluded tokens below all others. They keep their order: where a grammar allows
none of the others, the best excluded token is taken."""

_LEAST = np.float32(2**-24)


class Sampler:
    """The scores of one answer.

    Args:
        request: the request, with its sampling parameters.
        prompt: the prompt's token ids, int32 [tokens].
        index: number of the answer among those to the same request.
    """

    def __init__(
        self, request: GenerationRequest, prompt: npt.NDArray[np.int32], index: int
    ) -> None:
        self._request = request
        # A top_p of 0 leaves only the most likely token.
        self._greedy = request.temperature <= 0 or request.top_p <= 0
        self._answer: Counter[int] = Counter()
        self._seen = np.unique(prompt)
        seed = None if request.seed is None else (request.seed + index) % 2**63
        self._random = np.random.default_rng(seed)

    @property
    def changes_scores(self) -> bool:
        """True if the scores differ from the model's logits."""
        request = self._request
        return (
            not self._greedy
            or request.repetition_penalty != 1.0
            or request.frequency_penalty != 0.0
            or request.presence_penalty != 0.0
            or bool(request.logit_bias)
        )

    def add(self, token: int) -> None:
        """Record the next token of the answer."""
        self._answer[token] += 1

    def scores(self, logits: Scores, forced: int | None = None) -> Scores:
        """Compute the scores of which the generator takes the highest.

        Args:
            logits: the model's output, float32 [vocabulary].
            forced: the token to take, unless a grammar forbids it; None for any.

        Returns:
            Scores, float32 [vocabulary], in a new array.
        """
        scores = self._penalize(logits)
        scores = scores if self._greedy else self._add_noise(scores)
        if forced is not None:
            scores[forced] = scores.max() + 1
        return scores

    def _penalize(self, logits: Scores) -> Scores:
        request = self._request
        scores = logits.astype(np.float32, copy=True)
        answer = np.fromiter(self._answer, np.int64)
        if request.repetition_penalty != 1.0:
            seen = np.union1d(self._seen, answer)
            old = scores[seen]
            penalty = np.float32(request.repetition_penalty)
            scores[seen] = np.where(old > 0, old / penalty, old * penalty)
        if self._answer and (request.frequency_penalty or request.presence_penalty):
            counts = np.fromiter(self._answer.values(), np.float32)
            scores[answer] -= request.frequency_penalty * counts + request.presence_penalty
        for token, bias in request.logit_bias:
            scores[token] += bias
        return scores

    def _add_noise(self, scores: Scores) -> Scores:
        scores /= np.float32(self._request.temperature)
        (kept,) = np.nonzero(scores >= scores.max() - NEGLIGIBLE)
        kept = self._truncate(kept, scores[kept])
        waiting = self._random.standard_exponential(len(kept), np.float32)
        # A zero, which 32-bit floats draw too often, would win regardless of the score.
        noisy = scores[kept] - np.log(np.maximum(waiting, _LEAST))
        scores -= np.float32(_BEHIND)
        scores[kept] = noisy
        return scores

    def _truncate(self, kept: Numbers, scores: Scores) -> Numbers:
        """Keep the tokens that top_k, min_p and top_p allow, of some tokens with their scores."""
        request = self._request
        if request.top_k and request.top_k < len(kept):
            best = np.argpartition(scores, -request.top_k)[-request.top_k :]
            kept, scores = kept[best], scores[best]
        if request.min_p > 0:
            likely = scores >= scores.max() + np.log(request.min_p)
            kept, scores = kept[likely], scores[likely]
        if request.top_p < 1:
            shares = np.exp(scores - scores.max())
            order = _best_first(shares, request.top_p * shares.sum())
            before = np.cumsum(shares[order]) - shares[order]
            kept = kept[order[before < request.top_p * shares.sum()]]
        return kept


def _best_first(shares: Scores, total: float) -> Numbers:
    """Return the indices of the largest shares in order, at least those that sum up to a total."""
    few = min(1024, len(shares))
    best = np.argpartition(shares, -few)[-few:]
    # Sorting a large vocabulary would take a tenth of the time of a decode step.
    places = best if shares[best].sum() > total else np.arange(len(shares))
    return places[np.argsort(-shares[places])]


def check_finite(logits: npt.NDArray[np.floating[Any]]) -> None:
    """Refuse logits from which no token can be chosen; minus infinity rules a token out.

    Raises:
        FloatingPointError: a logit is NaN or infinite.
    """
    if not np.isfinite(logits.max()):
        raise FloatingPointError("its outputs (logits) are NaN or infinite")


def log_probabilities(logits: Scores) -> Scores:
    """Compute the logarithm of the softmax, float32 [vocabulary]."""
    shifted: Any = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted, dtype=np.float64).sum()), np.float32)


def most_likely(logprobs: Scores, count: int) -> Numbers:
    """Return the ids of the most likely tokens, best first."""
    if count == 0:
        return np.empty(0, np.int64)
    best = np.argpartition(-logprobs, min(count, len(logprobs)) - 1)[:count]
    return best[np.argsort(-logprobs[best], kind="stable")]
