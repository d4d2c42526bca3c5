"""Comparison of two models' probabilities of the same tokens."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from packager.jobs.job import JobRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

ROWS = 64
"""Tokens whose probabilities are in memory at a time; a large vocabulary needs 1 MB per token."""

T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201)
"""Quantiles 0.975 of Student's t distribution for 1, 2, ... degrees of freedom."""

TAIL = 0.999
"""Quantile of the KL divergences of all tokens: damage to a few tokens hardly moves the mean."""


FEWEST = 4
"""Windows after which the interval of the mean is narrow enough to end early."""


class WindowMeans(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of a model: a mean over the tokens for each window, and the worst tokens.

    Attributes:
        kl: KL divergence from the reference, nats.
        top1: share of tokens for which both models have the same top choice.
        nll: negative log-likelihood of the next tokens, nats.
        reference_nll: negative log-likelihood under the reference model, nats.
        tokens: number of tokens in all windows.
        kl_tail: KL divergence that a share `TAIL` of all tokens does not exceed, nats.
        kl_max: largest KL divergence of a token, nats.
    """

    kl: tuple[float, ...]
    top1: tuple[float, ...]
    nll: tuple[float, ...]
    reference_nll: tuple[float, ...]
    tokens: int
    kl_tail: float
    kl_max: float


class Collected:
    """Measurements of a model, window by window."""

    def __init__(self, most: float | None = None) -> None:
        """Begin to collect.

        Args:
            most: limit of the mean KL divergence, nats; None for none.
        """
        self._most = most
        self._means: dict[str, list[float]] = {}
        self._kl: list[NDArray[Any]] = []

    def add(self, tokens: Mapping[str, NDArray[Any]]) -> None:
        """Add what `compare` returns for a window."""
        for name, values in tokens.items():
            self._means.setdefault(name, []).append(float(values.mean(dtype=np.float64)))
        self._kl.append(tokens["kl"])

    @property
    def exceeded(self) -> bool:
        """Return whether the mean KL divergence is known to be above the limit."""
        return exceeds(self._means["kl"], self._most)

    def means(self) -> WindowMeans:
        """Summarize the windows, one at least.

        Raises:
            JobRefusedError: the KL divergence is infinite.
        """
        if not np.isfinite(self._means["kl"]).all():
            raise JobRefusedError(
                "the model rules out tokens that the reference model does not: the KL divergence "
                "is infinite",
                hint="Export the model without a mask on its logits.",
            )
        kl = np.concatenate(self._kl)
        return WindowMeans(
            **{name: tuple(values) for name, values in self._means.items()},
            tokens=kl.size,
            kl_tail=float(np.quantile(kl, TAIL)),
            kl_max=float(kl.max()),
        )


def interval(windows: Sequence[float]) -> tuple[float, float]:
    """Compute the 95 % confidence interval of the mean, from the means of two or more windows.

    Student's t over windows. The tokens of a window are correlated (they share their context, and
    often their prompt), so the window is the sample, and a normal distribution or a bootstrap over
    single tokens would give intervals that are too narrow. So would a bootstrap over a dozen
    windows: its percentiles are too narrow for so few samples, while Student's t has the right
    width for the nearly normal means of 255 tokens, and needs no random numbers.
    """
    mean = statistics.fmean(windows)
    freedom = min(len(windows) - 1, len(T_975))
    half = T_975[freedom - 1] * statistics.stdev(windows) / math.sqrt(len(windows))
    return mean - half, mean + half


def exceeds(kl: Sequence[float], most: float | None) -> bool:
    """Return whether a mean is known to be above a limit, from the means of some windows."""
    return most is not None and len(kl) >= FEWEST and interval(kl)[0] > most


def log_softmax(logits: Floats) -> Floats:
    """Compute the natural logarithms of the probabilities over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def divergence(reference: Floats, candidate: Floats) -> Floats:
    """Compute KL(reference || candidate) in nats, `sum p (log p - log q)`, over the last axis.

    Args:
        reference: log-probabilities p, float32 `[..., vocabulary]`.
        candidate: log-probabilities q, of the same shape.
    """
    p = np.exp(reference)
    # A token of probability 0 in the reference adds 0, whatever the candidate's probability.
    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * (reference - candidate), 0)
    result: Floats = terms.sum(-1)
    return result


def compare(
    logits: Floats, expected: NDArray[np.float16], choices: NDArray[Any], following: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """Compare both models at each token of a window.

    Args:
        logits: logits of the candidate, float32 `[tokens, vocabulary]`.
        expected: log-probabilities of the reference model, of the same shape.
        choices: top choices of the reference model, `[tokens]`.
        following: the actual next tokens, `[tokens]`.
    """
    rows: dict[str, list[NDArray[Any]]] = {"kl": [], "nll": [], "reference_nll": []}
    for at in range(0, len(logits), ROWS):
        part = slice(at, at + ROWS)
        q = log_softmax(logits[part])
        # Rounding to half precision moved the sum slightly away from 1.
        p = log_softmax(expected[part].astype(np.float32))
        place = (np.arange(len(q)), following[part])
        rows["kl"].append(divergence(p, q))
        rows["nll"].append(-q[place])
        rows["reference_nll"].append(-p[place])
    values = {name: np.concatenate(parts) for name, parts in rows.items()}
    return {**values, "top1": logits.argmax(-1) == choices}
