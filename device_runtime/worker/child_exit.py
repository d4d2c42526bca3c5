"""The end of the inference process, as its parent sees it."""

import asyncio
import signal
from contextlib import suppress

from device_runtime.errors import EngineError

EXIT_S = 5.0
"""Time for a process that has closed its pipe to exit by itself, seconds."""


async def exit_status(child: asyncio.subprocess.Process) -> int:
    """Return the exit status of a process that has closed its pipe; kill it if it does not exit."""
    try:
        return await asyncio.wait_for(child.wait(), EXIT_S)
    except TimeoutError:
        child.kill()
        return await child.wait()


def exit_error(status: int) -> EngineError:
    """Describe a process that ended with this status and sent no error."""
    how = f"exited with code {status}" if status >= 0 else f"was killed by signal {-status}"
    with suppress(ValueError):
        how = f"was killed by {signal.Signals(-status).name}"
    hint = "See the log above for the cause; SIGKILL usually means out of memory."
    return EngineError(f"the inference process {how}", hint=hint)
