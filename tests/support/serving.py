"""`edgepack-runtime serve` as a process under test."""

import json
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import openai
import psutil

from device_runtime.bundle.manifest import RUNTIME_ENTRY
from tests.support.commands import environment


def eventually(check: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true result of a check; the time is for a busy machine."""
    deadline = time.monotonic() + seconds
    while True:
        result = check()
        if result:
            return result
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


class Serving:
    """A server on a free port, ready when entered; killed at the end if need be.

    It is the release's own frozen program if there is one, else the same from source.

    Args:
        release: folder of the release.
        arguments: further ones of `serve`.
        verify: file with the certificate that the server's is checked with.
        within: a program that runs the one it is given, somewhere else.
    """

    def __init__(
        self, release: Path, *arguments: str, verify: str = "", within: Sequence[str] = ()
    ) -> None:
        self.verify = ssl.create_default_context(cafile=verify or None)
        frozen = release / RUNTIME_ENTRY
        program = [str(frozen)] if frozen.exists() else [sys.executable, "-m", "device_runtime"]
        self._command = [
            *(*within, *program, "serve", "--release", str(release)),
            *("--listen", "127.0.0.1:0", "--json", *arguments),
        ]

    def __enter__(self) -> "Serving":
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, text=True, env=environment()
        )
        assert self.process.stdout is not None
        self.url = json.loads(self.process.stdout.readline())["url"]
        ready = f"{self.url}/readyz"
        eventually(lambda: httpx.get(ready, verify=self.verify, timeout=60).status_code == 200)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    @property
    def worker(self) -> int:
        """Process id of the inference process."""
        (child,) = psutil.Process(self.process.pid).children()
        return int(child.pid)

    def get(self, path: str) -> dict[str, Any]:
        result: dict[str, Any] = httpx.get(f"{self.url}{path}", timeout=60).json()
        return result

    def openai(self) -> openai.OpenAI:
        """OpenAI's client of this server; close it."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0)

    def chat(self, content: str = "Hi", **fields: Any) -> httpx.Response:
        return httpx.post(
            f"{self.url}/v1/chat/completions", json=chat_body(content, **fields), timeout=180
        )


def chat_body(content: str = "Hi", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 4, **fields}


def sent_events(response: httpx.Response) -> list[Any]:
    """The objects of a streamed answer, in OpenAI's form or Anthropic's."""
    assert response.status_code == 200, response.text
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if "data: {" in line]
    return [json.loads(line) for line in data]


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waited for yet has, too."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
