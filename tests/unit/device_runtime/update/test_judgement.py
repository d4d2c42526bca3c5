"""The judgement of a release on trial, second by second and without a clock."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from device_runtime.heartbeat import Heartbeat, SelfCheck
from device_runtime.processor import GPU_LIBRARY, TRIAL_S
from device_runtime.update.judgement import SILENT_S, Bounds, Observation, Trial, Verdict
from tests.support import bundles

NEW = "b" * 64
START_S, PROBATION_S = 60.0, 30.0
PASSED = SelfCheck(passed=True, tokens_per_s=40.0, detail="all 3 tokens")
BOUNDS = Bounds(
    release=NEW,
    start_s=START_S,
    probation_s=PROBATION_S,
    memory_bytes=500 << 20,
    min_tokens_per_s=2.0,
    previous_tokens_per_s=50.0,
    probed=True,
)


class Watch:
    """A trial, and the service as it is now; each second has a heartbeat while `beats` is set."""

    def __init__(self, **bounds: Any) -> None:
        self.trial = Trial(replace(BOUNDS, **bounds), 0)
        self.now = 0.0
        self.beats = True
        self.restarts = 0
        self.beat = Heartbeat(
            pid=1,
            run="a",
            release=NEW,
            health="starting",
            worker_restarts=0,
            last_error="",
            memory_bytes=100 << 20,
            self_check=None,
            beat=0,
        )

    def set(self, **fields: Any) -> None:
        self.beat = msgspec.structs.replace(self.beat, **fields)

    def ready(self, **fields: Any) -> None:
        self.set(**{"health": "ready", "self_check": PASSED, **fields})

    def wait(self, seconds: float) -> Verdict | None:
        """Let time pass, and return the verdict if there is one by then."""
        end = self.now + seconds
        while self.now < end:
            self.now += 1
            if self.beats:
                self.set(beat=self.beat.beat + 1)
            seen = Observation(at=self.now, beat=self.beat, restarts=self.restarts)
            verdict = self.trial.observe(seen)
            if verdict is not None:
                return verdict
        return None


def reason(verdict: Verdict | None) -> str:
    assert verdict is not None
    assert not verdict.good
    return verdict.reason


def test_release_that_is_ready_and_stays_so_is_good() -> None:
    watch = Watch()
    assert watch.wait(20) is None
    watch.ready()
    assert watch.wait(PROBATION_S) is None
    assert watch.wait(1) == Verdict(good=True, tokens_per_s=40.0)
    assert watch.now == 20 + 1 + PROBATION_S


def test_release_without_a_probe_is_good_without_a_speed() -> None:
    watch = Watch(probed=False)
    watch.ready(self_check=None)
    assert watch.wait(PROBATION_S + 1) == Verdict(good=True)
    watch = Watch()
    watch.ready(self_check=None)
    assert reason(watch.wait(1)) == "the service did not check itself"


def test_release_that_is_not_ready_in_time() -> None:
    watch = Watch()
    assert reason(watch.wait(START_S + 1)) == "the service was not ready within 60 s"
    assert watch.now == START_S + 1


def test_release_that_never_beats_is_not_ready_in_time() -> None:
    watch = Watch()
    watch.set(release="a" * 64, health="ready")
    assert reason(watch.wait(100)) == "the service was not ready within 60 s"


def test_heartbeat_that_stops() -> None:
    watch = Watch()
    watch.ready()
    assert watch.wait(5) is None
    watch.beats = False
    assert reason(watch.wait(100)) == "the service has not responded for 20 s"
    assert watch.now == 5 + SILENT_S + 1


def test_silence_at_the_end_of_the_probation_is_not_a_success() -> None:
    watch = Watch()
    watch.ready()
    assert watch.wait(PROBATION_S - 1) is None
    watch.beats = False
    assert "not responded" in reason(watch.wait(100))


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (SelfCheck(passed=False, tokens_per_s=40, detail="token 2"), "self-check failed: token 2"),
        (SelfCheck(passed=True, tokens_per_s=1.5, detail=""), "1.5 tokens/s are below the minimum"),
        (SelfCheck(passed=True, tokens_per_s=24.9, detail=""), "less than half of the previous"),
    ],
)
def test_self_check_decides_as_soon_as_it_is_known(check: SelfCheck, words: str) -> None:
    watch = Watch()
    watch.ready(self_check=check)
    assert words in reason(watch.wait(1))


def test_speed_that_is_not_known_is_not_judged() -> None:
    watch = Watch(previous_tokens_per_s=None)
    watch.ready(self_check=SelfCheck(passed=True, tokens_per_s=2.0, detail=""))
    assert watch.wait(PROBATION_S + 1) == Verdict(good=True, tokens_per_s=2.0)
    watch = Watch()
    watch.ready(self_check=SelfCheck(passed=True, tokens_per_s=None, detail=""))
    assert watch.wait(PROBATION_S + 1) == Verdict(good=True)


@pytest.mark.parametrize("health", ["starting", "ready"])
def test_memory_beyond_the_bound_when_it_gets_ready(health: str) -> None:
    watch = Watch()
    watch.set(memory_bytes=501 << 20, health=health, self_check=PASSED)
    assert "uses 501 MiB of memory, more than 500 MiB" in reason(watch.wait(1))


def test_memory_of_conversations_is_not_a_fault() -> None:
    watch = Watch()
    watch.ready()
    assert watch.wait(3) is None
    watch.set(memory_bytes=2 << 30)
    assert watch.wait(PROBATION_S) == Verdict(good=True, tokens_per_s=40.0)


def test_three_crashes_before_it_is_ready() -> None:
    watch = Watch()
    watch.beats = False
    watch.restarts = 2
    assert watch.wait(2) is None
    watch.restarts = 3
    assert reason(watch.wait(1)) == "the service ended 3 times before it was ready"


def test_crash_before_it_is_ready_is_forgiven_and_one_after_it_is_not() -> None:
    watch = Watch()
    assert watch.wait(2) is None
    watch.restarts = 1
    watch.set(run="b")
    watch.ready()
    assert watch.wait(5) is None
    watch.restarts = 2
    assert reason(watch.wait(1)) == "the service ended 5 s after it was ready"


def test_restart_by_hand_begins_the_probation_again() -> None:
    watch = Watch()
    watch.ready()
    assert watch.wait(PROBATION_S - 1) is None
    watch.set(run="b", health="starting", self_check=None)
    assert watch.wait(2) is None
    watch.ready()
    assert watch.wait(PROBATION_S) is None
    verdict = watch.wait(1)
    assert verdict is not None
    assert verdict.good


def test_inference_process_that_ends_after_it_was_ready() -> None:
    watch = Watch()
    watch.ready()
    assert watch.wait(3) is None
    watch.set(worker_restarts=1, last_error="the inference process was killed by SIGKILL")
    assert reason(watch.wait(1)) == "the inference process was killed by SIGKILL"
    watch = Watch()
    watch.ready()
    assert watch.wait(3) is None
    watch.set(health="degraded")
    assert reason(watch.wait(1)) == "the service is degraded"


def test_bounds_of_a_release_follow_from_its_manifest() -> None:
    manifest = bundles.draft().manifest
    bounds = Bounds.of(NEW, manifest, start_s=120, probation_s=90, previous_tokens_per_s=None)
    model_bytes = sum(r.size for r in manifest.records if r.path.startswith("model/"))
    assert bounds.start_s == 120 + model_bytes / 10e6
    assert bounds.memory_bytes == (1 << 20) + (256 << 20)
    large = msgspec.structs.replace(manifest, memory_bytes=4 << 30)
    bounds = Bounds.of(NEW, large, start_s=1, probation_s=1, previous_tokens_per_s=None)
    assert bounds.memory_bytes == 6 << 30


def test_release_that_tries_a_gpu_may_take_its_time_and_memory() -> None:
    plain = bundles.draft()
    gpu = plain.with_file(f"runtime/_internal/{GPU_LIBRARY}", b"plug-in")
    cpu_bounds, gpu_bounds = (
        Bounds.of(NEW, draft.manifest, start_s=120, probation_s=90, previous_tokens_per_s=None)
        for draft in (plain, gpu)
    )
    model_bytes = sum(r.size for r in plain.manifest.records if r.path.startswith("model/"))
    assert gpu_bounds.start_s == cpu_bounds.start_s + 3 * TRIAL_S
    assert gpu_bounds.memory_bytes == cpu_bounds.memory_bytes + model_bytes + (512 << 20)
