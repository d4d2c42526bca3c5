"""Client of the service on this device, for the device's own commands."""

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
    """No edgepack service responds at an address."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Address of the service, and the credentials for it.

    Attributes:
        host: name or address; the loopback address if the service listens on all addresses.
        port: TCP port.
        certificate: the service's certificate; None for plain HTTP.
        headers: headers to send with each request; may contain the API key.
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
        """Create a connection, which is not yet open.

        Raises:
            ServiceError: the certificate cannot be read.
        """
        if self.certificate is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        # Only the service's own certificate is trusted, regardless of its issuer and its name:
        # these commands know the service by its configuration.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(self.certificate)
        except OSError as error:
            raise ServiceError(
                f"cannot read the certificate {self.certificate}: {error.strerror or error}",
                hint="Set tls_certificate to the service's certificate, which is not secret.",
            ) from None
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s, context=context)

    def get(self, path: str, kind: type[T], timeout_s: float) -> T:
        """Request and decode the JSON at a path.

        Args:
            path: path of the URL.
            kind: type to decode the JSON to.
            timeout_s: timeout of each network operation, seconds.

        Raises:
            NoServiceError: nothing responds, or something other than the service.
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
                    f"the service on {self.url} responds with status {response.status}",
                    hint="See its log, or set another address with --listen.",
                )
            return msgspec.json.decode(body, type=kind)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise NoServiceError(
                f"no edgepack service answers on {self.url}: {error}",
                hint="Start it with edgepack-runtime serve, or set its address with --listen.",
            ) from None

    def unauthorized(self) -> ServiceError:
        """Return the error for a response with status 401."""
        return ServiceError(
            f"the service on {self.url} requires an API key",
            hint="Pass the file that contains yours with --api-key-file.",
        )


def endpoint(config: RuntimeConfig, api_key_file: Path | None) -> Endpoint:
    """Return the endpoint of the service with this configuration.

    Args:
        config: configuration of the service.
        api_key_file: file with the API key to use; None for no key.

    Raises:
        ServiceError: the address or the file is invalid.
    """
    host, port = host_and_port(config.listen)
    if port == 0:
        raise ServiceError(
            f"the service picks any free port ({config.listen})",
            hint="Set --listen to the address that it printed.",
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
            f"cannot read {file}: {error.strerror or error}", hint="Pass a file you can read."
        ) from None
    except UnicodeDecodeError:
        key = ""
    if not key or not key.isprintable() or " " in key:
        raise ServiceError(
            f"{file} does not contain an API key",
            hint="It must contain what edgepack-runtime api-key new printed: one line, "
            "sk-edgepack-...",
        )
    return key
