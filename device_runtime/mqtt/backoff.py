"""Waits before the next connection to the broker."""

import logging
import random

from device_runtime.logs import event

log = logging.getLogger(__name__)

FIRST_S = 1.0
LONGEST_S = 30.0
STABLE_S = 60.0
"""Duration of a connection that was a success: the next wait is the first one again."""

CONFLICT_FIRST_S = 30.0
CONFLICT_LONGEST_S = 600.0
"""Waits after another client took this one's id. Two devices with one id disconnect each other:
without them, many times a second."""


class Backoff:
    """Waits that double, up to a limit.

    Attributes:
        conflict: another client uses this one's id, or did lately.
    """

    def __init__(self) -> None:
        self.conflict = False
        self._wait_s = FIRST_S

    def notice_conflict(self) -> None:
        """Take notice of another client with the same id."""
        if not self.conflict:
            self.conflict, self._wait_s = True, CONFLICT_FIRST_S
            event(log, logging.WARNING, "device_id_taken", hint="another device has the same")

    def next_s(self, lasted_s: float) -> float:
        """Return how long to wait, seconds, with jitter: a site's devices return one by one.

        Args:
            lasted_s: duration of the connection that has ended, seconds; 0 without one.
        """
        # The other one returns within the longest wait.
        if lasted_s > (CONFLICT_LONGEST_S if self.conflict else STABLE_S):
            self.conflict, self._wait_s = False, FIRST_S
        wait_s = self._wait_s
        longest_s = CONFLICT_LONGEST_S if self.conflict else LONGEST_S
        self._wait_s = min(2 * wait_s, longest_s)
        return wait_s * random.uniform(0.5, 1.0)  # noqa: S311
