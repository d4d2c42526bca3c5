"""Many simulated devices: `fleet watch` shows all of them, and a bad update stops by itself.

python -m tests.support.many_devices [SECONDS [COUNT]]    600 seconds, 1,000 devices
"""

import fcntl
import json
import os
import pty
import re
import secrets
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections import Counter
from pathlib import Path

from packager.errors import FleetError
from tests.support.mosquitto import Mosquitto
from tests.support.simulated import bad_numbers

BAD = 0.03
ROWS, COLUMNS = 50, 160


class Watch:
    """`fleet watch` on a terminal of its own.

    Args:
        url: URL of the broker.
        seconds: time after which it ends.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self._shown = ""
        self._terminal, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        arguments = ("fleet", "watch", "--mqtt", url, "--seconds", str(seconds))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "packager", *arguments],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env={**os.environ, "TERM": "xterm-256color"},
        )
        os.close(inside)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._terminal, 1 << 16)
            except OSError:  # the terminal's other end is closed
                return
            self._shown = (self._shown + piece.decode(errors="replace"))[-(1 << 18) :]

    def end(self) -> tuple[str, float, float]:
        """Wait for its end: the last summary, seconds of processor time, peak memory in MB."""
        _, status, usage = os.wait4(self._process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        self._reader.join()
        os.close(self._terminal)
        summaries = re.findall(r"\d+ devices?: [a-z0-9, ]+", self._shown)
        return summaries[-1].rstrip(), usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def update(url: str) -> dict[str, object]:
    """Begin an update of all devices; it must stop by itself."""
    reference = f"oci://registry.local/kitchen@sha256:{secrets.token_hex(32)}"
    arguments = ("fleet", "update", "--to", reference, "--mqtt", url, "--json")
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "packager", *arguments, "--soak", "10", "--timeout", "30"],
        capture_output=True,
        text=True,
        check=False,
    )
    sys.stdout.write(done.stderr)
    assert done.returncode == FleetError.exit_code, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    result["seconds"] = time.monotonic() - started
    return result


def check(result: dict[str, object], count: int) -> None:
    """The update was stopped because of bad devices alone, and the others went back."""
    rows = result["devices"]
    assert isinstance(rows, list)
    assert len(rows) == count
    assert result["state"] == "stopped"
    updated = [row for row in rows if row["stage"] is not None]
    bad = {row["device"] for row in updated if row["status"] not in ("successful", "withdrawn")}
    assert bad
    assert bad <= {f"sim-{number:04}" for number in bad_numbers(count, BAD)}
    kept = {row["device"] for row in updated if row["rollback"] != "successful"}
    assert kept <= bad
    statuses = Counter(row["status"] for row in rows)
    print(f"fleet update: {result['seconds']:.0f} s, {dict(statuses)}; {result['reason']}")


def main() -> None:
    """Watch many devices, update them meanwhile, and print figures."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder
        broker = Mosquitto(Path(folder))
        broker.start()
        arguments = (str(broker.port), str(count), str(BAD))
        devices = subprocess.Popen([sys.executable, "-m", "tests.support.simulated", *arguments])
        try:
            watch = Watch(broker.url, seconds)
            time.sleep(seconds / 10)
            check(update(broker.url), count)
            summary, cpu_s, memory = watch.end()
        finally:
            devices.kill()
            devices.wait()
            broker.stop()
    print(f"fleet watch: {summary}; {100 * cpu_s / seconds:.1f} % of a core, {memory:.0f} MB")
    assert summary.startswith(f"{count} devices: ")


if __name__ == "__main__":
    main()
