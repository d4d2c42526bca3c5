"""The service under a real systemd: `python -m tests.device.under_systemd`, as root.

A small Debian boots in systemd-nspawn with the default model's bundle flashed into it, reports to a
mosquitto of this machine, is stopped in several places, updated from a registry by a command, and
asked to stop while it answers. Prints what was seen, and how long it took.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from packager.kit import rootfs
from tests.support.commands import edgepack
from tests.support.mosquitto import DEVICE, Messages, Mosquitto, publish, subscribed
from tests.support.registries import docker_registry
from tests.support.serving import eventually

SUITE = "bookworm"
PACKAGES = "systemd,systemd-sysv,dbus,ca-certificates,procps"
LISTEN = "127.0.0.1:18099"
RULES = "probation_s = 5\nregistry_plain_http = true\n"


class Container:
    """A booted Debian; it shares the network of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        command = ["systemd-nspawn", "-q", "-D", str(root), "-b", "--register=no", "--keep-unit"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def init(self) -> int:
        """Process id, on this machine, of its systemd."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return int(children.read_text().split()[0])

    def run(self, *argv: str) -> str:
        """Run a program inside; returns its output."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.init), "-a", *argv],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()

    def show(self, name: str) -> str:
        """A property of the service."""
        return self.run("systemctl", "show", f"--property={name}", "--value", "edgepack")

    def outside(self, pid: int) -> int:
        """The process id, on this machine, of a process inside."""
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                line = next(x for x in status.read_text().splitlines() if x.startswith("NSpid:"))
            except (OSError, StopIteration):
                continue
            numbers = line.split()[1:]
            if len(numbers) == 2 and int(numbers[1]) == pid:
                return int(numbers[0])
        raise LookupError(f"no process {pid} inside")

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a process inside."""
        os.kill(self.outside(pid), number)

    def close(self) -> None:
        """Switch it off."""
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()


@contextmanager
def told(what: str) -> Iterator[None]:
    """Print what was seen, and the time that it took."""
    started = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - started:.1f} s", flush=True)


def bundle(folder: Path, number: int) -> Path:
    """A signed bundle of the default model for this machine."""
    path = folder / f"{number}.epk"
    built = edgepack(
        *("build", "--profile", f"cpu-{os.uname().machine}", "-o", path),
        *("--bundle-version", f"{number}.0.0", "--sequence", str(number)),
    )
    assert built.status == 0, built.err
    return path


def debian(root: Path, first: Path, mosquitto: Mosquitto) -> None:
    """Make a root file system with the bundle and its settings."""
    subprocess.run(
        [
            *("mmdebstrap", "--variant=minbase", "--quiet", f"--include={PACKAGES}"),
            *(SUITE, str(root), *rootfs.debian_sources(SUITE)),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    settings = root.parent / "settings.toml"
    settings.write_text(
        f'mqtt = "{mosquitto.url}"\ndevice_id = "{DEVICE}"\nlisten = "{LISTEN}"\n'
        'mqtt_commands = ["update", "rollback", "reload"]\nstatus_interval = 1\n'
    )
    flashed = edgepack("flash", first, root, "--config", settings)
    assert flashed.status == 0, flashed.err
    (root / "etc/edgepack/update.toml").write_text(RULES)


def ended(messages: Messages, name: str) -> dict[str, Any]:
    while True:
        state, _ = messages.next(f"cmd/{name}")
        if state["status"] in ("successful", "failed"):
            return state


def command(port: int, name: str, **arguments: str) -> None:
    content = json.dumps({"status": "init", "arguments": arguments}).encode()
    publish(port, f"cmd/{name}", content, retain=True)


def drained(container: Container, messages: Messages) -> None:
    """Ask for a long answer, stop the service meanwhile, and see the answer whole."""
    body = {"messages": [{"role": "user", "content": "Count to 100."}], "max_tokens": 200}
    answers: list[httpx.Response] = []

    def ask() -> None:
        url = f"http://{LISTEN}/v1/chat/completions"
        answers.append(httpx.post(url, json=body, timeout=120))

    thread = threading.Thread(target=ask)
    thread.start()
    running = f"http://{LISTEN}/v1/status"
    eventually(lambda: httpx.get(running).json()["running"] == 1)
    container.run("systemctl", "stop", "edgepack")
    thread.join()
    answer = answers[0].json()
    assert answers[0].status_code == 200, answer
    assert answer["usage"]["completion_tokens"] > 1
    messages.next("status", state="offline")
    assert container.show("Result") == "success"


def main() -> None:
    """Run it."""
    if os.geteuid() != 0:
        sys.exit("run this as root: systemd-nspawn needs it")
    for program, package in {
        "systemd-nspawn": "systemd-container",
        "mmdebstrap": "mmdebstrap",
    }.items():
        if shutil.which(program) is None:
            sys.exit(f"{program} is missing: apt-get install {package}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mosquitto = Mosquitto(folder)
        mosquitto.start()
        stack.callback(mosquitto.stop)
        (folder / "registry").mkdir()
        registry = stack.enter_context(docker_registry(folder / "registry"))
        messages = stack.enter_context(subscribed(mosquitto.port))
        with told("two bundles"):
            first, second = bundle(folder, 1), bundle(folder, 2)
        place = f"oci://127.0.0.1:{registry.port}/team/bundle:2"
        pushed = edgepack("push", second, place, "--json")
        assert pushed.status == 0, pushed.err
        reference = json.loads(pushed.out)["reference"]
        with told("a Debian with the first"):
            debian(folder / "root", first, mosquitto)
        with told("boot to ready"):
            container = Container(folder / "root")
            stack.callback(container.close)
            messages.next("event/ready")
        assert container.show("ActiveState") == "active"
        assert container.show("Type") == "notify"

        main_pid = int(container.show("MainPID"))
        worker = int(container.run("pgrep", "-P", str(main_pid)).split()[0])
        with told("worker stopped: another is ready"):
            container.signal(worker, signal.SIGSTOP)
            event, _ = messages.next("event/worker_ended")
            assert "stopped" in event["detail"]["reason"]
            messages.next("event/ready")
        with told("service stopped: systemd's watchdog, ready again"):
            container.signal(main_pid, signal.SIGSTOP)
            messages.next("status", state="offline")
            messages.next("event/ready")
        assert int(container.show("NRestarts")) == 1
        with told("update by a command, trial included"):
            command(mosquitto.port, "update/1", reference=reference)
            state = ended(messages, "update/1")
            assert state["result"]["version"] == "2.0.0", state
        with told("rollback by a command"):
            command(mosquitto.port, "rollback/1")
            state = ended(messages, "rollback/1")
            assert state["status"] == "successful", state
            messages.next("event/ready")
        with told("reload by a command"):
            command(mosquitto.port, "reload/1")
            assert ended(messages, "reload/1")["status"] == "successful"
        with told("stop while it answers: the whole answer, then offline"):
            drained(container, messages)
    print("all is well")


if __name__ == "__main__":
    main()
