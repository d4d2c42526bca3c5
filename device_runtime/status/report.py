"""The status of the runtime, as HTTP and MQTT report it."""

import os
import threading
import time
import uuid
from collections import Counter, deque
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec

import device_runtime
from device_runtime.bundle.release import Release
from device_runtime.bundle.speech import Speech
from device_runtime.heartbeat import SelfCheck
from device_runtime.inference.engine import Usage
from device_runtime.status.board import Board
from device_runtime.update.outcome import UpdateState
from device_runtime.worker.health import Health
from device_runtime.worker.placement import ProcessorState

SCHEMA = 1
"""Version of the JSON objects here and over MQTT; fields may be added without raising it."""

BOOT_ID = uuid.uuid4().hex
"""Identifies this run of the program. A device's clock may be wrong after a power cut: within one
boot_id, messages are ordered by `seq`, not by `ts`."""

_STARTED = time.monotonic()
_AVERAGE_WEIGHT = 0.2
_RECENT = 200
"""Answers that medians are of."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A measured quantity; null before the first answer.

    Attributes:
        last: of the last answer.
        average: running average, in which recent answers count more.
        p50: median of recent answers.
        p95: 95th percentile of recent answers.
    """

    last: float | None = None
    average: float | None = None
    p50: float | None = None
    p95: float | None = None


class Series:
    """The measurements that a figure is of."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._average = 0.0

    def add(self, value: float) -> None:
        """Add a measurement."""
        previous = self._average if self._recent else value
        self._average = previous + _AVERAGE_WEIGHT * (value - previous)
        self._recent.append(value)

    def figure(self) -> Figure:
        """Return the figure of the measurements so far."""
        if not self._recent:
            return Figure()
        ordered = sorted(self._recent)
        return Figure(
            last=round(self._recent[-1], 4),
            average=round(self._average, 4),
            p50=round(ordered[len(ordered) // 2], 4),
            p95=round(ordered[int(0.95 * (len(ordered) - 1) + 0.5)], 4),
        )


class Outcome(StrEnum):
    """Outcome of a request; `Requests` describes each."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    FAILED = "failed"


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """Number of requests since the start, by outcome.

    Attributes:
        completed: requests that were answered.
        cancelled: requests cancelled by the client.
        rejected: requests refused because they were invalid or too long, or the queue was full.
        failed: requests that ended with an error of the device.
    """

    completed: int = 0
    cancelled: int = 0
    rejected: int = 0
    failed: int = 0


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The running release and program.

    Attributes:
        model: name of the model.
        release: digest of the release.
        version: version of the bundle.
        profile: name of the profile that the bundle was built with.
        kit: name of the frozen runtime; None in a model-only bundle.
        runtime: version of this program.
    """

    model: str
    release: str
    version: str
    profile: str
    kit: str | None
    runtime: str

    @classmethod
    def of(cls, release: Release) -> "Identity":
        """Return the identity of a release that this program runs."""
        manifest = release.manifest
        return cls(
            model=manifest.model.name,
            release=release.digest,
            version=manifest.version,
            profile=manifest.profile,
            kit=manifest.kit.name if manifest.kit else None,
            runtime=device_runtime.__version__,
        )


class MqttState(msgspec.Struct, frozen=True, kw_only=True):
    """The connection to the broker at one moment.

    Attributes:
        broker: URL of the broker.
        connected: whether there is a connection.
        detail: version of the protocol, or the reason for not being connected.
    """

    broker: str
    connected: bool
    detail: str


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings in force that bound an answer; none of them is a secret.

    Attributes:
        context_length: maximum length of prompt and answer together, tokens.
        max_tokens: length of an answer if the request sets none, tokens.
        threads: threads for inference; 0 for one a core.
        kv_cache_mib: memory for KV caches, MiB; 0 for what the engine takes by itself.
        parallel: requests answered at once.
        queue_limit: requests that may wait.
        request_timeout: time for a request, queueing included, seconds.
    """

    context_length: int
    max_tokens: int
    threads: int
    kv_cache_mib: int
    parallel: int
    queue_limit: int
    request_timeout: float


