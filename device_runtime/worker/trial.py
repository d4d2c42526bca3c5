"""A trial: start the inference process on a processor, check it as the service does, end it."""

import asyncio
from collections.abc import AsyncGenerator
from functools import partial

from device_runtime.bundle.manifest import Probe
from device_runtime.errors import DeviceError, EngineError
from device_runtime.heartbeat import SelfCheck
from device_runtime.inference.engine import GenerationChunk, GenerationRequest
from device_runtime.processor import TRIAL_S
from device_runtime.worker.child import Child
from device_runtime.worker.messages import Failed, Generate, Loaded
from device_runtime.worker.self_check import check


async def attempt(command: list[str], probe: Probe) -> SelfCheck:
    """Try a processor; never raises.

    Args:
        command: command that starts the inference process.
        probe: prompt and tokens.
    """
    try:
        async with asyncio.timeout(TRIAL_S):
            child = await Child.start(command)
            try:
                return await check(partial(_generate, child), probe)
            finally:
                await child.close()
    except TimeoutError:
        reason = f"it took more than {TRIAL_S:.0f} s"
    except DeviceError as error:
        reason = str(error)
    return SelfCheck(passed=False, tokens_per_s=None, detail=reason)


async def _generate(child: Child, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
    """Answer a request with a process that has just been started."""
    async for message in child.messages():
        if isinstance(message, Loaded):
            child.send(Generate(id=1, request=request))
        elif isinstance(message, Failed):
            raise message.error
        elif isinstance(message.chunk, GenerationChunk):
            yield message.chunk
            if message.chunk.usage is not None:
                return
    raise await child.ended() or EngineError("the inference process ended")
