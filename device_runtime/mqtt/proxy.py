"""A proxy on the way to the broker: CONNECT over HTTP (RFC 9110, 9.3.6) or SOCKS 5 (RFC 1928)."""

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from device_runtime.errors import ServiceError

_KINDS = {"http": "HTTP", "socks5": "SOCKS5"}
"""PySocks' names of the protocols, by the scheme of the URL."""
_HINT = "Use http://HOST:PORT or socks5://HOST:PORT; with a user, http://USER@HOST:PORT."


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """Address of a proxy, and the user that it knows this device by.

    Attributes:
        kind: protocol, as PySocks names it.
        host: name or address.
        port: TCP port.
        username: name of the user; None for none.
        password_file: file with the user's password; None for none.
    """

    kind: str
    host: str
    port: int
    username: str | None = None
    password_file: Path | None = None

    def options(self) -> dict[str, Any]:
        """Return what paho's `proxy_set` takes. The proxy looks up the broker's name.

        Raises:
            ServiceError: the file with the password cannot be read.
        """
        import socks

        return {
            "proxy_type": socks.PROXY_TYPES[self.kind],
            "proxy_addr": self.host,
            "proxy_port": self.port,
            "proxy_rdns": True,
            "proxy_username": self.username,
            "proxy_password": read_password(self.password_file),
        }


def proxy(url: str, password_file: Path | None = None) -> Proxy:
    """Parse `http://[user@]host:port` or `socks5://...`; read the file.

    Raises:
        ServiceError: the URL is invalid, or the file cannot be read.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ServiceError("the URL of the MQTT proxy is not valid", hint=_HINT) from None
    if parts.password is not None:
        raise ServiceError(
            "the URL of the MQTT proxy contains a password, which other users of the machine "
            "could read",
            hint="Put it into a file and pass --mqtt-proxy-password-file.",
        )
    beyond = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in _KINDS or not parts.hostname or not port or beyond:
        raise ServiceError(f"{url!r} is not the URL of a proxy", hint=_HINT)
    if password_file is not None and parts.username is None:
        raise ServiceError("a password requires a user name in the proxy's URL", hint=_HINT)
    read_password(password_file)
    return Proxy(
        kind=_KINDS[parts.scheme],
        host=parts.hostname,
        port=port,
        username=unquote(parts.username) if parts.username else None,
        password_file=password_file,
    )


def read_password(file: Path | None) -> str | None:
    """Read a password; None without a file.

    Raises:
        ServiceError: the file cannot be read.
    """
    if file is None:
        return None
    try:
        return file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceError(f"cannot read {file}: {error}", hint="Use a text file.") from None
