"""What every inference engine offers: requests in, chunks of text out.

The structs here cross the boundary between the two processes, so they hold plain data.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Literal, Protocol

import msgspec

from device_runtime.errors import RequestError


class FinishReason(StrEnum):
    """Why an answer ended; the first two are OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to answer, and how to choose the tokens.

    Attributes:
        prompt: a conversation, which goes through the model's chat template, or raw text.
        max_tokens: most tokens of the answer; the context may end it earlier.
        temperature: 0 takes the most likely token each time (greedy).
        top_p: sample from the most likely tokens that together have this probability, 0 to 1.
        top_k: sample from this many most likely tokens; 0 for all.
        repetition_penalty: above 1 makes tokens that are already there less likely.
        stop: texts before which the answer ends.
        seed: same seed, same answer; None for a new one each time.
    """

    prompt: tuple[Message, ...] | str
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer took.

    Attributes:
        prompt_tokens: length of the prompt.
        completion_tokens: tokens generated, the end token included.
        first_token_s: seconds from the start of work to the first token; waiting in a queue is
            not in it.
        decode_s: seconds from the first token to the last.
    """

    prompt_tokens: int
    completion_tokens: int
    first_token_s: float
    decode_s: float

    @property
    def tokens_per_s(self) -> float | None:
        """Speed of decoding; None for an answer too short to have one."""
        if self.completion_tokens < 2 or self.decode_s <= 0:
            return None
        return (self.completion_tokens - 1) / self.decode_s


class GenerationChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of an answer.

    Attributes:
        text: whole characters; may be empty.
        tokens: tokens generated so far.
        finish_reason: only in the last chunk.
        usage: only in the last chunk.
    """

    text: str = ""
    tokens: int = 0
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


class PromptTooLongError(RequestError):
    """The prompt leaves no room for an answer in the model's context."""


class Engine(Protocol):
    """A loaded model."""

    def generate(
        self, request: GenerationRequest, cancelled: Callable[[], bool]
    ) -> Iterator[GenerationChunk]:
        """Answer a request.

        The first chunk is empty and comes before the work starts: the request is accepted. The
        last one has a finish reason and the usage.

        Args:
            request: what to answer.
            cancelled: asked often; once true, the answer ends soon with `CANCELLED`.

        Raises:
            RequestError: before the first chunk, if the model cannot take this request.
            EngineError: the model fails.
        """
        ...


class StopStrings:
    """Finds stop strings in a stream of text, also where they lie across pieces."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Take the next piece.

        Returns:
            The text that can be shown now, and whether a stop string was met. What could still
            become a stop string is held back.
        """
        text = self._held + text
        found = [position for stop in self._stops if (position := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def rest(self) -> str:
        """What is still held back when the answer ends for another reason."""
        return self._held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that a stop string begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
