"""Outcomes of requests: how each one ended is counted, and its error becomes one of the API."""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from enum import StrEnum
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from device_runtime.api.errors import ApiError
from device_runtime.errors import PROMPT, DeviceError
from device_runtime.inference.engine import FinishReason, GenerationChunk, Usage
from device_runtime.status.metrics import Metrics
from device_runtime.status.report import Outcome, RequestStats


class ApiEndpoint(StrEnum):
    """An endpoint that generates, as metrics name it."""

    CHAT = "chat"
    COMPLETION = "completion"


_PROMPT_FIELDS = {ApiEndpoint.CHAT: "messages", ApiEndpoint.COMPLETION: "prompt"}


class ObservedRequest:
    """Counters and times of one request, from its arrival to its end.

    Args:
        endpoint: where it arrived.
        stats: counts its outcome.
        metrics: counts its outcome, tokens and times.
        request: its entry in the access log gets its tokens and its outcome.
    """

    def __init__(
        self, endpoint: ApiEndpoint, stats: RequestStats, metrics: Metrics, request: Request
    ) -> None:
        self._endpoint = endpoint
        self._stats = stats
        self._metrics = metrics
        self._log: dict[str, Any] = request.scope.get("state", {}).get("log", {})
        self._last_token = time.monotonic()
        self._answering = False

    async def chunks(
        self, generated: AsyncGenerator[GenerationChunk]
    ) -> AsyncGenerator[GenerationChunk]:
        """Pass the engine's chunks on; its errors become those of the API."""
        outcome = Outcome.CANCELLED
        try:
            async with aclosing(generated):
                async for chunk in generated:
                    self._token(chunk)
                    if chunk.usage is not None and chunk.finish_reason != FinishReason.CANCELLED:
                        outcome = Outcome.COMPLETED
                        self._usage(chunk.usage)
                    yield chunk
        except DeviceError as error:
            outcome = Outcome.REJECTED if error.refuses else Outcome.FAILED
            raise api_error(error, _PROMPT_FIELDS[self._endpoint]) from None
        finally:
            self.end(outcome)

    def end(self, outcome: Outcome) -> None:
        """Count the request, which has ended."""
        self._stats.count(outcome)
        self._metrics.ended(self._endpoint, outcome)
        self._log["outcome"] = outcome

    def _usage(self, usage: Usage) -> None:
        self._stats.measure(usage)
        self._metrics.used(usage)
        self._log |= {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
        }

    def _token(self, chunk: GenerationChunk) -> None:
        if not chunk.tokens or chunk.finish_reason is not None:
            return
        now = time.monotonic()
        if self._answering:
            self._metrics.next_token(now - self._last_token)
        else:
            self._metrics.first_token(now - self._last_token)
        self._answering, self._last_token = True, now


def api_error(error: DeviceError, prompt: str) -> ApiError:
    """An engine's error in OpenAI's words; `prompt` is the field that the prompt came in."""
    message = f"{error}. {error.hint}".strip() if error.hint else str(error)
    return ApiError(
        message,
        status=error.http_status,
        code=error.api_code,
        param=prompt if error.param == PROMPT else error.param,
        retry_after_s=error.retry_after_s,
    )


def error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    """An error as an HTTP response.

    Args:
        error: gives the status, the body and the Retry-After header.
        headers: others to send.
    """
    headers = dict(headers or {})
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    body = msgspec.json.encode(error.body)
    return Response(body, error.status, headers, media_type="application/json")
