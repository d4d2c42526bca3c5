"""The heartbeat: the file in which the service says every second how it is.

The service writes it (`status/heartbeat.py`); the guard of an update reads it (`update/guard.py`),
possibly in another version. So fields may be added, and unknown ones are ignored.
"""

import msgspec

FILE_NAME = "health.json"
"""Name of the file in the service's runtime folder (systemd.exec(5), RuntimeDirectory=)."""
MAX_BYTES = 1 << 16


class SelfCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Result of the check that the service runs on itself after its start.

    Attributes:
        passed: whether the model continued the release's prompt with the expected tokens.
        tokens_per_s: decode speed in the check; None if it could not be measured.
        detail: reason of a failure, else a summary.
    """

    passed: bool
    tokens_per_s: float | None
    detail: str


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the service at one moment.

    Attributes:
        schema: version of this object.
        pid: process id of the service.
        run: identifier of this run of the service.
        release: digest of the release that it serves.
        health: value of `worker.health.Health`.
        worker_restarts: number of restarts of the inference process.
        last_error: reason why the inference process last ended; empty if it never did.
        memory_bytes: resident memory of both processes.
        self_check: result of the self-check; None before it ended, and without a probe.
        beat: number of heartbeats of this run before this one.
    """

    schema: int = 1
    pid: int
    run: str
    release: str
    health: str
    worker_restarts: int
    last_error: str
    memory_bytes: int
    self_check: SelfCheck | None
    beat: int


def read(data: bytes) -> Heartbeat | None:
    """Read a heartbeat; None if it is not one."""
    try:
        return msgspec.json.decode(data, type=Heartbeat)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
