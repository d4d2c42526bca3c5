"""The judgement of a release on trial: observations in, a verdict out. No I/O, and no clock.

A release is good if its service gets ready in time, the check that the service runs on itself
passes, speed and memory are within bounds, and nothing fails for the time of the probation.
"""

from dataclasses import dataclass

from device_runtime.bundle.manifest import MODEL_FOLDER, Manifest
from device_runtime.bundle.requirements import uses_gpu
from device_runtime.heartbeat import Heartbeat
from device_runtime.processor import TRIAL_S

READ_BYTES_PER_S = 10e6
"""Slowest disk that a start must be in time with: an old SD card."""
MIN_SPEED_SHARE = 0.5
"""Share of the previous release's decode speed that a release must keep."""
MEMORY_FACTOR = 1.5
MEMORY_SLACK = 256 << 20
"""Memory above the manifest's estimate that is tolerated, bytes; at least, for small models."""
GPU_TRIALS = 3
"""Trials of a processor before the first start: both graphs on the GPU, and the CPU."""
GPU_DRIVER_BYTES = 512 << 20
"""Memory of a GPU's driver and of compiled shaders; a copy of the weights comes to it."""
MAX_CRASHES = 3
"""Ends of the service before it is ready, from which on waiting longer is pointless."""
SILENT_S = 20.0
"""Silence of the heartbeat, which beats every second, after which the service counts as hung."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Requirements of a trial.

    Attributes:
        release: digest of the release on trial.
        start_s: time to get ready, seconds.
        probation_s: time to run without a fault after that, seconds.
        memory_bytes: maximum resident memory until the service is ready. Later it grows with the
            caches of conversations, by far more than a bound for all could tell from a leak.
        min_tokens_per_s: minimum decode speed: the release's own.
        previous_tokens_per_s: decode speed of the release before; None if not known.
        probed: whether the release has a probe, so that the service must have checked itself.
    """

    release: str
    start_s: float
    probation_s: float
    memory_bytes: int
    min_tokens_per_s: float
    previous_tokens_per_s: float | None
    probed: bool

    @classmethod
    def of(
        cls,
        release: str,
        manifest: Manifest,
        *,
        start_s: float,
        probation_s: float,
        previous_tokens_per_s: float | None,
    ) -> "Bounds":
        """Derive the bounds of a release from its manifest.

        Args:
            release: digest of the release.
            manifest: its manifest.
            start_s: time to get ready, apart from reading the model, seconds.
            probation_s: time to run without a fault, seconds.
            previous_tokens_per_s: decode speed of the release before; None if not known.
        """
        records = (r for r in manifest.records if r.path.startswith(f"{MODEL_FOLDER}/"))
        model_bytes = sum(record.size for record in records)
        start_s += model_bytes / READ_BYTES_PER_S
        estimate = manifest.memory_bytes
        memory_bytes = max(int(MEMORY_FACTOR * estimate), estimate + MEMORY_SLACK)
        if uses_gpu(manifest):
            start_s += GPU_TRIALS * TRIAL_S
            memory_bytes += model_bytes + GPU_DRIVER_BYTES
        return cls(
            release=release,
            start_s=start_s,
            probation_s=probation_s,
            memory_bytes=memory_bytes,
            min_tokens_per_s=manifest.settings.min_tokens_per_s,
            previous_tokens_per_s=previous_tokens_per_s,
            probed=manifest.probe is not None,
        )


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The service at one moment.

    Attributes:
        at: time of a clock that never jumps, seconds.
        beat: the latest heartbeat; None without one.
        restarts: number of times that the init system started the service again after a failure.
    """

    at: float
    beat: Heartbeat | None
    restarts: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The end of a trial.

    Attributes:
        good: whether the release stays.
        reason: reason if it does not, one phrase.
        tokens_per_s: decode speed of a good release; None if not measured.
    """

    good: bool
    reason: str = ""
    tokens_per_s: float | None = None


class Trial:
    """A trial in progress.

    Args:
        bounds: what the release must keep.
        started: time of its start, on the clock of the observations.
    """

    def __init__(self, bounds: Bounds, started: float) -> None:
        self._bounds = bounds
        self._started = started
        self._ready: float | None = None
        self._beat: Heartbeat | None = None
        self._heard = started
        self._memory = 0
        self._restarts = 0  # at the latest heartbeat
        self._restarts_when_ready = 0

    def observe(self, seen: Observation) -> Verdict | None:
        """Take the next observation; return the verdict as soon as there is one."""
        beat = seen.beat
        if beat is not None and beat.release == self._bounds.release:
            self._hear(beat, seen)
        reason = self._fault(seen)
        if reason:
            return Verdict(good=False, reason=reason)
        if self._ready is None or self._beat is None or self._heard < seen.at:
            return None  # silence at the end of the probation may be that of a dead service
        if seen.at - self._ready < self._bounds.probation_s:
            return None
        check = self._beat.self_check
        return Verdict(good=True, tokens_per_s=check.tokens_per_s if check else None)

    def _hear(self, beat: Heartbeat, seen: Observation) -> None:
        """Take a heartbeat of the release."""
        before = self._beat
        if before is not None and (before.run, before.beat) == (beat.run, beat.beat):
            return
        if before is not None and before.run != beat.run and seen.restarts <= self._restarts:
            # Somebody restarted the service: the trial begins again.
            self._started, self._ready = seen.at, None
        self._beat, self._heard, self._restarts = beat, seen.at, seen.restarts
        if self._ready is None:
            self._memory = beat.memory_bytes
            if beat.health == "ready":
                self._ready, self._restarts_when_ready = seen.at, seen.restarts

    def _fault(self, seen: Observation) -> str:
        """Return the reason why the release is not good; empty if there is none yet."""
        bounds, beat = self._bounds, self._beat
        if self._ready is not None and seen.restarts > self._restarts_when_ready:
            return f"the service ended {seen.at - self._ready:.0f} s after it was ready"
        if seen.restarts >= MAX_CRASHES and self._ready is None:
            return f"the service ended {seen.restarts} times before it was ready"
        if beat is not None and seen.at - self._heard > SILENT_S:
            return f"the service has not responded for {SILENT_S:.0f} s"
        if self._memory > bounds.memory_bytes:
            return (
                f"the service uses {self._memory >> 20} MiB of memory, more than "
                f"{bounds.memory_bytes >> 20} MiB"
            )
        if self._ready is not None:
            assert beat is not None
            return self._fault_when_ready(beat)
        if seen.at - self._started > bounds.start_s:
            return f"the service was not ready within {bounds.start_s:.0f} s"
        return ""

    def _fault_when_ready(self, beat: Heartbeat) -> str:
        bounds, check = self._bounds, beat.self_check
        if beat.worker_restarts or beat.health in ("degraded", "failing"):
            return beat.last_error or f"the service is {beat.health}"
        if check is None:
            return "the service did not check itself" if bounds.probed else ""
        if not check.passed:
            return f"the self-check failed: {check.detail}"
        speed, previous = check.tokens_per_s, bounds.previous_tokens_per_s
        if speed is None:
            return ""
        if speed < bounds.min_tokens_per_s:
            return f"{speed:g} tokens/s are below the minimum of {bounds.min_tokens_per_s:g}"
        if previous is not None and speed < MIN_SPEED_SHARE * previous:
            return f"{speed:g} tokens/s are less than half of the previous release's {previous:g}"
        return ""
