"""Detection of stop strings across chunk boundaries."""


class StopStrings:
    """A detector of stop strings in a stream of text, also where they span chunks."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Take the next chunk of text.

        Returns:
            The text that can be sent now, and True if a stop string ended it. Text that could
            still become a stop string is held back.
        """
        text = self._held + text
        positions = [position for stop in self._stops if (position := text.find(stop)) >= 0]
        if positions:
            self._held = ""
            return text[: min(positions)], True
        held = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def rest(self) -> str:
        """Return the text still held back when the answer ends for another reason."""
        return self._held


def overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of the text that is a prefix of a stop string.

    A whole stop string at the end does not count: it has been found by then.
    """
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
