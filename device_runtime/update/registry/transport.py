"""HTTP for the registry client: TLS, proxies, redirects, and errors that may pass."""

import http.client
import os
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from device_runtime.errors import RegistryError
from device_runtime.update.registry.reference import is_loopback

TIMEOUT_S = 30.0
MAX_REDIRECTS = 5
MAX_URL = 8192
PIECE = 1 << 16
"""Bytes to read or send at once. What is lost with a connection may be as much."""
MAX_PAUSE_S = 30.0
MAX_RETRY_AFTER_S = 300.0
RETRIES = 6
"""Failures in a row after which a request is given up: about half a minute."""

REDIRECTS = (301, 302, 303, 307, 308)

# A frozen OpenSSL looks for the system's certificates where they were on the machine that built it.
SYSTEM_CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

Origin = tuple[str, str, int]
"""Scheme, host and port."""


class TransientError(Exception):
    """A failure that may pass: of the connection, or reported by a server that is too busy.

    Attributes:
        retry_after_s: seconds until the server wants the next request; 0 if it said nothing.
    """

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Patience:
    """A bound on failures in a row, with a growing pause after each."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._failures = 0

    def failed(self, error: TransientError) -> None:
        """Wait before the next try.

        Raises:
            RegistryError: there were too many failures, or the server asks for a pause that is too
                long.
        """
        self._failures += 1
        if self._failures > RETRIES or error.retry_after_s > MAX_RETRY_AFTER_S:
            raise RegistryError(
                f"{error}; given up after {self._failures} failures in a row",
                hint="Run the same command again later: it resumes.",
            )
        pause_s = max(min(0.5 * 2 ** (self._failures - 1), MAX_PAUSE_S), error.retry_after_s)
        self._note(f"{error}; next try in {pause_s:g} s")
        time.sleep(pause_s)

    def progressed(self) -> None:
        """Forget the failures so far."""
        self._failures = 0


class Response:
    """The response to a request, its body not read yet; a context manager.

    Attributes:
        status: HTTP status.
        url: URL that responded, after redirects.
        headers: header fields.
    """

    def __init__(self, connection: http.client.HTTPConnection, url: str) -> None:
        self._connection = connection
        self._response = connection.getresponse()
        self.url = url
        self.status = self._response.status
        self.headers = self._response.headers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A connection with an unread body, or one that was lost, cannot be used again.
        if not self._response.isclosed() or self._response.length:
            self._response.close()
            self._connection.close()

    def chunks(self) -> Iterator[bytes]:
        """Read the body; it may end early without an error.

        Raises:
            TransientError: the connection failed.
        """
        try:
            while chunk := self._response.read(PIECE):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise TransientError(f"the connection to {self.url_host} was lost: {error}") from None

    def body(self, limit: int) -> bytes:
        """Read a small body.

        Raises:
            RegistryError: it has more bytes than the limit.
            TransientError: the connection failed.
        """
        data = bytearray()
        for chunk in self.chunks():
            data += chunk
            if len(data) > limit:
                raise RegistryError(
                    f"{self.url_host} sent more than {limit} bytes where they are not expected",
                    hint="Check the address: this may not be a registry.",
                )
        if self._response.length:
            raise TransientError(f"the connection to {self.url_host} was lost")
        return bytes(data)

    @property
    def url_host(self) -> str:
        """Host that responded, for messages: a whole URL may have a signature in it."""
        return urlsplit(self.url).netloc


class Transport:
    """Open connections to servers, one for each.

    Attributes:
        plain: hosts with which plain HTTP is allowed, besides this machine itself.
    """

    def __init__(self, *, ca_file: Path | None = None, plain: frozenset[str] = frozenset()) -> None:
        """Read the certificates.

        Args:
            ca_file: certificates to trust besides the system's, PEM.
            plain: hosts with which plain HTTP is allowed.

        Raises:
            RegistryError: the file has no certificates.
        """
        self.plain = plain
        self._tls = _tls(ca_file)
        self._connections: dict[Origin, http.client.HTTPConnection] = {}

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.close()

    def scheme(self, host: str, port: int | None) -> str:
        """Return the protocol of a registry: HTTPS, but on this machine whatever is spoken there.

        Raises:
            TransientError: the registry on this machine cannot be reached.
        """
        if host in self.plain:
            return "http"
        if not is_loopback(host):
            return "https"
        probe = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        probe.check_hostname = False
        probe.verify_mode = ssl.CERT_NONE
        try:
            with socket.create_connection((host, port or 443), TIMEOUT_S) as connection:
                try:
                    probe.wrap_socket(connection).close()
                except (ssl.SSLError, ConnectionError):
                    return "http"
        except OSError as error:
            raise TransientError(f"{host} cannot be reached: {error}") from None
        return "https"

    def origin(self, url: str) -> Origin:
        """Split a URL, and check that it may be requested.

        Raises:
            RegistryError: it is not valid, or of plain HTTP with another machine.
        """
        try:
            parts = urlsplit(url)
            scheme, host = parts.scheme, parts.hostname or ""
            port = parts.port or {"https": 443, "http": 80}[scheme]
        except (ValueError, KeyError):
            host = ""
        plain_text = url.isascii() and url.isprintable() and " " not in url
        if not host or len(url) > MAX_URL or not plain_text:
            raise RegistryError("the registry sent an invalid URL", hint="Check its address.")
        if scheme == "http" and not is_loopback(host) and host not in self.plain:
            raise RegistryError(
                f"{host} would be reached over plain HTTP, without encryption",
                hint="Use a registry with HTTPS; --plain-http allows it in a network you trust.",
            )
        return scheme, host, port

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        authorization: str | None = None,
    ) -> Response:
        """Send a request, and follow redirects of GET and HEAD.

        Args:
            method: HTTP method.
            url: absolute URL.
            headers: header fields.
            body: body of the request.
            authorization: credentials; only sent to the host of `url`, never to that of a redirect.

        Raises:
            RegistryError: the request cannot succeed: an invalid URL or certificate.
            TransientError: the connection failed.
        """
        first = self.origin(url)
        origin = first
        for _ in range(MAX_REDIRECTS):
            fields = dict(headers)
            if authorization is not None and origin == first:
                fields["Authorization"] = authorization
            response = self._exchange(origin, method, url, fields, body)
            location = response.headers.get("Location")
            if (
                response.status not in REDIRECTS
                or method not in ("GET", "HEAD")
                or location is None
            ):
                return response
            with response:
                url = urljoin(url, location)
                if origin[0] == "https" and not url.startswith("https:"):
                    raise RegistryError(
                        f"{response.url_host} redirects from HTTPS to plain HTTP",
                        hint="Report it to the operator of the registry.",
                    )
            origin = self.origin(url)
        raise RegistryError(
            f"{first[1]} redirects in a circle", hint="Report it to the operator of the registry."
        )

    def _exchange(
        self,
        origin: Origin,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> Response:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = self._connections.get(origin)
        proxy = _proxy(origin)
        if connection is None:
            connection = self._connections[origin] = self._connect(origin, proxy)
        if proxy is not None and origin[0] == "http":
            target = url
            headers = {**headers, **_proxy_authorization(proxy)}
        try:
            try:
                # In pieces: the timeout holds for each piece that is sent.
                connection.request(method, target, BytesIO(body) if body else body, dict(headers))
            except (BrokenPipeError, ConnectionResetError):
                # A server that refuses a body may respond, and close, before it has read it.
                if connection.sock is None:
                    raise
            self._on_sent(connection)
            return Response(connection, url)
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise RegistryError(
                f"the certificate of {origin[1]} is not valid: {error.verify_message}",
                hint="Pass the certificate of its authority with --ca-file, if you trust it.",
            ) from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            connection.close()
            unknown = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
            if unknown or isinstance(error, UnicodeError):
                raise RegistryError(
                    f"no such host: {origin[1]}", hint="Check the address and the network."
                ) from None
            reason = str(error) or type(error).__name__
            raise TransientError(f"{origin[1]} cannot be reached: {reason}") from None

    def _on_sent(self, connection: http.client.HTTPConnection) -> None:
        """Note the connection of a request; it gives its socket away to a last response."""

    def _connect(self, origin: Origin, proxy: str | None) -> http.client.HTTPConnection:
        scheme, host, port = origin
        reached, at = (host, port) if proxy is None else _proxy_address(proxy)
        if scheme == "http":
            return http.client.HTTPConnection(reached, at, timeout=TIMEOUT_S, blocksize=PIECE)
        connection = http.client.HTTPSConnection(
            reached, at, timeout=TIMEOUT_S, blocksize=PIECE, context=self._tls
        )
        if proxy is not None:
            connection.set_tunnel(host, port, _proxy_authorization(proxy))
        return connection


def basic(username: str, password: str) -> str:
    """Return the value of an Authorization field (RFC 7617)."""
    return "Basic " + b64encode(f"{username}:{password}".encode()).decode()


def _proxy(origin: Origin) -> str | None:
    """Return the URL of the proxy from the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)."""
    scheme, host, port = origin
    if is_loopback(host) or proxy_bypass(f"{host}:{port}"):
        return None
    return getproxies().get(scheme)


def _proxy_address(proxy: str) -> tuple[str, int]:
    try:
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
        if parts.scheme == "http" and parts.hostname:
            return parts.hostname, parts.port or 80
    except ValueError:
        pass
    raise RegistryError(
        "the proxy is not an http:// URL",
        hint="Set HTTPS_PROXY to http://HOST:PORT, or exempt the registry in NO_PROXY.",
    )


def _proxy_authorization(proxy: str) -> dict[str, str]:
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    credentials = basic(unquote(parts.username), unquote(parts.password or ""))
    return {"Proxy-Authorization": credentials}


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if "SSL_CERT_FILE" not in os.environ:
        system = next((path for path in SYSTEM_CERTIFICATES if Path(path).is_file()), None)
        if system is not None:
            context.load_verify_locations(system)
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise RegistryError(
                f"{ca_file} has no certificates: {error.strerror or error}",
                hint="Pass a file with certificates in PEM form.",
            ) from None
    return context
