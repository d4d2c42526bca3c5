"""A prompt that is being answered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from device_runtime.inference.echo import Echo
from device_runtime.inference.engine import FinishReason, GenerationChunk, GenerationRequest
from device_runtime.inference.grammar_cursor import GrammarCursor
from device_runtime.inference.kv_cache import Slot, Tokens
from device_runtime.inference.piece import Piece
from device_runtime.inference.progress import Progress
from device_runtime.inference.thoughts import Stage


@dataclass(frozen=True, kw_only=True)
class Job:
    """A prompt of a request and the state needed to answer it.

    Attributes:
        slot: the slot that holds its KV cache.
        request: the request to answer.
        number: number of the prompt among those of the request, from 0.
        prompt: the prompt's tokens.
        inputs: the engine's inputs for a prompt with images; None without images.
        alone: whether it has a KV cache that no other request shares, and is prefilled at once.
        stage: the stage in which its answers begin.
        grammar: the beginning of the grammar of its answers; None for free text.
        length: maximum length of prompt and answer together, tokens.
        echo: what its answers begin with; None for nothing.
        progress: counters for the usage.
        cancelled: returns True once the client is gone.
    """

    slot: Slot
    request: GenerationRequest
    number: int
    prompt: Tokens
    inputs: Any
    alone: bool
    stage: Stage
    grammar: GrammarCursor | None
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
    piece: Piece | None = None,
    tokens: int = 0,
    *,
    index: int = 0,
    stop: str = "",
) -> GenerationChunk:
    """Return an answer's last chunk, with its last piece."""
    piece = piece or Piece()
    last = job.place(index) == max(1, len(job.request.prompts)) * job.request.n - 1
    over = last or reason is FinishReason.CANCELLED
    return GenerationChunk(
        index=job.place(index),
        thoughts=piece.thoughts,
        text=piece.text,
        tokens=tokens,
        logprobs=piece.logprobs,
        finish_reason=reason,
        stop=stop,
        usage=job.progress.usage if over else None,
    )
