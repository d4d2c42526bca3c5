"""The access log: client, path and outcome of each request, never a prompt or an answer."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from device_runtime.logs import event

log = logging.getLogger(__name__)

QUIET = frozenset({"/healthz", "/readyz", "/metrics", "/v1/status"})
"""Paths that are polled every few seconds: only failures are logged."""


class AccessLog:
    """ASGI middleware that logs requests; handlers may add fields to `scope["state"]["log"]`."""

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

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
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
                    **fields,
                )
