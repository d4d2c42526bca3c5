"""The check that the service runs on itself before it reports ready.

A release carries a prompt and the tokens that follow it, recorded at the build. A model that was
damaged, or that a processor computes wrongly, writes others.
"""

from collections.abc import AsyncGenerator, Callable
from itertools import zip_longest

from device_runtime.bundle.manifest import Probe
from device_runtime.errors import DeviceError
from device_runtime.heartbeat import SelfCheck
from device_runtime.inference.engine import GenerationChunk, GenerationRequest

LENGTH = 24
"""Tokens to generate, also beyond those of the probe: the speed is measured on them."""
MIN_SPEED_TOKENS = 16
"""Shortest answer that the speed is measured on, tokens."""

Generate = Callable[[GenerationRequest], AsyncGenerator[GenerationChunk]]


async def check(generate: Generate, probe: Probe) -> SelfCheck:
    """Continue the probe's prompt, compare the tokens, and measure the speed; never raises.

    Log probabilities bring the ids of the tokens, and cost a little of the speed in every release.

    Args:
        generate: answers a request, as `Supervisor.generate` does.
        probe: prompt and tokens.
    """
    length = max(LENGTH, len(probe.tokens))
    request = GenerationRequest(prompt=probe.prompt, max_tokens=length, logprobs=0)
    tokens: list[int] = []
    usage = None
    try:
        async for chunk in generate(request):
            tokens += [part.token for part in chunk.logprobs]
            usage = chunk.usage
    except DeviceError as error:
        return SelfCheck(passed=False, tokens_per_s=None, detail=str(error))
    assert usage is not None, "the last chunk has the usage"
    speed = usage.tokens_per_s if usage.completion_tokens >= MIN_SPEED_TOKENS else None
    compared = tuple(tokens[: len(probe.tokens)])
    return SelfCheck(
        passed=compared == probe.tokens,
        tokens_per_s=round(speed, 2) if speed is not None else None,
        detail=_compared(compared, probe.tokens),
    )


def _compared(tokens: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Say how far the tokens are those of the build."""
    total = len(expected)
    for place, (token, right) in enumerate(zip_longest(tokens, expected), 1):
        if token != right:
            return f"token {place} of {total} is not the one that the build recorded"
    return f"all {total} tokens are those that the build recorded"
