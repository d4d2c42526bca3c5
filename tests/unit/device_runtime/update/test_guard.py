"""The guard: what it does with a verdict, and what cannot keep it from one."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_runtime.bundle.manifest import Trust
from device_runtime.bundle.reader import open_bundle
from device_runtime.errors import ServiceError
from device_runtime.heartbeat import Heartbeat
from device_runtime.update import guard, switch
from device_runtime.update.journal import read_history, read_pending
from device_runtime.update.judgement import Verdict
from device_runtime.update.keyring import Keyring
from device_runtime.update.links import STATE
from device_runtime.update.target import Target
from device_runtime.update.units import SERVICE
from tests.support.bundles import draft
from tests.support.commands import edgepack_runtime, refused
from tests.support.keys import Key, ed25519_key, p256_key
from tests.support.targets import ELF_X86_64, make_root


class Machine:
    """A device with a good release; its clock moves when somebody sleeps. Implements `Services`.

    Attributes:
        health: health of the current release's service; empty for no heartbeat.
        events: what happens at the next sleeps.
    """

    def __init__(self, folder: Path) -> None:
        self.target = Target(make_root(folder / "root", ELF_X86_64))
        self.run = self.target.root / "run/edgepack"
        self.run.mkdir(parents=True)
        self.health = "ready"
        self.events: list[Callable[[], object]] = []
        self.restarted: list[str] = []
        self.now = 0.0
        self.good = self.begin(1)
        with self.target.folder(STATE) as state:
            switch.commit(self.target, state, keep=3)

    def begin(self, number: int, *keys: Key, **changes: Any) -> str:
        """Put a release on trial, without the checks of an installation."""
        bundle = draft().replaced(version=f"{number}.0", sequence=number, **changes).signed(*keys)
        with (
            open_bundle(bundle.write(self.target.root.parent / f"{number}.epk")) as opened,
            self.target.folder(f"{STATE}/releases", make=True) as releases,
            self.target.folder(STATE) as state,
        ):
            releases.make_folder(opened.digest).close()
            opened.unpack(releases.path / opened.digest)
            switch.begin(self.target, state, opened.digest)
            return opened.digest

    def judge(self) -> Verdict | None:
        self._beat()
        return guard.run(self.target, self, clock=lambda: self.now, sleep=self._sleep)

    @property
    def current(self) -> str:
        return (self.target.root / STATE / "current").readlink().name

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.events:
            self.events.pop(0)()
        self._beat()

    def _beat(self) -> None:
        if not self.health:
            return
        beat = Heartbeat(
            pid=1,
            run="a",
            release=self.current,
            health=self.health,
            worker_restarts=0,
            last_error="",
            memory_bytes=0,
            self_check=None,
            beat=int(self.now * 10),
        )
        (self.run / "health.json").write_bytes(msgspec.json.encode(beat))

    def reload(self) -> None:
        raise AssertionError

    def stop(self, unit: str) -> None:
        raise AssertionError

    def is_active(self, unit: str) -> bool:
        raise AssertionError

    def restart(self, unit: str) -> None:
        self.restarted.append(unit)

    def restarts(self, unit: str) -> int:
        return 0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_is_judged_without_a_trial(machine: Machine) -> None:
    assert machine.judge() is None
    assert machine.restarted == []


def test_good_release_stays_and_the_service_runs_on(machine: Machine) -> None:
    release = machine.begin(2)
    assert machine.judge() == Verdict(good=True)
    assert (machine.now, machine.current, machine.restarted) == (90.0, release, [])


def test_bad_release_goes_with_its_reason_and_the_service_is_restarted(machine: Machine) -> None:
    release = machine.begin(2)
    machine.health = ""
    assert machine.judge() == Verdict(good=False, reason="the service was not ready within 120 s")
    assert (machine.current, machine.restarted) == (machine.good, [SERVICE])
    with machine.target.folder(STATE) as state:
        failure = read_history(state).failure(release)
        assert failure is not None
        assert (failure.reason, failure.count) == ("the service was not ready within 120 s", 1)
        assert read_pending(state) is None


@pytest.mark.parametrize("rules", ["probation_s = 'long'", "[", "nonsense = 1"])
def test_invalid_rules_are_as_good_as_none(machine: Machine, rules: str) -> None:
    machine.begin(2)
    (machine.target.root / "etc/edgepack").mkdir(exist_ok=True)
    (machine.target.root / "etc/edgepack/update.toml").write_text(rules)
    assert machine.judge() == Verdict(good=True)
    assert machine.now == 90.0


BUILDER = ed25519_key()
SECOND = p256_key("second")


def test_keys_of_a_release_are_trusted_once_it_is_good(machine: Machine) -> None:
    Keyring(machine.target).add(BUILDER.pem)
    release = machine.begin(2, BUILDER, trust=Trust(add=(SECOND.pem.decode(),)))
    before: list[int] = []
    machine.events.append(lambda: before.append(len(Keyring(machine.target).keys)))
    assert machine.judge() == Verdict(good=True)
    assert before == [1]
    assert {key.id for key in Keyring(machine.target).keys} == {BUILDER.id, SECOND.id}
    assert machine.current == release


def test_key_that_is_revoked_during_the_trial_brings_no_keys(machine: Machine) -> None:
    Keyring(machine.target).add(BUILDER.pem)
    machine.begin(2, BUILDER, trust=Trust(add=(SECOND.pem.decode(),)))
    machine.events.append(lambda: Keyring(machine.target).revoke(BUILDER.id))
    verdict = machine.judge()
    assert Keyring(machine.target).trusted == ()
    assert machine.current == machine.good
    assert verdict is not None
    assert f"{BUILDER.id[:16]} (revoked)" in verdict.reason


def test_power_cut_after_a_release_has_revoked_the_key_that_signed_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    Keyring(machine.target).add(BUILDER.pem)
    change = Trust(add=(SECOND.pem.decode(),), revoke=("a" * 64, BUILDER.id, "b" * 64))
    release = machine.begin(2, BUILDER, trust=change)

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(switch, "commit", cut)
        machine.judge()
    assert Keyring(machine.target).revoked == set(change.revoke)
    assert machine.judge() == Verdict(good=True)
    assert machine.current == release


def test_release_whose_keys_cannot_be_stored_goes(machine: Machine) -> None:
    machine.begin(2, trust=Trust(revoke=("a" * 64,)))
    keys = machine.target.root / "etc/edgepack/keys.d"
    keys.parent.mkdir(exist_ok=True)
    machine.events.append(lambda: keys.write_text("not a folder"))
    verdict = machine.judge()
    assert verdict is not None
    assert verdict.reason.startswith("its keys cannot be stored")
    assert machine.current == machine.good


def test_release_with_a_damaged_manifest_goes_at_once(machine: Machine) -> None:
    release = machine.begin(2)
    (machine.target.root / STATE / "releases" / release / "manifest.json").write_text("{}")
    assert machine.judge() == Verdict(good=False, reason="its manifest is damaged")
    assert (machine.now, machine.current) == (0, machine.good)


def test_release_that_was_replaced_or_taken_back_is_left_alone(machine: Machine) -> None:
    machine.begin(2)
    machine.events.append(lambda: machine.begin(3))
    machine.health = ""
    assert machine.judge() is None
    assert machine.restarted == []

    def back() -> None:
        with machine.target.folder(STATE) as state:
            switch.back(machine.target, state)

    machine.events.append(back)
    assert machine.judge() is None
    assert (machine.current, machine.restarted) == (machine.good, [])


def test_bad_release_goes_when_nothing_can_be_written_down(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    machine.begin(2)
    machine.health = ""
    monkeypatch.setattr(guard, "write_pending", full)
    monkeypatch.setattr(switch, "write_history", full)
    verdict = machine.judge()
    assert verdict is not None
    assert not verdict.good
    assert (machine.current, machine.restarted) == (machine.good, [SERVICE])


def test_service_manager_that_does_not_respond_is_not_needed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(unit: str) -> int:
        raise ServiceError(f"systemctl show {unit} timed out")

    monkeypatch.setattr(machine, "restarts", fail)
    machine.begin(2)
    assert machine.judge() == Verdict(good=True)


def test_command_needs_a_running_systemd(machine: Machine) -> None:
    refused(
        edgepack_runtime("guard", "--root", machine.target.root), 13, "running systemd", "hint:"
    )
    assert "guard" not in edgepack_runtime("--help").out
