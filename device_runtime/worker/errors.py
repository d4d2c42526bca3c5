"""Errors of requests that the supervisor cannot take, or not in time."""

from device_runtime.errors import ServiceError


class BusyError(ServiceError):
    """The request cannot be accepted now; a later one may be.

    Attributes:
        retry_after_s: time to wait before a retry, seconds.
    """

    api_code = "model_unavailable"
    refuses = True

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message, hint=f"Try again in {retry_after_s} s.")
        self.retry_after_s: int = retry_after_s


class QueueFullError(BusyError):
    """The queue is full."""

    http_status = 429
    api_code = "queue_full"


class DeadlineError(ServiceError):
    """A request exceeded its timeout."""

    http_status = 504
    api_code = "deadline_exceeded"
