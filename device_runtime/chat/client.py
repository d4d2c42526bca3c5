"""How this device's own commands reach the service that runs here."""

import http.client
import ipaddress
import ssl
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import msgspec

from device_runtime.config.address import host_and_port
from device_runtime.config.options import RuntimeConfig
from device_runtime.errors import ServiceError

MAX_KEY_FILE_BYTES = 4096

T = TypeVar("T")


class NoServiceError(ServiceError):
    """No edgepack service answers at an address as one does."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where the service is, and what opens it.

    Attributes:
        host: name or address; of this machine, where the service listens on all addresses.
        port: of TCP.
        certificate: the service's certificate; None for plain HTTP.
        headers: to send with each request; may hold the API key.
    """

    host: str
    port: int
    certificate: Path | None
    headers: dict[str, str]

    @property
    def url(self) -> str:
        """The service's URL, without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.certificate else 'http'}://{host}:{self.port}"

    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        """A connection, not yet open.

        Raises:
            ServiceError: the certificate cannot be read.
        """
        if self.certificate is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        # Exactly the certificate that the service was given is trusted, whoever signed it and
        # whatever name it is for: these commands know the service by its configuration.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(self.certificate)
        except OSError as error:
            raise ServiceError(
                f"cannot read the certificate {self.certificate}: {error.strerror or error}",
                hint="Give the service's certificate, which is not secret, with tls_certificate.",
            ) from None
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s, context=context)

    def get(self, path: str, kind: type[T], timeout_s: float) -> T:
        """Request what the service has at a path.

        Args:
            path: of the URL.
            kind: what its JSON is read as.
            timeout_s: longest silence, seconds.

        Raises:
            NoServiceError: nothing answers there, or something else does.
            ServiceError: the service requires an API key, or the certificate cannot be read.
        """
        try:
            with closing(self.connect(timeout_s)) as connection:
                connection.request("GET", path, headers=self.headers)
                response = connection.getresponse()
                body = response.read()
            if response.status == HTTPStatus.UNAUTHORIZED:
                raise self.unauthorized()
            if response.status != HTTPStatus.OK:
                raise NoServiceError(
                    f"the service on {self.url} answers with status {response.status}",
                    hint="See its log, or give another address with --listen.",
                )
            return msgspec.json.decode(body, type=kind)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise NoServiceError(
                f"no edgepack service answers on {self.url}: {error}",
                hint="Start it with edgepack-runtime serve, or give its address with --listen.",
            ) from None

    def unauthorized(self) -> ServiceError:
        """The error for an answer with status 401."""
        return ServiceError(
            f"the service on {self.url} requires an API key",
            hint="Give the file that holds yours with --api-key-file.",
        )


def endpoint(config: RuntimeConfig, api_key_file: Path | None) -> Endpoint:
    """Where the service with this configuration is.

    Args:
        config: the service's.
        api_key_file: holds the key to use; None for no key.

    Raises:
        ServiceError: the address or the file is of no use.
    """
    host, port = host_and_port(config.listen)
    if port == 0:
        raise ServiceError(
            f"the service takes any free port ({config.listen})",
            hint="Give the address it printed with --listen.",
        )
    try:
        if (address := ipaddress.ip_address(host)).is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    except ValueError:
        pass
    headers = {}
    if api_key_file is not None:
        headers["Authorization"] = f"Bearer {_key(api_key_file)}"
    return Endpoint(host=host, port=port, certificate=config.tls_certificate, headers=headers)


def _key(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            key = opened.read(MAX_KEY_FILE_BYTES).decode("ascii").strip()
    except OSError as error:
        raise ServiceError(
            f"cannot read {file}: {error.strerror or error}", hint="Give a file you may read."
        ) from None
    except UnicodeDecodeError:
        key = ""
    if not key or not key.isprintable() or " " in key:
        raise ServiceError(
            f"{file} holds no API key",
            hint="It is what edgepack-runtime api-key new printed: one line, sk-edgepack-...",
        )
    return key
