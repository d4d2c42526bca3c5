"""Servers as contestants: processes that listen on a port of this machine."""

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import psutil

from scripts.bench import client

READY = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


class Memory(NamedTuple):
    """Resident memory of a server's processes together, bytes.

    Attributes:
        resident: pages of files that are mapped included; those that processes share count once.
        anonymous: without pages of files.
    """

    resident: int
    anonymous: int


class Server:
    """A server that starts with the block and ends with it.

    Args:
        command: command of the process; `{port}` stands for the port.
        environment: variables of the process, beside those of this one.

    Attributes:
        port: its port.
        started: time at which its process was started, of the monotonic clock.
    """

    def __init__(
        self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = command
        self._environment = environment or {}
        self.port = 0
        self.started = 0.0

    def __enter__(self) -> "Server":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [str(part).replace("{port}", str(self.port)) for part in self._command]
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self._environment},
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes():
            process.kill()
        self._process.wait()

    def first_answer(self, body: dict[str, Any]) -> client.Answer:
        """Stream an answer as soon as the server takes the request."""
        return client.first_answer(self.port, body)

    def ready(self) -> None:
        """Wait until the server has answered once."""
        client.first_answer(self.port, READY)

    def memory(self) -> Memory:
        """Measure the memory of all its processes."""
        resident = anonymous = 0
        for process in self._processes():
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in ("Pss", "Pss_Anon"):
                    size = int(rest.split()[0]) << 10
                    resident += size if name == "Pss" else 0
                    anonymous += size if name == "Pss_Anon" else 0
        return Memory(resident, anonymous)

    def _processes(self) -> list[psutil.Process]:
        process = psutil.Process(self._process.pid)
        return [process, *process.children(recursive=True)]
