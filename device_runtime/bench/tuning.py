"""The search for the threads that a model is fastest with on this processor.

Everything is tried in an inference process of its own, as the service starts it. A setting wins
only beside the default, in turns: what slows a device for a while, such as its heat, meets both.
"""

import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import msgspec

from device_runtime.bench.cases import Case, Prompts
from device_runtime.bench.energy import Meter
from device_runtime.bench.measurement import Tell, measure
from device_runtime.bench.results import Spread
from device_runtime.bundle.release import Release
from device_runtime.errors import DeviceError, EngineError
from device_runtime.processor import cores, count_cores, kinds_of_cores
from device_runtime.worker.placement import Placement
from device_runtime.worker.supervisor import Supervisor
from device_runtime.worker.tuning import Setting

PROMPT, ANSWER = 128, 32
"""Tokens of the request that is measured: about as long in prefill as in decode."""
REQUESTS = 3
"""Requests to a process, after one that warms it up."""
TURNS = 5
"""Turns that a setting must win against the default, all of them: by chance, one in 32 does."""
MIN_GAIN = 1.03
"""Smallest gain that is worth another setting than the default."""
NOISE = 0.97
"""Share of the default's speed that prefill and decode must keep, each for itself: a difference
that is seen between two processes with the same setting."""
HOPEFUL = 0.95
"""Share of the default's speed in the first look with which a setting gets its turns."""
REQUEST_S = 24 * 3600.0
"""Timeout of a request: the search has a limit of its own."""


class Speed(NamedTuple):
    """Speed of a process, tokens a second."""

    prefill: float
    decode: float

    @property
    def seconds(self) -> float:
        """Seconds that the request takes."""
        return PROMPT / self.prefill + ANSWER / self.decode


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """A setting that was tried.

    Attributes:
        setting: the setting.
        prefill: prompt tokens a second, of each process.
        decode: tokens of the answer a second, likewise.
        turns: turns against the default; 0 if only the first look was taken.
        gain: seconds of a request with the default, divided by those with the setting: the median
            of the turns, else of the first look.
        failure: reason why it could not be measured; empty if it was.
    """

    setting: Setting
    prefill: Spread | None
    decode: Spread | None
    turns: int
    gain: float | None
    failure: str


