"""References to a bundle in a registry: `oci://HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST]`."""

import ipaddress
import re
from dataclasses import dataclass

from device_runtime.errors import RegistryError

PREFIX = "oci://"
MAX_LENGTH = 1024

HINT = "Write it as oci://HOST[:PORT]/REPOSITORY:TAG or oci://HOST[:PORT]/REPOSITORY@sha256:DIGEST"

# The grammar of names and tags is in "Pulling manifests" of the OCI distribution specification 1.1;
# a repository and its registry together have at most 255 characters, as in most clients.
_NAME = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_NAME}(?:/{_NAME})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A place in a registry.

    Attributes:
        host: DNS name or IP address, without the brackets of an IPv6 address.
        port: port; None for the one of the protocol.
        repository: name of the repository.
        tag: tag of the bundle; None if only the digest is given.
        digest: `sha256:` and the digest of the OCI manifest; None for whatever the tag points to.
    """

    host: str
    port: int | None
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def registry(self) -> str:
        """Host and port as they are written in a URL, and in the configuration of Docker."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    def at(self, digest: str) -> str:
        """Return the reference to an OCI manifest of this repository by its digest, as text."""
        return f"{PREFIX}{self.registry}/{self.repository}@{digest}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{PREFIX}{self.registry}/{self.repository}{tag}{digest}"


def is_reference(text: str) -> bool:
    """Return whether a text is meant as a reference rather than as a path."""
    return text.lower().startswith(PREFIX)


def parse(text: str) -> Reference:
    """Read a reference.

    Raises:
        RegistryError: it is not valid.
    """
    if not is_reference(text) or len(text) > MAX_LENGTH or not text.isprintable():
        raise RegistryError("this is not a reference to a bundle in a registry", hint=HINT)
    authority, _, rest = text[len(PREFIX) :].partition("/")
    if "@" in authority:
        raise RegistryError("a reference has no user name or password in it", hint=HINT)
    host, port = _authority(authority, text)
    rest, at, digest = rest.partition("@")
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    repository = f"{head}{slash}{last}"
    if not _REPOSITORY.fullmatch(repository) or len(authority) + len(repository) > 254:
        raise RegistryError(f"{text}: {repository!r} is not the name of a repository", hint=HINT)
    if colon and not _TAG.fullmatch(tag):
        raise RegistryError(f"{text}: {tag!r} is not a tag", hint=HINT)
    if at and not DIGEST.fullmatch(digest):
        raise RegistryError(f"{text}: {digest!r} is not a sha256 digest", hint=HINT)
    if not colon and not at:
        raise RegistryError(f"{text} has neither a tag nor a digest", hint=HINT)
    return Reference(
        host=host, port=port, repository=repository, tag=tag or None, digest=digest or None
    )


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is always this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _authority(authority: str, text: str) -> tuple[str, int | None]:
    if authority.startswith("["):
        host, bracket, rest = authority[1:].partition("]")
        try:
            valid = bool(bracket) and ipaddress.IPv6Address(host).scope_id is None
        except ValueError:
            valid = False
        colon, port = rest[:1], rest[1:]
        valid = valid and colon in ("", ":")
    else:
        host, colon, port = authority.partition(":")
        valid = _HOST.fullmatch(host) is not None and len(host) <= 253
    if not valid:
        raise RegistryError(f"{text}: {authority!r} is not a host", hint=HINT)
    if not colon:
        return host, None
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        raise RegistryError(f"{text}: {port!r} is not a port", hint=HINT)
    return host, int(port)
