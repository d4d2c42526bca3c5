"""The parts of a window's text, between its times, and where the next window begins.

Whisper's sequential algorithm: a part that has no end is cut by the window, so it is thrown away,
and the next window begins where it did.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from device_runtime.speech.log_mel import FRAMES_A_SECOND
from device_runtime.speech.rules import TIMES_A_SECOND

_FRAMES_A_TIME = FRAMES_A_SECOND // TIMES_A_SECOND


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a window's text.

    Attributes:
        start: its beginning, seconds from that of the window.
        end: its end, likewise.
        tokens: its text and its times.
    """

    start: float
    end: float
    tokens: tuple[int, ...]


class Parts:
    """The parts of a window's text, as they become certain.

    Args:
        first_time: token of the time 0.
        frames: frames of the window.

    Attributes:
        tokens: all tokens of the window.
    """

    def __init__(self, first_time: int, frames: int) -> None:
        self.tokens: list[int] = []
        self._first_time = first_time
        self._frames = frames
        self._begin = 0

    def push(self, token: int) -> Part | None:
        """Take the next token; return the part that is certain with it."""
        self.tokens.append(token)
        if not (len(self.tokens) > 1 and all(map(self._is_time, self.tokens[-2:]))):
            return None
        part, self._begin = self._part(self.tokens[self._begin : -1]), len(self.tokens) - 1
        return part

    def end(self) -> tuple[Part | None, int]:
        """End the window.

        Returns:
            The last part, if it is certain, and how far the next window begins from this one,
            frames.
        """
        rest = self.tokens[self._begin :]
        times = list(map(self._is_time, self.tokens[-2:]))
        if times == [False, True] and self._begin:
            # Nobody speaks behind the end of the last part.
            return self._part(rest), self._frames
        if not self._begin:
            return self._whole(), self._frames
        last = self.tokens[self._begin - 1] - self._first_time
        return None, max(1, last * _FRAMES_A_TIME)

    def _whole(self) -> Part:
        """Return the part of a window that has no other."""
        end = self._frames / FRAMES_A_SECOND
        times = [token for token in self.tokens if self._is_time(token)]
        if times and times[-1] != self._first_time:
            end = self._seconds(times[-1])
        return Part(start=0.0, end=end, tokens=tuple(self.tokens))

    def _part(self, tokens: Sequence[int]) -> Part:
        start, end = self._seconds(tokens[0]), self._seconds(tokens[-1])
        return Part(start=start, end=end, tokens=tuple(tokens))

    def _seconds(self, time: int) -> float:
        return (time - self._first_time) / TIMES_A_SECOND

    def _is_time(self, token: int) -> bool:
        return token >= self._first_time
