"""Detection of stop strings across chunk boundaries."""


class StopStrings:
    """A detector of stop strings in a stream of text, also where they span chunks.

    Args:
        stops: the stop strings.
        free_until: text with which the free text of the answer ends: nothing is detected from there
            on. None if all of the answer is free, empty if nothing is.

    Attributes:
        match: the stop string that ended the text; empty before.
    """

    def __init__(self, stops: tuple[str, ...], free_until: str | None = None) -> None:
        self.match = ""
        self._stops = stops
        self._free_until = free_until
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Take the next chunk of text.

        Returns:
            The text that can be sent now, and True if a stop string ended it. Text that could
            still become a stop string, or the end of the free text, is held back.
        """
        if not self._stops:
            return text, False
        text = self._held + text
        self._held = ""
        end, undecided = -1, 0
        if self._free_until is not None:
            end = text.find(self._free_until)
            undecided = overlap(text, self._free_until) if end < 0 else 0
        free = text if end < 0 else text[:end]
        matches = [(at, stop) for stop in self._stops if (at := free.find(stop)) >= 0]
        certain = [(at, stop) for at, stop in matches if at + len(stop) <= len(text) - undecided]
        if certain:
            at, self.match = min(certain)
            return text[:at], True
        if end >= 0:
            self._stops = ()
            self._free_until = None
            return text, False
        pending = [len(text) - at for at, _ in matches]
        held = max(undecided, *pending, *(overlap(text, stop) for stop in self._stops))
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def rest(self) -> tuple[str, bool]:
        """End the text; return what was held back of it, and True if a stop string ended that."""
        self._free_until = None
        text, stopped = self.push("")
        return text + self._held, stopped


def overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of the text that is a prefix of a stop string.

    A whole stop string at the end does not count: it has been found by then.
    """
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
