"""Backends of the terminal chat: the service on this device, or a model loaded for the chat.

Both take the body of a chat completion, so that a chat behaves the same either way.
"""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated, Any, Protocol

import msgspec

from device_runtime.api.chat_requests import parse_chat
from device_runtime.api.requests import own_request
from device_runtime.api.response_types import Model
from device_runtime.api.served_model import ServedModel
from device_runtime.chat.client import Endpoint
from device_runtime.errors import DeviceError, EngineError, RequestError, ServiceError
from device_runtime.inference.engine import Engine, FinishReason

TIMEOUT_S = 600
"""Timeout of the service, seconds: a request may be queued, or wait for a long prefill."""

PROBE_S = 5
"""Timeout of the check for a running service, seconds."""


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an answer.

    Attributes:
        thoughts: new thoughts, which come before the text; may be empty.
        text: new text; may be empty.
        finish: finish reason of the answer, `stop` or `length`; empty before its end.
        tokens: length of the answer; only in the last piece, like the next two.
        prompt_tokens: length of the prompt.
        cached_tokens: tokens of the prompt that came from the prompt cache.
    """

    thoughts: str = ""
    text: str = ""
    finish: str = ""
    tokens: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0


class _Models(msgspec.Struct, frozen=True):
    """The list of models, as far as it is needed here."""

    data: Annotated[list[Model], msgspec.Meta(min_length=1)]


class ChatModel(Protocol):
    """Answers conversations, one at a time."""

    def answer(self, body: dict[str, Any]) -> Iterator[Piece]:
        """Yield the answer to the body of a chat completion.

        Raises:
            RequestError: the request cannot be answered; a shorter or different one may be.
            DeviceError: the answer failed for another reason.
        """
        ...

    def stop(self) -> None:
        """Stop the current answer soon; called from a signal handler."""
        ...

    def close(self) -> None:
        """Release the model."""
        ...


class OwnModel:
    """A model in this process.

    While the user reads and types, it prefills its own answers, as `serve` does.
    """

    def __init__(self, engine: Engine, served: ServedModel) -> None:
        self._engine = engine
        self._served = served
        self._stopped = threading.Event()
        self._stop_idle = threading.Event()
        self._idle: threading.Thread | None = None

    def answer(self, body: dict[str, Any]) -> Iterator[Piece]:
        """See `ChatModel.answer`."""
        self.close()
        self._stopped.clear()
        request = own_request(parse_chat, body, self._served)
        for chunk in self._engine.generate(request, self._stopped.is_set):
            over = chunk.finish_reason not in (None, FinishReason.CANCELLED)
            usage = chunk.usage
            yield Piece(
                thoughts=chunk.thoughts,
                text=chunk.text,
                finish=str(chunk.finish_reason) if over else "",
                tokens=usage.completion_tokens if usage else None,
                prompt_tokens=usage.prompt_tokens if usage else 0,
                cached_tokens=usage.cached_tokens if usage else 0,
            )
        self._idle = threading.Thread(target=self._prepare, daemon=True)
        self._stop_idle.clear()
        self._idle.start()

    def stop(self) -> None:
        """See `ChatModel.stop`."""
        self._stopped.set()

    def close(self) -> None:
        """See `ChatModel.close`; also ends idle work, so that the engine is free."""
        self._stop_idle.set()
        if self._idle is not None:
            self._idle.join()

    def _prepare(self) -> None:
        while not self._stop_idle.is_set() and self._engine.idle():
            pass


class ServiceModel:
    """The service on this device."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._stopped = False
        self._connection: http.client.HTTPConnection | None = None

    def name(self) -> str:
        """Request the name of the served model.

        Raises:
            NoServiceError: no service responds.
            ServiceError: the service requires an API key.
        """
        return self._endpoint.get("/v1/models", _Models, PROBE_S).data[0].id

    def answer(self, body: dict[str, Any]) -> Iterator[Piece]:
        """See `ChatModel.answer`."""
        self._stopped = False
        connection = self._connection = self._endpoint.connect(TIMEOUT_S)
        streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
        headers = {**self._endpoint.headers, "Content-Type": "application/json"}
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(streamed), headers)
            response = connection.getresponse()
            if response.status != HTTPStatus.OK:
                raise _refusal(response, self._endpoint)
            yield from _pieces(response)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if not self._stopped:
                raise ServiceError(
                    f"the service on {self._endpoint.url} does not answer: {error}",
                    hint="Check it with edgepack-runtime status.",
                ) from None
        finally:
            connection.close()

    def stop(self) -> None:
        """See `ChatModel.stop`."""
        self._stopped = True
        if self._connection is not None and self._connection.sock is not None:
            with suppress(OSError):
                # A pending read returns at once.
                self._connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `ChatModel.close`."""


def _pieces(response: http.client.HTTPResponse) -> Iterator[Piece]:
    """Parse server-sent events in the service's form: one line each."""
    for line in response:
        if not line.startswith(b"data: ") or line == b"data: [DONE]\n":
            continue
        chunk = json.loads(line.removeprefix(b"data: "))
        if "error" in chunk:
            raise EngineError(str(chunk["error"]["message"]))
        usage = chunk.get("usage")
        for choice in chunk["choices"]:
            finish = choice["finish_reason"] or ""
            delta = choice["delta"]
            thoughts = delta.get("reasoning_content") or ""
            yield Piece(thoughts=thoughts, text=delta.get("content") or "", finish=finish)
        if usage is not None:
            yield Piece(
                tokens=usage["completion_tokens"],
                prompt_tokens=usage["prompt_tokens"],
                cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
            )


def _refusal(response: http.client.HTTPResponse, endpoint: Endpoint) -> DeviceError:
    if response.status == HTTPStatus.UNAUTHORIZED:
        return endpoint.unauthorized()
    message = str(json.load(response)["error"]["message"])
    if response.status < HTTPStatus.INTERNAL_SERVER_ERROR and response.status not in (
        HTTPStatus.FORBIDDEN,
        HTTPStatus.TOO_MANY_REQUESTS,
    ):
        return RequestError(message)
    wait_s = response.headers["Retry-After"]
    return ServiceError(message, hint=f"Try again in {wait_s} s." if wait_s else "See its log.")
