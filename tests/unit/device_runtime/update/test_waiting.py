"""What an installer sees of a trial, and the services of a running systemd."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from device_runtime.errors import ServiceError
from device_runtime.update import outcome, switch, systemd, units, waiting
from device_runtime.update.install import Installed, install
from device_runtime.update.outcome import LatestUpdate, UpdateState
from device_runtime.update.services import Services
from device_runtime.update.systemd import Systemd
from device_runtime.update.target import Target
from tests.support.bundles import draft
from tests.support.targets import ELF_X86_64, make_root


class Clock:
    """A clock; at each sleep, the next step happens."""

    def __init__(self, *steps: object) -> None:
        self.now = 0.0
        self._steps = iter(steps)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        step = next(self._steps, None)
        if callable(step):
            step()


class Guarded:
    """Services of which only the guard is asked about."""

    def __init__(self, active: bool = True) -> None:
        self._active = active

    def is_active(self, unit: str) -> bool:
        assert unit == units.GUARD
        return self._active

    def reload(self) -> None:
        raise AssertionError

    def restart(self, unit: str) -> None:
        raise AssertionError

    def stop(self, unit: str) -> None:
        raise AssertionError

    def restarts(self, unit: str) -> int:
        raise AssertionError


@pytest.fixture
def device(tmp_path: Path) -> Target:
    root = make_root(tmp_path / "root", ELF_X86_64)
    target = Target(root)
    put(target, 1)
    with target.folder("var/lib/edgepack") as state:
        switch.commit(target, state, keep=3)
    return target


def put(target: Target, number: int) -> Installed:
    path = target.root.parent / f"{number}.epk"
    return install(
        draft().replaced(version=f"{number}.0", sequence=number).write(path), target.root
    )


def wait(target: Target, release: Installed, clock: Clock, services: Services) -> UpdateState:
    return waiting.wait(target, services, release.digest, print, clock=clock, sleep=clock.sleep)


def test_verdict_is_waited_for_and_progress_is_shown(
    device: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    release = put(device, 2)
    run = device.root / "run/edgepack"
    run.mkdir(parents=True)

    def ready() -> None:
        (run / "health.json").write_text(
            f'{{"pid": 1, "run": "a", "release": "{release.digest}", "health": "ready", '
            '"worker_restarts": 0, "last_error": "", "memory_bytes": 1, "self_check": null, '
            '"beat": 1}'
        )

    def commit() -> None:
        with device.folder("var/lib/edgepack") as state:
            switch.commit(device, state, tokens_per_s=5, keep=3)

    update = wait(device, release, Clock(None, ready, None, commit), Guarded())
    assert update == UpdateState(state="committed", release=release.digest, version="2.0")
    assert capsys.readouterr().out.splitlines() == ["starting", "ready"]


def test_release_that_was_rolled_back_has_its_reason(device: Target) -> None:
    release = put(device, 2)

    def roll_back() -> None:
        with device.folder("var/lib/edgepack") as state:
            switch.roll_back(device, state, "too slow")

    update = wait(device, release, Clock(roll_back), Guarded())
    assert update == UpdateState(
        state="rolled back", release=release.digest, version="2.0", reason="too slow"
    )


def test_next_installation_is_possible_after_the_waiting(device: Target) -> None:
    release = put(device, 2)
    with device.folder("var/lib/edgepack") as state:
        switch.commit(device, state, keep=3)
    with ExitStack() as guard, ThreadPoolExecutor() as threads:
        guard.enter_context(switch.alone(guard.enter_context(device.folder("var/lib/edgepack"))))
        waiter = threads.submit(wait, device, release, Clock(), Guarded())
        with pytest.raises(TimeoutError):
            waiter.result(timeout=0.2)
        guard.close()
        assert waiter.result(timeout=10).state == "committed"
    put(device, 3)


def test_guard_that_does_not_run_is_noticed(device: Target) -> None:
    with pytest.raises(ServiceError, match=r"edgepack-guard.service does not run"):
        wait(device, put(device, 2), Clock(), Guarded(active=False))


def test_latest_update_is_read_again_when_it_changes(device: Target) -> None:
    release = put(device, 2)
    latest = LatestUpdate(release.folder)
    assert latest.read() == UpdateState(state="on trial", release=release.digest, version="2.0")
    with device.folder("var/lib/edgepack") as state:
        switch.commit(device, state, keep=3)
        assert latest.read() == outcome.read(state)
    assert latest.read().state == "committed"
    assert LatestUpdate(device.root).read() == UpdateState(state="none")


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A systemctl that writes down how it is called."""
    program = tmp_path / "bin/systemctl"
    program.parent.mkdir()
    log = tmp_path / "calls"
    program.write_text(
        f'#!/bin/sh\nshift 2\necho "$* [$LD_LIBRARY_PATH]" >> {log}\n'
        'case "$*" in *ActiveState*) echo activating;; *NRestarts*) echo 2;;\n'
        '*stop*) echo "no such unit" >&2; exit 5;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    yield log


def test_services_go_through_systemctl(systemctl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/frozen")
    monkeypatch.setenv("LD_LIBRARY_PATH_ORIG", "/theirs")
    services: Services = Systemd()
    services.reload()
    services.restart("a.service")
    assert services.is_active("a.service")
    assert services.restarts("a.service") == 2
    with pytest.raises(ServiceError, match=r"stop a.service failed: no such unit"):
        services.stop("a.service")
    assert systemctl.read_text().splitlines() == [
        "daemon-reload [/theirs]",
        "reset-failed a.service [/theirs]",
        "restart --no-block a.service [/theirs]",
        "show --property=ActiveState --value a.service [/theirs]",
        "show --property=NRestarts --value a.service [/theirs]",
        "stop a.service [/theirs]",
    ]


def test_only_the_root_of_a_running_systemd_has_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "RUNNING", tmp_path)
    assert systemd.of_root(Path("/")) is not None
    assert systemd.of_root(tmp_path) is None
    monkeypatch.setattr(systemd, "RUNNING", tmp_path / "missing")
    assert systemd.of_root(Path("/")) is None
