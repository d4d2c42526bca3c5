"""The broker's address, and what is needed to connect to it.

Files with secrets are read again for each connection: a corrected one needs no restart.
"""

import ssl
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import msgspec

from device_runtime.config.options import RuntimeConfig
from device_runtime.errors import ServiceError
from device_runtime.mqtt.proxy import Proxy, proxy, read_password

PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
"""Schemes of URLs and their ports."""

_HINT = (
    "Use mqtt://HOST[:PORT], mqtts:// for TLS, ws:// or wss:// for websockets; with a user, "
    "mqtt://USER@HOST."
)


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    """Address of the broker, and what is needed to connect.

    Attributes:
        host: name or address.
        port: TCP port.
        tls: whether to connect over TLS.
        path: path of the websocket; empty for a plain connection.
        username: name of the user; None for none.
        password_file: file with the user's password; None for none.
        ca_file: certificates (PEM) that the broker's is checked against; None for the system's.
        certificate: certificate (PEM) that this device shows, with its private key unless there is
            `key`; None for none.
        key: private key (PEM) of the certificate.
        through: proxy on the way to it; None for none.
    """

    host: str
    port: int
    tls: bool = False
    path: str = ""
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    through: Proxy | None = None

    @property
    def transport(self) -> Literal["tcp", "websockets"]:
        """Name of the transport, as paho has it."""
        return "websockets" if self.path else "tcp"

    @property
    def url(self) -> str:
        """The URL without the user."""
        scheme = ("wss" if self.tls else "ws") if self.path else "mqtts" if self.tls else "mqtt"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}{self.path}"

    def password(self) -> str | None:
        """Read the password; None without one.

        Raises:
            ServiceError: the file cannot be read.
        """
        return read_password(self.password_file)

    def tls_context(self) -> ssl.SSLContext | None:
        """Return what TLS needs, read from the files; None without TLS.

        Raises:
            ServiceError: a file is missing or not what it must be.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except OSError as error:
            # ssl.SSLError is an OSError; it does not name the file.
            paths = (self.ca_file, self.certificate, self.key)
            files = ", ".join(str(path) for path in paths if path is not None)
            raise ServiceError(
                f"cannot use {files} for TLS: {error}",
                hint="Certificates and key must be PEM files, and the key that of the certificate.",
            ) from None
        return context


def of(config: RuntimeConfig) -> Broker | None:
    """Return the broker of a configuration; None without one.

    Raises:
        ServiceError: its URL is invalid, or a file cannot be used.
    """
    if config.mqtt is None:
        return None
    return broker(
        config.mqtt,
        password_file=config.mqtt_password_file,
        ca_file=config.mqtt_ca_file,
        certificate=config.mqtt_certificate,
        key=config.mqtt_key,
        proxy_url=config.mqtt_proxy,
        proxy_password_file=config.mqtt_proxy_password_file,
    )


def broker(
    url: str,
    *,
    password_file: Path | None = None,
    ca_file: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    proxy_url: str | None = None,
    proxy_password_file: Path | None = None,
) -> Broker:
    """Parse `mqtt[s]://[user@]host[:port]` or `ws[s]://[user@]host[:port][/path]`; read the files.

    Raises:
        ServiceError: the URL is invalid, or a file cannot be used.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ServiceError("the MQTT URL is not valid", hint=_HINT) from None
    if parts.password is not None:
        raise ServiceError(
            "the MQTT URL contains a password, which other users of the machine could read",
            hint="Put it into a file and pass --mqtt-password-file.",
        )
    websocket = parts.scheme in ("ws", "wss")
    path = (parts.path if parts.path not in ("", "/") else "/mqtt") if websocket else ""
    if (
        parts.scheme not in PORTS
        or not parts.hostname
        or (parts.path.strip("/") and not websocket)
        or parts.query
        or parts.fragment
    ):
        raise ServiceError(f"{url!r} is not an MQTT URL", hint=_HINT)
    if password_file is not None and parts.username is None:
        raise ServiceError("a password requires a user name in the MQTT URL", hint=_HINT)
    tls = parts.scheme in ("mqtts", "wss")
    if (ca_file or certificate or key) and not tls:
        raise ServiceError(
            "certificates require TLS", hint="Use a URL that begins with mqtts:// or wss://."
        )
    if key and not certificate:
        raise ServiceError(
            "a key requires the certificate that it belongs to", hint="Pass --mqtt-certificate."
        )
    if proxy_password_file and not proxy_url:
        raise ServiceError(
            "a password for a proxy requires the proxy's URL", hint="Pass --mqtt-proxy."
        )
    address = Broker(
        host=parts.hostname,
        port=port or PORTS[parts.scheme],
        tls=tls,
        path=path,
        username=unquote(parts.username) if parts.username else None,
        password_file=password_file,
        ca_file=ca_file,
        certificate=certificate,
        key=key,
        through=proxy(proxy_url, proxy_password_file) if proxy_url else None,
    )
    address.password()
    address.tls_context()
    return address


def _no_password() -> str:
    """Answer OpenSSL, which would ask on the terminal for the password of an encrypted key."""
    return ""
