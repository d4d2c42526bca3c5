"""The check of a release's model before the service is ready."""

from collections.abc import AsyncGenerator

import pytest

from device_runtime.bundle.manifest import Probe
from device_runtime.errors import DeviceError, EngineError
from device_runtime.heartbeat import SelfCheck
from device_runtime.inference.engine import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    TokenLogprob,
    Usage,
)
from device_runtime.worker.self_check import check

pytestmark = pytest.mark.anyio

PROBE = Probe(prompt="1, 2,", tokens=(3, 4, 5))


class Model:
    """Answers each request with the same tokens, at 20 tokens/s."""

    def __init__(self, tokens: list[int], error: DeviceError | None = None) -> None:
        self._tokens = tokens
        self._error = error
        self.requests: list[GenerationRequest] = []

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        self.requests.append(request)
        if self._error is not None:
            raise self._error
        tokens = self._tokens[: request.max_tokens]
        for token in tokens:
            part = TokenLogprob(token=token, data=b"x", logprob=-0.1)
            yield GenerationChunk(logprobs=(part,) if request.logprobs is not None else ())
        usage = Usage(
            prompt_tokens=4,
            completion_tokens=len(tokens),
            first_token_s=0.1,
            decode_s=(len(tokens) - 1) / 20,
        )
        yield GenerationChunk(finish_reason=FinishReason.STOP, usage=usage)


async def test_same_tokens_pass_and_the_speed_is_measured_beyond_them() -> None:
    model = Model([3, 4, 5, *range(100)])
    assert await check(model.generate, PROBE) == SelfCheck(
        passed=True, tokens_per_s=20.0, detail="all 3 tokens are those that the build recorded"
    )
    (request,) = model.requests
    assert (request.prompt, request.temperature, request.max_tokens) == ("1, 2,", 0.0, 24)


async def test_other_token_fails_and_its_place_is_named() -> None:
    result = await check(Model([3, 9, 5, *range(100)]).generate, PROBE)
    assert not result.passed
    assert result.tokens_per_s == 20.0
    assert result.detail == "token 2 of 3 is not the one that the build recorded"


async def test_answer_that_ends_early_fails_and_has_no_speed() -> None:
    result = await check(Model([3, 4]).generate, PROBE)
    assert (result.passed, result.tokens_per_s) == (False, None)
    assert result.detail == "token 3 of 3 is not the one that the build recorded"


async def test_model_that_fails_does_not_raise() -> None:
    model = Model([], EngineError("the inference process was killed by SIGKILL"))
    assert await check(model.generate, PROBE) == SelfCheck(
        passed=False, tokens_per_s=None, detail="the inference process was killed by SIGKILL"
    )
