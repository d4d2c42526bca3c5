"""Delays before a process that ended is started again."""

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 30.0
FAILING_AFTER = 3
"""Consecutive processes that end without an answer, after which waiting for the next is useless."""


def restart_delay_s(failures: int) -> float:
    """Return the back-off after consecutive processes that ended without an answer, seconds."""
    # The exponent is bounded: 1,024 doublings would overflow a float.
    return min(FIRST_DELAY_S * 2.0 ** min(failures - 1, 20), LONGEST_DELAY_S)
