"""A timer for a process that should have been heard of."""

import asyncio
from collections.abc import Callable


class Silence:
    """Calls back after a time in which nothing was heard, if something was to be.

    Args:
        after_s: the time, seconds.
        expects: returns whether something is to be heard.
        on_silence: called after the time.
    """

    def __init__(
        self, after_s: float, expects: Callable[[], bool], on_silence: Callable[[], None]
    ) -> None:
        self._after_s = after_s
        self._expects = expects
        self._on_silence = on_silence
        self._timer: asyncio.TimerHandle | None = None

    def restart(self) -> None:
        """Begin the time again if something is to be heard; else stop it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._expects():
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._after_s, self._on_silence)
