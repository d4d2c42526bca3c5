"""A device without systemd: a root file system, and an init that does what our units say.

The service is a real process, started again when it fails; the guard runs in a thread, and so does
the updater when there is a request. A power cut kills the one and ends the other where it waits.
"""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from device_runtime.bundle.manifest import RUNTIME_ENTRY
from device_runtime.durable import Folder
from device_runtime.update import guard, outcome
from device_runtime.update.journal import PENDING
from device_runtime.update.judgement import Verdict
from device_runtime.update.links import STATE
from device_runtime.update.outcome import UpdateState
from device_runtime.update.requests import REQUEST
from device_runtime.update.target import Target
from device_runtime.update.units import GUARD, SERVICE
from tests.support.serving import eventually
from tests.support.targets import ELF_X86_64, make_root

RESTART_S = 0.2


class PowerCutError(Exception):
    """The device has no power."""


class Device:
    """Implements `Services`; close it.

    Args:
        root: folder for its root file system.
        rules: lines of its update.toml.
        settings: environment variables of its service.

    Attributes:
        root: its root file system.
        target: the same.
        verdict: what the guard decided last.
        judged_s: seconds that it took.
    """

    def __init__(self, root: Path, rules: str = "", settings: Mapping[str, str] = {}) -> None:
        self.root = make_root(root, ELF_X86_64)
        self.target = Target(root)
        self.verdict: Verdict | None = None
        self.judged_s = 0.0
        (root / "etc/edgepack").mkdir(exist_ok=True)
        (root / "etc/edgepack/update.toml").write_text("allow_unsigned = true\n" + rules)
        self._run = root / "run/edgepack"
        self._settings = settings
        self._powered = threading.Event()
        self._powered.set()
        self._service: subprocess.Popen[bytes] | None = None
        self._restarts = 0
        self._lock = threading.RLock()
        self._guard: threading.Thread | None = None

    @property
    def update(self) -> UpdateState:
        """The state of its latest update."""
        with self.state() as state:
            return outcome.read(state)

    @property
    def current(self) -> str:
        """Digest of the current release."""
        return (self.root / STATE / "current").readlink().name

    @property
    def url(self) -> str:
        """Where the service listens now."""
        lines = (self.root / "journal").read_text().splitlines()
        return [line for line in lines if line.startswith("listening on ")][-1].split()[-1]

    def state(self) -> Folder:
        return self.target.folder(STATE)

    def serves(self, release: str) -> bool:
        """Whether this release is ready."""
        beat = guard.latest_heartbeat(self.target)
        return beat is not None and (beat.release, beat.health) == (release, "ready")

    def reload(self) -> None:
        pass

    def restart(self, unit: str) -> None:
        if unit == SERVICE:
            with self._lock:
                self.stop(SERVICE)
                self._restarts = 0
                self._start()
        elif (self.root / STATE / PENDING).exists():
            assert unit == GUARD
            self._guard = threading.Thread(target=self._judge)
            self._guard.start()

    def stop(self, unit: str) -> None:
        assert unit == SERVICE
        with self._lock:
            process, self._service = self._service, None
            if process is not None:
                process.kill()  # a stopped process does not hear SIGTERM
                process.wait()
            shutil.rmtree(self._run, ignore_errors=True)

    def is_active(self, unit: str) -> bool:
        if unit == SERVICE:
            return self._service is not None
        return self._guard is not None and self._guard.is_alive()

    def restarts(self, unit: str) -> int:
        assert unit == SERVICE
        return self._restarts

    def boot(self) -> None:
        """Start what starts with the system."""
        self._powered.set()
        self.restart(SERVICE)
        self.restart(GUARD)

    def power_cut(self) -> None:
        """End everything at once."""
        self._powered.clear()
        self.stop(SERVICE)
        if self._guard is not None:
            self._guard.join()

    def close(self) -> None:
        self.power_cut()

    def wait_for_verdict(self, seconds: float) -> Verdict:
        eventually(lambda: not self.is_active(GUARD), seconds)
        assert self.verdict is not None
        return self.verdict

    def signal_service(self, number: signal.Signals) -> None:
        assert self._service is not None
        self._service.send_signal(number)

    def _start(self) -> None:
        self._run.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "RUNTIME_DIRECTORY": str(self._run),
            "EDGEPACK_LISTEN": "127.0.0.1:0",
            **self._settings,
        }
        program = self.root / STATE / "current" / RUNTIME_ENTRY
        with (self.root / "journal").open("ab") as log:
            self._service = subprocess.Popen([program, "serve"], env=environment, stderr=log)
        threading.Thread(target=self._keep, args=(self._service,), daemon=True).start()

    def run_updater(self, updater: Callable[[], object], ended: threading.Event) -> None:
        """edgepack-updater.path and its service, until the end."""
        working = self._run.with_name("edgepack-updater")
        while not ended.wait(0.05):
            if (self._run / REQUEST).exists():
                working.mkdir()
                updater()
                working.rmdir()

    def _keep(self, process: subprocess.Popen[bytes]) -> None:
        """Restart=on-failure."""
        if process.wait() == 0:
            return
        time.sleep(RESTART_S)
        with self._lock:
            if self._service is process:
                self._restarts += 1
                self._start()

    def _judge(self) -> None:
        def sleep(seconds: float) -> None:
            if not self._powered.is_set():
                raise PowerCutError
            time.sleep(seconds)

        started = time.monotonic()
        try:
            self.verdict = guard.run(self.target, self, sleep=sleep)
        except PowerCutError:
            return
        self.judged_s = time.monotonic() - started
