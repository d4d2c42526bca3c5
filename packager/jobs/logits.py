"""Check of logits, wherever a model is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from packager.jobs.job import JobRefusedError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check(logits: NDArray[Any]) -> None:
    """Refuse logits, `[..., vocabulary]`, from which no token can be chosen.

    A graph may rule tokens out with minus infinity, but not all of them. After a first token whose
    embedding is zero, as that of padding can be, no token is preferred; so one such position says
    nothing.

    Raises:
        JobRefusedError: they are not numbers at some position, or the same for all tokens at all
            positions.
    """
    import numpy as np

    most, least = logits.max(-1), logits.min(-1)
    if not np.isfinite(most).all():
        problem = "are NaN or infinite"
    elif (most == least).all():
        problem = "are all the same"
    else:
        return
    raise JobRefusedError(
        f"the model computes no usable result: its outputs (logits) {problem}",
        hint="Its weights are damaged, or exceed the range of their type: download or export the "
        "model again, in bf16 or fp32 if it was fp16.",
    )
