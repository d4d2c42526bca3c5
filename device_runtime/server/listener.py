"""The address of the HTTP server, and uvicorn on it."""

import asyncio
import contextlib
import functools
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from device_runtime.config.address import host_and_port
from device_runtime.errors import ResourceError, ServiceError
from device_runtime.server.connection import MAX_HEAD_BYTES, Connection

CLOSE_S = 15
"""Seconds that connections may stay open after the server begins to stop. The service ends all
answers before that: only a client that does not read its answer meets this limit."""
SEND_BUFFER_BYTES = 32 << 10
"""The kernel's buffer for what a client has not read. Small, so that a client that does not read is
noticed soon: a token is about 200 bytes of the stream."""


def bind(listen: str) -> socket.socket:
    """Open a listening socket on `host:port`; port 0 picks a free port.

    Raises:
        ResourceError: the port is taken, or the machine does not have the address.
        ServiceError: the address is invalid.
    """
    host, port = host_and_port(listen)
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio turns Nagle's algorithm (40 ms per answer) off only if the protocol is named.
        bound = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Connections inherit it.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            bound.bind(address)
            bound.listen()
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        raise ResourceError(
            f"cannot listen on {listen}: {getattr(error, 'strerror', None) or error}",
            hint="Stop the program that uses it, or choose another address: --listen 127.0.0.1:0 "
            "picks a free port.",
        ) from None
    return bound


def url_of(bound: socket.socket, *, tls: bool = False) -> str:
    """Return the URL of a listening socket."""
    host, port = bound.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def is_loopback(bound: socket.socket) -> bool:
    """Return whether only this machine can reach the socket."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Load the context to serve HTTPS; None without a certificate.

    Args:
        certificate: certificate chain, PEM, the server's own certificate first.
        key: private key of the certificate, PEM.

    Raises:
        ServiceError: only one of the two is set, or they are invalid.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ServiceError(
            "TLS requires a certificate and its key; only one of them is set",
            hint="Set both --tls-certificate and --tls-key, or neither.",
        )
    _expect_pem(certificate, b"CERTIFICATE-----", "certificate")
    _expect_pem(key, b"PRIVATE KEY-----", "private key")

    def no_password() -> str:
        raise ServiceError(
            f"the private key {key} is encrypted; the service cannot prompt for its password",
            hint=f"Decrypt it: openssl pkey -in {key} -out FILE; then chmod 600 FILE",
        )

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ServiceError(
                f"the key {key} does not belong to the certificate {certificate}",
                hint="The server's own certificate must be the first in its file.",
            ) from None
        raise ServiceError(
            f"{certificate} and {key} cannot be used for TLS: {error.reason or error}",
            hint="Use complete, unmodified PEM files, as openssl writes them.",
        ) from None
    return context


def _expect_pem(file: Path, mark: bytes, content: str) -> None:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ServiceError(
            f"cannot read the {content} {file}: {error.strerror or error}",
            hint="Use a file that the service's user can read.",
        ) from None
    if mark not in data:
        raise ServiceError(
            f"{file} does not contain a {content} in PEM format", hint="Are the two swapped?"
        )


class Server(uvicorn.Server):
    """uvicorn's server without its handling of signals and processes: the service has its own."""

    def __init__(
        self,
        app: ASGIApp,
        on_started: Callable[[], None],
        *,
        max_connections: int,
        client_timeout_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
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
                proxy_headers=False,
                headers=[("X-Content-Type-Options", "nosniff")],
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                timeout_graceful_shutdown=CLOSE_S,
            )
        )
        self._on_started = on_started
        self._tls = tls
        self._connection = functools.partial(
            Connection,
            self.config,
            self.server_state,
            max_connections=max_connections,
            client_timeout_s=client_timeout_s,
        )
        self._client_timeout_s = client_timeout_s

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers as they are."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections, then call `on_started`."""
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                self._connection,
                sock=bound,
                backlog=self.config.backlog,
                ssl=self._tls,
                ssl_handshake_timeout=self._client_timeout_s if self._tls else None,
            )
            for bound in sockets or []
        ]
        self.started = True
        self._on_started()
