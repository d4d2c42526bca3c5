"""A client of one repository of an OCI registry (OCI distribution specification 1.1)."""

import re
from collections.abc import Callable, Collection, Mapping
from http.client import HTTPMessage
from typing import NoReturn, Self
from urllib.parse import urlencode, urljoin

import msgspec

from device_runtime.errors import RegistryError
from device_runtime.update.registry.credentials import Credentials
from device_runtime.update.registry.reference import Reference
from device_runtime.update.registry.transport import (
    Patience,
    Response,
    TransientError,
    Transport,
)

MAX_ERROR_BYTES = 64 << 10
MAX_TOKEN_BYTES = 64 << 10

_CHALLENGE = re.compile(r'([a-z_]{1,20})="([^"]{0,2000})"')
_TOKEN = re.compile(r"[\x21-\x7e]{1,32768}")


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""


class _Problem(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Problems(msgspec.Struct):
    errors: tuple[_Problem, ...] = ()


class Registry:
    """A repository; a context manager that closes its connections.

    Attributes:
        reference: the place that the user named.
    """

    def __init__(
        self,
        reference: Reference,
        transport: Transport,
        *,
        credentials: Credentials | None,
        note: Callable[[str], None],
    ) -> None:
        """Prepare the client; nothing is sent yet.

        Args:
            reference: place in the registry.
            transport: the connections.
            credentials: sent to the registry, and to the server of tokens that it names.
            note: called with a line for the user before each retry.
        """
        self.reference = reference
        self._transport = transport
        self._credentials = credentials
        self._authorization: str | None = None
        self._note = note
        self._base = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    def patience(self) -> Patience:
        """Create a bound on failures in a row."""
        return Patience(self._note)

    def request(
        self,
        method: str,
        path: str,
        *,
        expected: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Response:
        """Send a request once, with the credentials that the registry wants.

        Args:
            method: HTTP method.
            path: path below that of the repository, or a URL that the registry sent.
            expected: statuses that the caller handles.
            headers: header fields.
            body: body of the request.

        Raises:
            RegistryError: the registry refuses the request for good.
            TransientError: the connection failed, or the registry is too busy.
        """
        if not self._base:
            host, port = self.reference.host, self.reference.port
            scheme = self._transport.scheme(host, port)
            name = self.reference.repository
            self._base = f"{scheme}://{self.reference.registry}/v2/{name}/"
        url = urljoin(self._base, path)
        own = self._transport.origin(url) == self._transport.origin(self._base)
        for authenticated in (False, True):
            response = self._transport.send(
                method,
                url,
                headers or {},
                body=body,
                authorization=self._authorization if own else None,
            )
            if response.status in expected:
                return response
            with response:
                challenge = None
                if response.status == 401 and own and not authenticated:
                    challenge = self._challenge(response)
                if challenge is None:
                    self._refuse(response)
            self._authorize(*challenge)
        raise AssertionError("the second response is returned or refused")

    def insist(
        self,
        method: str,
        path: str,
        *,
        expected: Collection[int],
        limit: int = 0,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> tuple[int, HTTPMessage, bytes]:
        """Send a request that may be repeated, until it succeeds; bounded.

        Args:
            method: HTTP method.
            path: path below that of the repository, or a URL that the registry sent.
            expected: statuses that the caller handles.
            limit: maximum length of the response's body, bytes; 0 if the body does not matter.
            headers: header fields.
            body: body of the request.

        Returns:
            Status, header fields and body of the response.

        Raises:
            RegistryError: the registry refuses the request, or there were too many failures.
        """
        patience = self.patience()
        while True:
            try:
                with self.request(
                    method, path, expected=expected, headers=headers, body=body
                ) as response:
                    data = response.body(limit) if limit and response.status < 300 else b""
                    return response.status, response.headers, data
            except TransientError as error:
                patience.failed(error)

    def _challenge(self, response: Response) -> tuple[str, dict[str, str]] | None:
        """Return scheme and values of a challenge (RFC 9110) that can be met; None without one."""
        usable = {}
        for challenge in response.headers.get_all("WWW-Authenticate") or []:
            scheme, _, rest = challenge.partition(" ")
            usable[scheme.lower()] = dict(_CHALLENGE.findall(rest))
        if "realm" in usable.get("bearer", {}):
            return "bearer", usable["bearer"]
        if "basic" in usable and self._credentials is not None:
            return "basic", usable["basic"]
        return None

    def _authorize(self, scheme: str, challenge: Mapping[str, str]) -> None:
        """Meet a challenge from now on."""
        if scheme == "bearer":
            self._authorization = f"Bearer {self._token(challenge)}"
        elif self._credentials is not None:
            self._authorization = self._credentials.basic

    def _token(self, challenge: Mapping[str, str]) -> str:
        """Get a token from the server that the registry names.

        The source of the protocol is "Token Authentication Specification" of the documentation of
        CNCF Distribution.
        """
        query = {name: challenge[name] for name in ("service", "scope") if name in challenge}
        realm = challenge["realm"]
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        basic = self._credentials.basic if self._credentials is not None else None
        with self._transport.send("GET", url, {}, authorization=basic) as response:
            if response.status != 200:
                self._refuse(response)
            try:
                answer = msgspec.json.decode(response.body(MAX_TOKEN_BYTES), type=_Token)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                answer = _Token()
        token = answer.token or answer.access_token
        if not _TOKEN.fullmatch(token):
            raise RegistryError(
                f"{response.url_host} sent no token", hint="Check the address of the registry."
            )
        return token

    def _refuse(self, response: Response) -> NoReturn:
        """Raise the error that a response means."""
        status, host = response.status, response.url_host
        if status >= 500 or status in (408, 429):
            seconds = response.headers.get("Retry-After", "")
            short = seconds.isascii() and seconds.isdecimal() and len(seconds) < 8
            raise TransientError(
                f"{host} responded with status {status}",
                retry_after_s=float(seconds) if short else 0.0,
            )
        details = _details(response)
        if status == 401:
            used = "refuses the credentials" if self._credentials else "wants a login"
            raise RegistryError(f"{host} {used} for {self.reference}{details}", hint=LOGIN)
        if status == 403:
            raise RegistryError(f"{host} refuses access to {self.reference}{details}", hint=LOGIN)
        if status == 404:
            raise RegistryError(
                f"{self.reference} is not in the registry{details}",
                hint="Check the repository, the tag and the digest.",
            )
        raise RegistryError(
            f"{host} responded with status {status} for {self.reference}{details}",
            hint="Check the address; the registry's log has the reason.",
        )


LOGIN = (
    "Log in with docker login, or pass --username and --password-file; on a device, write "
    "/etc/edgepack/registry.json."
)


def _details(response: Response) -> str:
    """Return the registry's own words, if they are of the form that the specification gives."""
    try:
        problems = msgspec.json.decode(response.body(MAX_ERROR_BYTES), type=_Problems)
    except (
        *(msgspec.DecodeError, UnicodeDecodeError, RecursionError),
        *(RegistryError, TransientError),
    ):
        return ""
    text = "; ".join(problem.message or problem.code for problem in problems.errors[:3])
    return f": {text[:200]}" if text and text.isprintable() else ""
