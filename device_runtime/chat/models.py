"""Backends of the terminal chat: the service that runs here, or a model loaded for the chat.

Both take the body of a chat completion, so that a chat means the same either way.
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

from device_runtime.api.requests import own_request, parse_chat
from device_runtime.api.response_types import Model
from device_runtime.api.served_model import ServedModel
from device_runtime.chat.client import Endpoint
from device_runtime.errors import DeviceError, EngineError, RequestError, ServiceError
from device_runtime.inference.engine import Engine, FinishReason

TIMEOUT_S = 600
"""Longest silence of a service: a request may wait for others, or for a long prompt."""

PROBE_S = 5
"""How long a service may take to say that it is there."""


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of an answer.

    Attributes:
        text: what is new; may be empty.
        finish: why the answer ended: `stop` or `length`; empty before.
        tokens: length of the answer; only in the last piece, as the next two.
        prompt_tokens: length of the prompt.
        cached_tokens: of it, what was remembered.
    """

    text: str = ""
    finish: str = ""
    tokens: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0


class _Models(msgspec.Struct, frozen=True):
    """What is read of the list of models."""

    data: Annotated[list[Model], msgspec.Meta(min_length=1)]


class ChatModel(Protocol):
    """Answers conversations, one at a time."""

    def answer(self, body: dict[str, Any]) -> Iterator[Piece]:
        """The answer to a body of OpenAI's chat completions.

        Raises:
            RequestError: it cannot be answered; a shorter or other one may be.
            DeviceError: there is no answer, for another reason.
        """
        ...

    def stop(self) -> None:
        """End the answer that is coming, soon; called from a handler of signals."""
        ...

    def close(self) -> None:
        """Nothing more is asked."""
        ...


class OwnModel:
    """A model in this process.

    While its user reads and writes, it reads its own answers again, as `serve` does.
    """

    def __init__(self, engine: Engine, served: ServedModel) -> None:
        self._engine = engine
        self._served = served
        self._stopped = threading.Event()
        self._asked = threading.Event()
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
                text=chunk.text,
                finish=str(chunk.finish_reason) if over else "",
                tokens=usage.completion_tokens if usage else None,
                prompt_tokens=usage.prompt_tokens if usage else 0,
                cached_tokens=usage.cached_tokens if usage else 0,
            )
        self._idle = threading.Thread(target=self._prepare, daemon=True)
        self._asked.clear()
        self._idle.start()

    def stop(self) -> None:
        """See `ChatModel.stop`."""
        self._stopped.set()

    def close(self) -> None:
        """See `ChatModel.close`; also has the engine to itself again."""
        self._asked.set()
        if self._idle is not None:
            self._idle.join()

    def _prepare(self) -> None:
        while not self._asked.is_set() and self._engine.idle():
            pass


class ServiceModel:
    """The service on this device."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._stopped = False
        self._connection: http.client.HTTPConnection | None = None

    def name(self) -> str:
        """The name of the model that it serves.

        Raises:
            NoServiceError: no service answers there.
            ServiceError: it requires an API key.
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
                where = self._endpoint.url
                raise ServiceError(
                    f"the service on {where} does not answer: {error}",
                    hint="See how it is with edgepack-runtime status.",
                ) from None
        finally:
            connection.close()

    def stop(self) -> None:
        """See `ChatModel.stop`."""
        self._stopped = True
        if self._connection is not None and self._connection.sock is not None:
            with suppress(OSError):
                # Whoever reads from it now finds its end.
                self._connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `ChatModel.close`."""


def _pieces(response: http.client.HTTPResponse) -> Iterator[Piece]:
    """Server-sent events as the service writes them: one line each."""
    for line in response:
        if not line.startswith(b"data: ") or line == b"data: [DONE]\n":
            continue
        chunk = json.loads(line.removeprefix(b"data: "))
        if "error" in chunk:
            raise EngineError(str(chunk["error"]["message"]))
        usage = chunk.get("usage")
        for choice in chunk["choices"]:
            finish = choice["finish_reason"] or ""
            yield Piece(text=choice["delta"].get("content") or "", finish=finish)
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
    waits = response.headers["Retry-After"]
    return ServiceError(message, hint=f"Try again in {waits} s." if waits else "See its log.")
