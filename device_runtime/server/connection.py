"""One HTTP connection: uvicorn's, with limits on what its client can hold.

uvicorn waits forever for a head that never ends, a body that trickles in and a client that does not
read; each would hold one of the few connections, and the last one the model.
"""

import asyncio
import socket
from typing import Any

import h11
import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from device_runtime.api.errors import ApiError
from device_runtime.api.outcomes import error_response

MAX_HEAD_BYTES = 16 << 10
"""Limit of a request's head: request line and headers."""
SPARE_CONNECTIONS = 32
"""Extra connections that still get a 503 (and may call /healthz)."""
ALWAYS_ANSWERED = "/healthz"

_FULL = ApiError(
    "too many connections at once",
    status=503,
    code="too_many_connections",
    retry_after_s=1,
)
_LARGE_HEAD = ApiError(
    f"the request head exceeds {MAX_HEAD_BYTES} bytes",
    status=431,
    code="request_too_large",
)
_TWO_LENGTHS = ApiError("a request must not have both Content-Length and Transfer-Encoding")


class Connection(H11Protocol):
    """One connection, from its start to its end.

    Attributes:
        owes_since: time of the event loop since which the client owes a request, or the rest of
            one; infinity while it does not.

    Args:
        config: uvicorn's configuration, loaded.
        state: state that all connections share.
        max_connections: connections above this number get 503.
        client_timeout_s: seconds that the client may take to send the head of a request, to send
            its body, and to read enough that more of the answer can be sent.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        *,
        max_connections: int,
        client_timeout_s: float,
    ) -> None:
        super().__init__(config, state, app_state={})
        self._max_connections = max_connections
        self._client_timeout_s = client_timeout_s
        self._api = self.app
        self.app = self._admit
        self._is_full = False
        self._awaited: object = None
        self.owes_since = float("inf")
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, or refuse it."""
        super().connection_made(transport)
        # Data that the kernel does not accept at once counts as unread. With a limit of 0,
        # asyncio's TLS would stay paused after everything is sent.
        transport.set_write_buffer_limits(high=0 if self.scheme == "http" else 1, low=0)
        # A vanished client acknowledges nothing, and the kernel would retry for 15 minutes.
        transport.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * self._client_timeout_s)
        )
        # Those that are being closed are still in the set.
        held = [other for other in self.connections if not other.transport.is_closing()]
        beyond = len(held) - self._max_connections
        if beyond > 0 and self._make_room(held):
            beyond -= 1
        self._is_full = beyond > 0
        if beyond > SPARE_CONNECTIONS:
            self._refuse(_FULL)
        else:
            self._watch_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the application, and cancel all timers."""
        super().connection_lost(exc)
        for timer in (self._late, self._unread):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Process some bytes of a request."""
        super().data_received(data)
        self._watch_request()

    def on_response_complete(self) -> None:
        """Continue with the next request of this connection."""
        super().on_response_complete()
        self._watch_request()

    def pause_writing(self) -> None:
        """Start the timeout of a client that does not read."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._client_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timeout: the client has read everything."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def send_400_response(self, msg: str) -> None:
        """Respond to a malformed request, or to a head that exceeds the limit."""
        too_large = len(self.conn.trailing_data[0]) > MAX_HEAD_BYTES
        self._refuse(_LARGE_HEAD if too_large else ApiError("malformed HTTP request"))

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, unless the request is refused here."""
        # h11 accepts a head of any size if it arrives at once.
        size = len(scope["raw_path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        names = {name for name, _ in scope["headers"]}
        if size > MAX_HEAD_BYTES:
            await _refusal(_LARGE_HEAD, scope["path"])(scope, receive, send)
        elif {b"content-length", b"transfer-encoding"} <= names:
            # A proxy may go by the other one, and take the rest for a request: RFC 9112, 6.1.
            await _refusal(_TWO_LENGTHS, scope["path"])(scope, receive, send)
        elif self._is_full and scope["path"] != ALWAYS_ANSWERED:
            await _refusal(_FULL, scope["path"])(scope, receive, send)
        else:
            await self._api(scope, receive, send)

    def _make_room(self, held: list[Any]) -> bool:
        """Close the connection whose client has owed a request for longest; False if none does.

        So clients that connect and say nothing lock nobody out.
        """
        idle = [other for other in held if other is not self and other.owes_since < float("inf")]
        if not idle:
            return False
        min(idle, key=lambda other: other.owes_since).transport.close()
        return True

    def _watch_request(self) -> None:
        """Limit the time for a head or a body that the client owes; more bytes do not extend it."""
        owed = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        awaited = (self.conn.their_state, self.cycle) if owed else None
        if awaited == self._awaited:
            return
        self._awaited = awaited
        self.owes_since = self.loop.time() if owed else float("inf")
        if self._late is not None:
            self._late.cancel()
        if owed and not self.transport.is_closing():
            self._late = self.loop.call_later(self._client_timeout_s, self._on_late)

    def _on_late(self) -> None:
        in_body = self.conn.their_state is h11.SEND_BODY
        if not in_body and not self.conn.trailing_data[0]:
            # An unused connection: browsers open some in advance.
            self.transport.close()
            return
        part = "body" if in_body else "head"
        message = f"the request {part} took longer than {self._client_timeout_s:g} s"
        self._refuse(ApiError(message, status=408, code="request_timeout"))

    def _refuse(self, error: ApiError) -> None:
        """Respond with an error if that is still possible, and close the connection."""
        if self.cycle is not None:
            # To the application, the client has disconnected.
            self.cycle.disconnected = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            path = self.cycle.scope["path"] if self.cycle is not None else ""
            response = _refusal(error, path)
            for event in (
                h11.Response(status_code=error.status, headers=response.raw_headers),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _refusal(error: ApiError, path: str) -> Response:
    return error_response(error, path, {"Connection": "close"})
