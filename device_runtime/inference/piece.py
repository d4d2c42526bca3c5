"""A piece of an answer: what its next tokens add to it, in one chunk."""

import time
from collections.abc import Callable

from device_runtime.inference.engine import GenerationChunk, TokenLogprob

PIECE_S = 0.03
"""Shortest time between two pieces, seconds.

A piece costs the server and its client about 1 ms of a processor that the next token needs, and
nobody reads more than 30 a second.
"""


class Piece:
    """The piece in the making.

    Args:
        clock: clock that never jumps, seconds.

    Attributes:
        thoughts: its thoughts.
        text: its text.
        logprobs: log probabilities of its last token, if requested.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.thoughts = self.text = ""
        self.logprobs: tuple[TokenLogprob, ...] = ()
        self._clock = clock
        self._due_at = 0.0

    def add(self, thoughts: str, text: str) -> None:
        """Add what is certain with a token."""
        self.thoughts += thoughts
        self.text += text

    def next_chunk(self, index: int, tokens: int) -> GenerationChunk:
        """Return a chunk with the piece if it is time for one, else an empty chunk.

        Log probabilities are not held back: they belong to the text that comes with them.

        Args:
            index: number of the answer.
            tokens: tokens of this answer generated so far.
        """
        now = self._clock()
        if now < self._due_at and not self.logprobs:
            return GenerationChunk()
        chunk = GenerationChunk(
            index=index,
            thoughts=self.thoughts,
            text=self.text,
            tokens=tokens,
            logprobs=self.logprobs,
        )
        if not chunk.is_empty:
            self.thoughts = self.text = ""
            self.logprobs = ()
            self._due_at = now + PIECE_S
        return chunk
