"""The address of the HTTP server, and uvicorn on it."""

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette

from device_runtime.errors import ResourceError, ServiceError

CLOSE_S = 15
"""How long connections may stay open after the server was told to stop, seconds. The service ends
all answers before that: only a client that does not read its answer meets this bound."""


def bind(listen: str) -> socket.socket:
    """A listening socket on `host:port`; port 0 takes a free one.

    Raises:
        ResourceError: the port is taken.
        ServiceError: the address is not valid here.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ServiceError(
            f"{listen!r} is no address to listen on", hint="Give HOST:PORT, as 127.0.0.1:8080."
        )
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM
        )[0]
        # asyncio switches Nagle's delay (40 ms an answer) off only where the protocol is named.
        bound = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen()
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ResourceError(
            f"cannot listen on {listen}: {error.strerror or error}",
            hint="Stop what uses it, or choose another address: --listen 127.0.0.1:0 takes a "
            "free port.",
        ) from None
    return bound


def url_of(bound: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine reaches the socket."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


class Server(uvicorn.Server):
    """uvicorn without its handling of signals and processes: the service has its own."""

    def __init__(self, app: Starlette, on_started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=CLOSE_S,
            )
        )
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections, then say so."""
        await super().startup(sockets)
        self._on_started()
