"""Counters of a running request."""

import time

from device_runtime.inference.engine import Usage


class Progress:
    """Counts tokens, and takes their times.

    Attributes:
        cached_tokens: prompt tokens that were in the prompt cache.
        reasoning_tokens: generated tokens of thoughts.

    Args:
        prompt_tokens: length of the prompt.
    """

    def __init__(self, prompt_tokens: int) -> None:
        self.cached_tokens = 0
        self.reasoning_tokens = 0
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
        """The counts so far."""
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._tokens,
            reasoning_tokens=self.reasoning_tokens,
            cached_tokens=self.cached_tokens,
            first_token_s=self._first_at - self._started,
            decode_s=self._last_at - self._first_at,
        )
