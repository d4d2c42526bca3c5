"""A line in the log for each request: who asked for what and how it went, never what was said."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from device_runtime.logs import event

log = logging.getLogger(__name__)

QUIET = frozenset({"/healthz", "/readyz", "/metrics", "/v1/status"})
"""What is asked every few seconds; only failures of it are logged."""


class AccessLog:
    """ASGI middleware. A handler may add fields to `scope["state"]["log"]`."""

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

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
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
