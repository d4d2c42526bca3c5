"""Outcomes of requests: each one is counted, and an error of the engine becomes an API error."""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response

from device_runtime.api.anthropic.response_types import ErrorMessage
from device_runtime.api.errors import ApiError
from device_runtime.api.ollama.response_types import OllamaError
from device_runtime.errors import PROMPT, DeviceError
from device_runtime.inference.embedding import EmbeddingChunk
from device_runtime.inference.engine import FinishReason, GenerationChunk, Usage
from device_runtime.speech.transcription import TranscriptionChunk
from device_runtime.status.metrics import Metrics
from device_runtime.status.report import Outcome, RequestStats

C = TypeVar("C", GenerationChunk, EmbeddingChunk, TranscriptionChunk)


class ApiEndpoint(StrEnum):
    """An endpoint that the model answers, by its label in the metrics."""

    CHAT = "chat"
    COMPLETION = "completion"
    RESPONSES = "responses"
    MESSAGES = "messages"
    COUNT_TOKENS = "count_tokens"
    OLLAMA_CHAT = "ollama_chat"
    OLLAMA_GENERATE = "ollama_generate"
    EMBEDDINGS = "embeddings"
    OLLAMA_EMBED = "ollama_embed"
    TRANSCRIPTIONS = "transcriptions"
    TRANSLATIONS = "translations"


class ObservedRequest:
    """Counters and times of one request, from its arrival to its end.

    Args:
        endpoint: endpoint that the request arrived at.
        prompt: name of the field with the prompt, for errors.
        stats: counters of outcomes.
        metrics: counters of outcomes and tokens, and histograms of times.
        entry: entry of the access log, which gets its tokens and its outcome.
    """

    def __init__(
        self,
        endpoint: ApiEndpoint,
        prompt: str,
        stats: RequestStats,
        metrics: Metrics,
        entry: dict[str, Any],
    ) -> None:
        self._endpoint = endpoint
        self._prompt = prompt
        self._stats = stats
        self._metrics = metrics
        self._log = entry
        self._last_token = time.monotonic()
        self._has_token = False

    async def chunks(self, generated: AsyncGenerator[C]) -> AsyncGenerator[C]:
        """Yield the engine's chunks, and raise its errors as API errors."""
        outcome = Outcome.CANCELLED
        try:
            async with aclosing(generated):
                async for chunk in generated:
                    reason = None
                    if isinstance(chunk, GenerationChunk):
                        self._token(chunk)
                        reason = chunk.finish_reason
                    if chunk.usage is not None and reason != FinishReason.CANCELLED:
                        outcome = Outcome.COMPLETED
                        self._usage(chunk.usage, generates=isinstance(chunk, GenerationChunk))
                    if isinstance(chunk, TranscriptionChunk):
                        self._metrics.count_audio(chunk.seconds)
                    yield chunk
        except DeviceError as error:
            outcome = Outcome.REJECTED if error.refuses else Outcome.FAILED
            raise api_error(error, self._prompt) from None
        finally:
            self.end(outcome)

    def end(self, outcome: Outcome) -> None:
        """Count the request by its outcome."""
        self._stats.count(outcome)
        self._metrics.count_request(self._endpoint, outcome)
        self._log["outcome"] = outcome

    def _usage(self, usage: Usage, *, generates: bool) -> None:
        if usage.completion_tokens and generates:
            # Else nothing was generated, and no prompt was prefilled; or by a model beside the one
            # that answers, whose speed is reported.
            self._stats.measure(usage)
        if usage.completion_tokens or not generates:
            self._metrics.count_tokens(usage)
        self._log |= {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
        }

    def _token(self, chunk: GenerationChunk) -> None:
        if not chunk.tokens or chunk.finish_reason is not None:
            return
        now = time.monotonic()
        if self._has_token:
            self._metrics.observe_next_token(now - self._last_token)
        else:
            self._metrics.observe_first_token(now - self._last_token)
        self._has_token, self._last_token = True, now


def api_error(error: DeviceError, prompt: str) -> ApiError:
    """Convert an error of the engine; `prompt` is the name of the field with the prompt."""
    message = f"{error}. {error.hint}".strip() if error.hint else str(error)
    return ApiError(
        message,
        status=error.http_status,
        code=error.api_code,
        param=prompt if error.param == PROMPT else error.param,
        retry_after_s=error.retry_after_s,
    )


def error_response(
    error: ApiError, path: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error as an HTTP response, in the form of the API that the path belongs to.

    Args:
        error: source of the status, the body and the Retry-After header.
        path: path of the request; empty if it is not known.
        headers: further headers to send.
    """
    headers = dict(headers or {})
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    body: msgspec.Struct = error.body
    if f"{path}/".startswith("/v1/messages/"):
        body = ErrorMessage.of(error)
    elif f"{path}/".startswith("/api/"):
        body = OllamaError.of(error)
    return Response(msgspec.json.encode(body), error.status, headers, media_type="application/json")
