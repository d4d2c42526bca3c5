"""One inference process, as its parent has it: from its start to its end."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec

from device_runtime.errors import EngineError
from device_runtime.worker.messages import FOR_PARENT, ToChild, ToParent, frame, receive

EXIT_S = 5.0
"""Time for a process that has closed its pipe to exit by itself, seconds."""
ENDING_S = 30.0
"""Time in which a killed process must have ended; one that waits for a broken disk has not."""
HUGE_PAGES = "glibc.malloc.hugetlb"
"""Tunable of glibc (from 2.35 on; older ones ignore it) that asks the kernel for huge pages. All
weights are read for each token, and a processor knows the places of few small pages."""


class Child:
    """A process, started with `start`.

    Attributes:
        pid: its process id.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process
        self._killed: EngineError | None = None
        self._killed_at = 0.0
        self._retired = False

    @classmethod
    async def start(cls, command: list[str]) -> "Child":
        """Start a process.

        Raises:
            EngineError: it cannot be started.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=os.environ | huge_pages(),
            )
        except (OSError, RuntimeError) as reason:
            # RuntimeError: Python cannot start the thread that waits for the process.
            raise EngineError(
                f"the inference process cannot be started: {reason}",
                hint="Check whether the program was moved and the device has free memory and PIDs.",
            ) from None
        return cls(process)

    @property
    def stuck(self) -> bool:
        """True if it was killed and does not end."""
        return self._killed is not None and time.monotonic() > self._killed_at + ENDING_S

    def send(self, message: ToChild) -> None:
        """Send a message."""
        assert self._process.stdin is not None
        self._process.stdin.write(frame(message))

    def kill(self, reason: str) -> None:
        """Kill it, unless it has ended; the reason is why it ended then."""
        if self._process.returncode is None:
            self._killed, self._killed_at = EngineError(reason), time.monotonic()
            self._process.kill()

    def retire(self) -> None:
        """Have it end by itself; requests that it is answering are lost."""
        assert self._process.stdin is not None
        self._retired = True
        self._process.stdin.close()
        late = "the inference process did not end by itself"
        asyncio.get_running_loop().call_later(EXIT_S, self.kill, late)

    async def messages(self) -> AsyncIterator[ToParent]:
        """Yield its messages until it ends.

        Raises:
            EngineError: it sends something else.
        """
        assert self._process.stdout is not None
        try:
            while (message := await receive(self._process.stdout, FOR_PARENT)) is not None:
                yield message
        except msgspec.MsgspecError as error:
            self._process.kill()
            raise EngineError(
                f"the inference process sent data that is not a message: {error}"
            ) from None

    async def ended(self) -> EngineError | None:
        """Wait for the end of a process without further messages; kill it if it does not come.

        Returns:
            Reason why it ended; None if it was retired.
        """
        try:
            status = await asyncio.wait_for(self._process.wait(), EXIT_S)
        except TimeoutError:
            self._process.kill()
            status = await self._process.wait()
        if self._killed is not None:
            return self._killed
        return None if self._retired and status == 0 else exit_error(status)

    async def close(self) -> None:
        """End it if it has not ended."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


def huge_pages() -> dict[str, str]:
    """Return the variable that has a process ask for huge pages, unless this one's says which."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if HUGE_PAGES not in tunables:
        tunables = ":".join(filter(None, (tunables, f"{HUGE_PAGES}=1")))
    return {"GLIBC_TUNABLES": tunables}


def exit_error(status: int, name: str = "inference process") -> EngineError:
    """Describe a process that ended with this status and sent no error."""
    how = f"exited with code {status}" if status >= 0 else f"was killed by signal {-status}"
    with suppress(ValueError):
        how = f"was killed by {signal.Signals(-status).name}"
    hint = "See the log above for the cause; SIGKILL usually means out of memory."
    return EngineError(f"the {name} {how}", hint=hint)