def candidates(default: Setting) -> list[Setting]:
    """List what may be faster than the default.

    That are the fast cores alone, where there are several kinds, since each operator waits for its
    slowest thread; and fewer threads, where the memory is the limit or others need a core.
    """
    whole = cores()
    listed = []
    fast: tuple[int, ...] = ()
    for kind in kinds_of_cores()[:-1]:
        fast = tuple(sorted((*fast, *kind)))
        listed.append(Setting(threads=min(whole, count_cores(fast)), cpus=fast))
    counts = sorted({whole, whole - 1, whole * 3 // 4, whole // 2} - {0}, reverse=True)
    listed += [Setting(threads=count) for count in counts]
    return [setting for setting in listed if setting != default]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a search.

    Attributes:
        release: digest of the release.
        tried: what was tried, the default first.
        chosen: the setting that is faster than the default; None for none.
        finished: False if the time was over before.
        file: the file in which a setting is kept.
    """

    release: str
    tried: tuple[Tried, ...]
    chosen: Tried | None
    finished: bool
    file: str


class Search:
    """A search, which may be interrupted at any time.

    Args:
        default: the default.
        settings: what to try.
        measure: measures a setting in a new process; raises DeviceError.
        tell: is told what is being done.

    Attributes:
        chosen: the setting that is faster than the default; None for none so far.
        finished: True if the search came to its end.
    """

    def __init__(
        self,
        default: Setting,
        settings: Sequence[Setting],
        measure: Callable[[Setting], Awaitable[Speed]],
        tell: Tell,
    ) -> None:
        self.chosen: Setting | None = None
        self.finished = False
        self._default = default
        self._settings = settings
        self._measure = measure
        self._tell = tell
        self._speeds: dict[Setting, list[Speed]] = {default: []}
        self._first: dict[Setting, float] = {}
        self._turns: dict[Setting, list[tuple[Speed, Speed]]] = {}
        self._failures: dict[Setting, str] = {}

    async def run(self) -> None:
        """Look at all settings once, then let the hopeful ones take turns with the default.

        Raises:
            DeviceError: the default fails.
        """
        self._tell(f"looking at the default, {self._default}")
        default = await self._speed(self._default)
        for setting in self._settings:
            self._tell(f"looking at {setting}")
            try:
                speed = await self._speed(setting)
            except DeviceError as error:
                self._failures[setting] = str(error)
                continue
            self._first[setting] = default.seconds / speed.seconds
        hopeful = [setting for setting, gain in self._first.items() if gain >= HOPEFUL]
        for setting in sorted(hopeful, key=lambda setting: -self._first[setting]):
            if await self._wins(setting):
                self.chosen = setting
                break
        self.finished = True

    def gain(self, setting: Setting) -> float | None:
        """Return the gain of a setting, as in `Tried`."""
        turns = self._turns.get(setting)
        if not turns:
            return self._first.get(setting)
        return statistics.median(base.seconds / speed.seconds for base, speed in turns)

    def tried(self) -> list[Tried]:
        """List what was tried so far, the default first."""
        return [
            Tried(
                setting=setting,
                prefill=Spread.of([speed.prefill for speed in self._speeds.get(setting, ())]),
                decode=Spread.of([speed.decode for speed in self._speeds.get(setting, ())]),
                turns=len(self._turns.get(setting, ())),
                gain=self.gain(setting),
                failure=self._failures.get(setting, ""),
            )
            for setting in (self._default, *self._settings)
            if setting in self._speeds or setting in self._failures
        ]

    async def _speed(self, setting: Setting) -> Speed:
        speed = await self._measure(setting)
        self._speeds.setdefault(setting, []).append(speed)
        return speed

    async def _wins(self, setting: Setting) -> bool:
        """Let a setting and the default take turns, until it loses one or has won enough."""
        turns = self._turns[setting] = []
        for number in range(TURNS):
            self._tell(f"{setting} against the default: turn {number + 1} of {TURNS}")
            try:
                if number % 2:
                    base, speed = await self._speed(self._default), await self._speed(setting)
                else:
                    speed, base = await self._speed(setting), await self._speed(self._default)
            except DeviceError as error:
                self._failures[setting] = str(error)
                return False
            turns.append((base, speed))
            if speed.seconds >= base.seconds:
                return False
        return (
            (self.gain(setting) or 0) >= MIN_GAIN
            and statistics.median(speed.prefill / base.prefill for base, speed in turns) >= NOISE
            and statistics.median(speed.decode / base.decode for base, speed in turns) >= NOISE
        )


async def speed_of(
    release: Release, setting: Setting, prompts: Prompts, *, kv_cache_mib: int
) -> Speed:
    """Measure a setting in a new inference process.

    Args:
        release: the release.
        setting: threads of the process.
        prompts: makes the requests.
        kv_cache_mib: memory for KV caches, MiB; 0 for the engine's default.

    Raises:
        DeviceError: the model does not load, or fails.
    """
    placement = Placement.of_release(
        release, threads=0, kv_cache_mib=kv_cache_mib, wanted="cpu", tuned=setting
    )
    supervisor = Supervisor(placement, timeout_s=REQUEST_S)
    case = Case(max(1, min(PROMPT, release.manifest.context_length - ANSWER)), ANSWER)
    try:
        await supervisor.start()
        samples = await measure(
            supervisor,
            [case],
            prompts,
            rounds=REQUESTS,
            meter=Meter("", lambda: None),
            reader=None,
            tell=lambda _: None,
        )
    finally:
        await supervisor.stop()
    if not samples.of:
        raise EngineError(f"nothing could be measured: {samples.skipped[0].reason}")
    usages = [sample.usage for sample in samples.of[case]]
    return Speed(
        prefill=case.prompt / max(statistics.median(usage.first_token_s for usage in usages), 1e-9),
        decode=max(statistics.median(usage.tokens_per_s or 0.0 for usage in usages), 1e-9),
    )