class VisionState(msgspec.Struct, frozen=True, kw_only=True):
    """Images in the prompts of the model.

    Attributes:
        family: type of the model as ONNX Runtime GenAI names it.
        image_tokens: most tokens that one image takes in a prompt.
        prompt_cache: whether a prompt with images goes on from the cache of an earlier one; if not,
            all of it is computed in each turn.
    """

    family: str
    image_tokens: int
    prompt_cache: bool = False


class SpeechState(msgspec.Struct, frozen=True, kw_only=True):
    """The speech model beside the model that answers.

    Attributes:
        model: name of the model.
        weights: type of its weights.
    """

    model: str
    weights: str

    @classmethod
    def of(cls, speech: Speech | None) -> "SpeechState | None":
        """Return the state of a release's speech model; None without one."""
        if speech is None:
            return None
        return cls(model=speech.model.name, weights=speech.weights)


class RuntimeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status at one moment.

    Attributes:
        ts: time of the report, RFC 3339 in UTC.
        uptime_s: seconds since this program started.
        settings: the settings in force.
        queue_length: number of requests in the queue.
        running: number of requests being answered.
        tokens_per_s: decode speed.
        first_token_s: seconds from the start of work on a request to its first token.
        worker_ends: how often the inference process has ended, or could not be started.
        worker_restarts: number of restarts of the inference process.
        last_error: reason why the inference process last ended; empty if it never did.
        compute_share: share of the time in which the model computes: 1, or less in the heat.
        processor: the processor that the model runs on, and why.
        vision: how the model sees; null if it takes text alone.
        speech: the speech model; null without one.
        self_check: result of the check before the service was ready; null before its end, and for
            a release without a probe.
        update: the latest update of the device.
        damage: files of the release that are not as they were built; empty as far as it is known.
        memory_bytes: resident memory of both processes.
        worker_memory_bytes: resident memory of the inference process alone.
        board: measurements of the machine.
        mqtt: the connection to the broker; null without one in the configuration.
    """

    schema: int = SCHEMA
    ts: str
    boot_id: str
    device_id: str
    health: Health
    uptime_s: float
    identity: Identity
    settings: Settings
    queue_length: int
    running: int
    requests: Requests
    tokens_per_s: Figure
    first_token_s: Figure
    worker_ends: int
    worker_restarts: int
    last_error: str
    compute_share: float
    processor: ProcessorState
    vision: VisionState | None
    speech: SpeechState | None
    self_check: SelfCheck | None
    update: UpdateState
    damage: str
    memory_bytes: int
    worker_memory_bytes: int
    board: Board
    mqtt: MqttState | None


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """A report for probes, with attributes as in `RuntimeStatus`."""

    health: Health
    uptime_s: float
    queue_length: int
    running: int
    worker_restarts: int
    last_error: str
    self_check: SelfCheck | None


class RequestStats:
    """Counters and speeds of requests; written by one thread, read by several."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: Counter[Outcome] = Counter()
        self._tokens_per_s = Series()
        self._first_token_s = Series()

    def count(self, outcome: Outcome) -> None:
        """Count a request by its outcome."""
        with self._lock:
            self._outcomes[outcome] += 1

    def measure(self, usage: Usage) -> None:
        """Add the speeds of an answer to the averages."""
        with self._lock:
            if usage.completion_tokens:
                self._first_token_s.add(usage.first_token_s)
            if usage.tokens_per_s is not None:
                self._tokens_per_s.add(usage.tokens_per_s)

    def snapshot(self) -> tuple[Requests, Figure, Figure]:
        """Return counts, tokens per second and seconds to first token, all at one moment."""
        with self._lock:
            requests = Requests(
                completed=self._outcomes[Outcome.COMPLETED],
                cancelled=self._outcomes[Outcome.CANCELLED],
                rejected=self._outcomes[Outcome.REJECTED],
                failed=self._outcomes[Outcome.FAILED],
            )
            return requests, self._tokens_per_s.figure(), self._first_token_s.figure()


def now() -> str:
    """Return the current time as RFC 3339 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def uptime_s() -> float:
    """Return the seconds since this program started."""
    return round(time.monotonic() - _STARTED, 1)


def resident_bytes(pid: int | None) -> int:
    """Return the resident memory of a process; 0 if it does not exist."""
    try:
        # Second field of statm: resident pages (man 5 proc).
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
