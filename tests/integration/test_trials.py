"""New releases on trial, with real processes: the good stay, the bad go by themselves, in time."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from device_runtime import cli, logs
from device_runtime.bundle.manifest import Probe
from device_runtime.errors import InstallError
from device_runtime.update import judgement, switch, systemd, waiting
from device_runtime.update.install import Installed, install
from device_runtime.update.journal import read_history, write_history
from tests.support import trial_bundles
from tests.support.commands import edgepack_runtime
from tests.support.init import Device
from tests.support.serving import eventually

START_S, PROBATION_S = 20.0, 3.0
RULES = f"start_timeout_s = {START_S}\nprobation_s = {PROBATION_S}\n"
SLACK_S = 30.0
"""Time beyond the bounds for the start of processes on a busy machine."""


@pytest.fixture(scope="module")
def probe(tiny_onnx: Path) -> Probe:
    return trial_bundles.find_probe(tiny_onnx)


class Trials:
    """A device with a good release, and bundles for it."""

    def __init__(self, device: Device, model: Path, probe: Probe, folder: Path) -> None:
        self.device = device
        self._model, self._probe, self._folder = model, probe, folder
        self.good = self.install(1)
        with device.state() as state:
            switch.commit(device.target, state, keep=3)
        device.verdict = None
        device.boot()
        eventually(lambda: device.serves(self.good.digest))

    def bundle(self, number: int, **changes: Any) -> Path:
        changes = {"probe": self._probe, **changes}
        return trial_bundles.bundle(self._folder, self._model, number, **changes)

    def install(self, number: int, *, trial: bool = False, **changes: Any) -> Installed:
        path = self.bundle(number, **changes)
        return install(path, self.device.root, services=self.device if trial else None)

    def state(self) -> str:
        """The state of the latest update."""
        return self.device.update.state

    def bad(self, *words: str, within_s: float, number: int = 2, **changes: Any) -> Installed:
        """A release that is rolled back in time, for a reason with these words."""
        release = self.install(number, trial=True, **changes)
        verdict = self.device.wait_for_verdict(within_s + SLACK_S)
        print(f"\n{' '.join(words)!r} after {self.device.judged_s:.1f} s: {verdict.reason}")
        assert not verdict.good
        for word in words:
            assert word in verdict.reason, verdict.reason
        assert self.device.judged_s <= within_s + SLACK_S
        assert self.device.current == self.good.digest
        update = self.device.update
        assert (update.state, update.release) == ("rolled back", release.digest)
        assert (update.version, update.reason) == (f"{number}.0.0", verdict.reason)
        eventually(lambda: self.device.serves(self.good.digest))
        return release


@pytest.fixture
def trials(
    tiny_onnx: Path, probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Trials]:
    monkeypatch.setattr(judgement, "SILENT_S", 3.0)
    device = Device(tmp_path / "root", RULES)
    try:
        yield Trials(device, tiny_onnx, probe, tmp_path)
    finally:
        device.close()


def test_good_release_is_committed_with_its_speed(trials: Trials) -> None:
    release = trials.install(2, trial=True)
    assert release.on_trial
    assert trials.state() == "on trial"
    assert trials.device.update.version == "2.0.0"
    assert trials.device.wait_for_verdict(START_S + PROBATION_S + SLACK_S).good
    assert trials.device.judged_s >= PROBATION_S
    assert trials.device.current == release.digest
    assert trials.state() == "committed"
    with trials.device.state() as state:
        assert read_history(state).speeds[release.digest] > 0


def test_crash_at_start(trials: Trials) -> None:
    trials.bad("times before it was ready", within_s=START_S, fault=trial_bundles.CRASHES)


@pytest.mark.slow
def test_start_that_hangs(trials: Trials) -> None:
    trials.bad("not ready within 20 s", within_s=START_S, fault=trial_bundles.HANGS)


def test_service_that_freezes(trials: Trials) -> None:
    trials.bad("has not responded", within_s=START_S + PROBATION_S, fault=trial_bundles.FREEZES)


def test_wrong_tokens(trials: Trials, probe: Probe) -> None:
    first, *rest = probe.tokens
    wrong = msgspec.structs.replace(probe, tokens=(first, rest[0] + 1, *rest[1:]))
    trials.bad("self-check failed: token 2 of 16", within_s=START_S, probe=wrong)
    # The release that serves again reports it.
    url = trials.device.url
    shown = edgepack_runtime("status", "--listen", url.removeprefix("http://")).out
    assert re.search(r"update: +2\.0\.0 \(\w{12}\) rolled back: the self-check failed", shown)
    assert "self-check:  all 16 tokens are those that the build recorded" in shown
    status = httpx.get(f"{url}/v1/status").json()
    assert status["update"]["state"] == "rolled back"
    assert status["self_check"]["passed"]
    assert httpx.get(f"{url}/healthz").json()["self_check"] == status["self_check"]


def test_slower_than_its_own_floor(trials: Trials) -> None:
    trials.bad("below the minimum of 1e+06", within_s=START_S, min_tokens_per_s=1e6)


def test_slower_than_half_of_the_release_before(trials: Trials) -> None:
    with trials.device.state() as state:
        write_history(state, read_history(state).with_success(trials.good.digest, 100.0))
    trials.bad("less than half", "100", within_s=START_S, fault=trial_bundles.SLOW)


def test_too_much_memory(trials: Trials) -> None:
    trials.bad(
        "of memory, more than", within_s=START_S, fault=trial_bundles.HUNGRY, memory_bytes=1 << 20
    )


def test_death_during_the_probation(trials: Trials) -> None:
    trials.bad("after it was ready", within_s=START_S + PROBATION_S, fault=trial_bundles.DIES)


def test_release_that_failed_twice_is_refused(trials: Trials) -> None:
    for _ in range(2):
        trials.bad("times before it was ready", within_s=START_S, fault=trial_bundles.CRASHES)
    with pytest.raises(InstallError, match=r"failed 2 times.*before it was ready"):
        trials.install(2, trial=True, fault=trial_bundles.CRASHES)
    assert trials.device.current == trials.good.digest


def test_hold_of_an_application_is_respected_until_it_ends(trials: Trials) -> None:
    url = f"{trials.device.url}/v1/update-hold"
    body = {"reason": "a customer is being served", "seconds": 60}
    assert httpx.put(url, json=body).json()["held"]
    with pytest.raises(InstallError, match="a customer is being served"):
        trials.install(2, trial=True)
    assert httpx.delete(url).status_code == 200
    assert trials.install(2, trial=True).on_trial


@pytest.fixture
def command(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], int]:
    """`edgepack-runtime install` on the device; returns the exit code."""
    monkeypatch.setattr(systemd, "of_root", lambda _: trials.device)
    monkeypatch.setattr(logs, "set_up", lambda _: None)

    def run(bundle: Path) -> int:
        root = str(trials.device.root)
        monkeypatch.setattr(
            sys, "argv", ["edgepack-runtime", "install", str(bundle), "--root", root]
        )
        return cli.main()

    return run


def test_install_waits_for_the_verdict(
    trials: Trials, command: Callable[[Path], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(trials.bundle(2)) == 0
    output = capsys.readouterr()
    assert output.out.startswith("tiny-cpu 2.0.0 is installed")
    assert "on trial: the service is ready" in output.err
    assert trials.state() == "committed"

    assert command(trials.bundle(3, min_tokens_per_s=1e6)) == InstallError.exit_code
    output = capsys.readouterr()
    assert output.out == ""
    assert "error: 3.0.0 rolled back: " in output.err
    assert "below the minimum" in output.err
    assert "hint:" in output.err


def test_interrupt_ends_the_waiting_and_not_the_trial(
    trials: Trials,
    command: Callable[[Path], int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(waiting, "wait", interrupted)
    assert command(trials.bundle(2)) == 130
    assert "the trial goes on" in capsys.readouterr().err
    assert trials.device.wait_for_verdict(START_S + PROBATION_S + SLACK_S).good


def test_power_cut_during_a_trial_ends_in_a_verdict_after_the_boot(trials: Trials) -> None:
    release = trials.install(2, trial=True)
    eventually(lambda: trials.device.serves(release.digest))
    trials.device.power_cut()
    assert trials.state() == "on trial"
    trials.device.boot()
    assert trials.device.wait_for_verdict(START_S + PROBATION_S + SLACK_S).good
    assert trials.state() == "committed"


def test_four_boots_without_a_verdict_go_back(trials: Trials) -> None:
    trials.install(2, trial=True, fault=trial_bundles.HANGS)
    for _ in range(3):
        time.sleep(1)
        trials.device.power_cut()
        assert trials.state() == "on trial"
        trials.device.boot()
    verdict = trials.device.wait_for_verdict(SLACK_S)
    assert verdict.reason == "no verdict after 3 starts"
    assert trials.state() == "rolled back"
    eventually(lambda: trials.device.serves(trials.good.digest))


def test_first_release_that_fails_stays_and_says_so(
    tiny_onnx: Path, probe: Probe, tmp_path: Path
) -> None:
    wrong = msgspec.structs.replace(probe, tokens=(probe.tokens[0] + 1,))
    device = Device(tmp_path / "root", RULES)
    try:
        path = trial_bundles.bundle(tmp_path, tiny_onnx, 1, probe=wrong)
        release = install(path, device.root, services=device)
        assert not device.wait_for_verdict(START_S + SLACK_S).good
        assert device.current == release.digest
        assert (device.update.state, device.update.version) == ("failed", "1.0.0")
        assert device.serves(release.digest)
    finally:
        device.close()
