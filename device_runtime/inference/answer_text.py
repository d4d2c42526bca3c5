"""The text of an answer: from its tokens to thoughts and text, up to a stop string."""

from device_runtime.inference.engine import GenerationRequest
from device_runtime.inference.stop_strings import StopStrings
from device_runtime.inference.thoughts import Stage, ThoughtReader
from device_runtime.tokenizer.tokenizer import TextStream


class AnswerText:
    """Reads one answer token by token.

    Args:
        request: the request.
        stream: decoder of the tokens.
        stage: the stage in which the answer begins.

    Attributes:
        characters: characters that the last token completed.
    """

    def __init__(self, request: GenerationRequest, stream: TextStream, stage: Stage) -> None:
        self.characters = 0
        self._stream = stream
        self._thoughts = ThoughtReader(request.thinking, stage)
        free_until = None if request.guidance is None else request.guidance.free_until
        self._stops = StopStrings(request.stop, free_until)

    @property
    def forced(self) -> int | None:
        """The token that must come next to end the thoughts; None for any."""
        return self._thoughts.forced

    @property
    def stop(self) -> str:
        """The stop string that ended the text; empty before."""
        return self._stops.match

    @property
    def reasoning_tokens(self) -> int:
        """Number of tokens of the thoughts so far."""
        return self._thoughts.tokens

    def push(self, token: int) -> tuple[str, str]:
        """Take the next token; return the thoughts and the text certain now."""
        piece = self._stream.push(token)
        self.characters = len(piece)
        thoughts, text = self._thoughts.push(token, piece)
        return thoughts, self._stops.push(text)[0]

    def end(self) -> tuple[str, str]:
        """End the answer; return the thoughts and the text held back, up to a stop string."""
        thoughts, held = self._thoughts.rest()
        text, stopped = self._stops.push(held)
        return thoughts, text if stopped else text + self._stops.rest()[0]
