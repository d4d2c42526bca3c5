"""Access control of the HTTP API: API keys, and origins of web pages.

With API keys, a request must have one. Without them, a server on loopback is still open to the web
pages that its user visits; but those cannot choose the Host header, and cannot hide their origin.
"""

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from device_runtime.api.errors import ApiError
from device_runtime.api.generation import IGNORED_HEADER
from device_runtime.api.outcomes import error_response
from device_runtime.server.access_log import REQUEST_IDS
from device_runtime.server.api_keys import KeyRing

FREE_GUESSES = 10
"""Wrong keys of an address that are refused at once."""
FORGET_S = 60.0
"""Time without a wrong key after which an address has its free ones again."""
LONGEST_DELAY_S = 5.0
MAX_ADDRESSES = 1000
"""Addresses that are remembered, the latest ones."""

ANTHROPIC_HEADER = "x-api-key"
"""Header in which Anthropic's clients send the key."""

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Paths that need no key: probes have none, and learn only that the service works."""


def protect(
    app: ASGIApp,
    *,
    keys: KeyRing | None,
    open_paths: Iterable[str],
    origins: tuple[str, ...],
    loopback: bool,
) -> ASGIApp:
    """Wrap an application in access control.

    Args:
        app: the application.
        keys: the accepted keys; None requires no key.
        open_paths: exact paths that need no key.
        origins: origins of other sites' web pages that may use the application.
        loopback: whether only this machine can reach the application.
    """
    if keys is not None:
        app = RequireKey(app, keys, frozenset(open_paths))
    if origins:
        # Outside of the keys: a browser's preflight request has no key.
        app = _Cors(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),  # OpenAI's client in browsers sends many of its own
            expose_headers=("Retry-After", *map(str.title, REQUEST_IDS), IGNORED_HEADER),
        )
    if keys is None:
        app = RefuseForeignPages(app, origins, loopback=loopback)
    return app


class _Cors(CORSMiddleware):
    """Cross-origin resource sharing, whose refusals are error objects as all others."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < HTTPStatus.BAD_REQUEST:
            return response
        origin = request_headers["origin"]
        reason = bytes(response.body).decode()
        error = ApiError(
            f"requests of web pages of {origin!r} are refused: {reason}",
            status=HTTPStatus.FORBIDDEN,
            code="forbidden_origin",
        )
        refusal = error_response(error, "")
        for name in ("Vary", "Access-Control-Allow-Origin"):
            if name in response.headers:
                refusal.headers[name] = response.headers[name]
        return refusal


class RequireKey:
    """Refuses requests without a valid key; sets `scope["state"]["key_name"]` for the others."""

    def __init__(self, app: ASGIApp, keys: KeyRing, open_paths: frozenset[str]) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = open_paths
        self._guesses = Guesses()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or respond with 401."""
        if scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        key = _key(Headers(scope=scope))
        if key is None:
            message = (
                "an API key is required: send one header, either Authorization: Bearer KEY or "
                "x-api-key: KEY"
            )
            await _refuse(scope, receive, send, message, 'Bearer realm="edgepack"')
            return
        name = self._keys.name_of(key)
        if name is None:
            await asyncio.sleep(self._guesses.delay_s(_address(scope), time.monotonic()))
            message = "this API key is not valid"
            await _refuse(
                scope, receive, send, message, 'Bearer realm="edgepack", error="invalid_token"'
            )
            return
        scope.setdefault("state", {})["key_name"] = name
        await self._app(scope, receive, send)


def _key(headers: Headers) -> str | None:
    """Return the key of a request; None for none, or for several."""
    bearers, keys = headers.getlist("authorization"), headers.getlist(ANTHROPIC_HEADER)
    # With two headers, a proxy on the way may have checked the other one.
    if len(bearers) + len(keys) != 1:
        return None
    if keys:
        return keys[0].strip()
    scheme, _, key = bearers[0].partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


class Guesses:
    """Wrong keys by address: many of them are answered ever more slowly, right ones never."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def delay_s(self, address: str, now: float) -> float:
        """Note a wrong key; return how long to wait before it is refused, seconds.

        Args:
            address: address of the client.
            now: time of a clock that never jumps, seconds.
        """
        count, last = self._seen.pop(address, (0, now))
        count = count + 1 if now < last + FORGET_S else 1
        self._seen[address] = count, now
        if len(self._seen) > MAX_ADDRESSES:
            self._seen.popitem(last=False)
        return min(max(count - FREE_GUESSES, 0) * 0.1, LONGEST_DELAY_S)


class RefuseForeignPages:
    """Refuses web pages of other sites, for a server without keys."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...], *, loopback: bool) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or respond with 403."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._loopback and not _is_this_machine(host):
            # DNS rebinding: a page's own name resolves to 127.0.0.1, so that the browser takes
            # this server for the page's own. It still sends that name.
            await _forbid(scope, receive, send, f"requests for the host {host!r} are refused")
        elif origin is not None and origin not in self._origins and not _same(origin, host):
            message = f"web pages of {origin!r} may not use this server (cors_origins lists others)"
            await _forbid(scope, receive, send, message)
        else:
            await self._app(scope, receive, send)


def _address(scope: Scope) -> str:
    """Return the client's address; of IPv6 the network, since each client has many of it."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _is_this_machine(host: str) -> bool:
    """Return whether a Host header names this machine; every browser sends one."""
    if not host:
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _same(origin: str, host: str) -> bool:
    """Return whether a page came from this server; a proxy may have changed the scheme."""
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


async def _refuse(scope: Scope, receive: Receive, send: Send, message: str, challenge: str) -> None:
    error = ApiError(message, status=HTTPStatus.UNAUTHORIZED, code="invalid_api_key")
    headers = {"WWW-Authenticate": challenge}
    await error_response(error, scope["path"], headers)(scope, receive, send)


async def _forbid(scope: Scope, receive: Receive, send: Send, message: str) -> None:
    error = ApiError(message, status=HTTPStatus.FORBIDDEN, code="forbidden_origin")
    await error_response(error, scope["path"])(scope, receive, send)
