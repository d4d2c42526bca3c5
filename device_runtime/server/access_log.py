"""The access log: client, path and outcome of each request, never a prompt or an answer."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from device_runtime.api import errors
from device_runtime.logs import event

log = logging.getLogger(__name__)

QUIET = frozenset({"/healthz", "/readyz", "/metrics", "/v1/status"})
"""Paths that are polled every few seconds: only failures are logged."""


REQUEST_IDS = ("x-request-id", "request-id")
"""Headers of each response, OpenAI's and Anthropic's: the client's own id of its request, or a new
one."""

_OWN_IDS = ("x-client-request-id", "x-request-id")
"""Headers in which clients send an id: OpenAI's, and that of proxies."""

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class AccessLog:
    """ASGI middleware that logs requests; handlers may add fields to `scope["state"]["log"]`.

    Each response gets the id with which its request is in the log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 0
        state = scope.setdefault("state", {})
        fields = state.setdefault("log", {})
        number = _request_id(Headers(scope=scope))
        errors.REQUEST_ID.set(number)

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(dict.fromkeys(REQUEST_IDS, number))
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            if scope["path"] not in QUIET or status >= 400:
                client = scope.get("client")
                event(
                    log,
                    logging.INFO,
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    seconds=round(time.monotonic() - started, 3),
                    client=client[0] if client else "",
                    key=state.get("key_name", ""),
                    id=number,
                    **fields,
                )


def _request_id(headers: Headers) -> str:
    """Return the client's id if it is a plain word, else a new one."""
    for name in _OWN_IDS:
        value = headers.get(name, "")
        if _ID.fullmatch(value):
            return value
    return f"req_{uuid.uuid4().hex}"
