"""A prompt that is being answered, and the counters of its request."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from device_runtime.inference.echo import Echo
from device_runtime.inference.engine import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    TokenLogprob,
    Usage,
)
from device_runtime.inference.kv_cache import Slot, Tokens


class Progress:
    """Counters of a running request."""

    def __init__(self, prompt_tokens: int) -> None:
        self.cached_tokens = 0
        self._prompt_tokens = prompt_tokens
        self._tokens = 0
        self._started = time.monotonic()
        self._first_at = self._last_at = self._started

    def add(self, tokens: int = 1) -> None:
        """Count tokens that were generated just now."""
        self._last_at = time.monotonic()
        if not self._tokens:
            self._first_at = self._last_at
        self._tokens += tokens

    @property
    def usage(self) -> Usage:
        """Token counts and latencies so far."""
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._tokens,
            cached_tokens=self.cached_tokens,
            first_token_s=self._first_at - self._started,
            decode_s=self._last_at - self._first_at,
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """A prompt of a request and the state needed to answer it.

    Attributes:
        slot: the slot that holds its KV cache.
        request: the request to answer.
        number: number of the prompt among those of the request, from 0.
        prompt: the prompt's tokens.
        length: maximum length of prompt and answer together, tokens.
        echo: what its answers begin with; None for nothing.
        progress: counters for the usage.
        cancelled: returns True once the client is gone.
    """

    slot: Slot
    request: GenerationRequest
    number: int
    prompt: Tokens
    length: int
    echo: Echo | None
    progress: Progress
    cancelled: Callable[[], bool]

    def place(self, index: int) -> int:
        """Return the number of one of this prompt's answers among those of the request."""
        return self.number * self.request.n + index


def end(
    job: Job,
    reason: FinishReason,
    text: str = "",
    tokens: int = 0,
    *,
    index: int = 0,
    logprobs: tuple[TokenLogprob, ...] = (),
) -> GenerationChunk:
    """Return an answer's last chunk."""
    last = job.place(index) == (1 + len(job.request.more)) * job.request.n - 1
    over = last or reason is FinishReason.CANCELLED
    return GenerationChunk(
        index=job.place(index),
        text=text,
        tokens=tokens,
        logprobs=logprobs,
        finish_reason=reason,
        usage=job.progress.usage if over else None,
    )
