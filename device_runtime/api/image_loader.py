"""Loads the images that requests refer to: from the hosts and folders that are allowed, no others.

Nothing that a request says is sent or opened before it is checked.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from device_runtime.api.images import (
    MAX_IMAGE_BYTES,
    LinkedImage,
    invalid_image,
    too_large,
    with_images,
)
from device_runtime.api.requests import ParsedRequest
from device_runtime.errors import RegistryError
from device_runtime.inference.engine import Image
from device_runtime.update.registry.transport import (
    MAX_URL,
    Origin,
    TransientError,
    Transport,
)

LOAD_S = 20.0
"""Time that loading an image may take, redirects included, seconds."""
PARALLEL = 4
"""Images that are loaded at the same time, of all requests: each may take `MAX_IMAGE_BYTES`."""

_PORTS = {"http": 80, "https": 443}

P = TypeVar("P", bound=ParsedRequest)
T = TypeVar("T")


class ImageLoader:
    """Loads images.

    Args:
        hosts: `HOST` or `HOST:PORT` of the URLs that may be loaded; without a port, only the
            scheme's own.
        folders: folders whose files may be loaded.
        max_bytes: maximum size of all images of a request together.
    """

    def __init__(
        self,
        hosts: Sequence[str] = (),
        folders: Sequence[str] = (),
        max_bytes: int = MAX_IMAGE_BYTES,
    ) -> None:
        self._hosts = frozenset(hosts)
        self._folders = tuple(folders)
        self._max_bytes = max_bytes
        self._slots = asyncio.Semaphore(PARALLEL)

    async def load(self, parsed: P) -> P:
        """Load the images of a request that are not loaded yet.

        Raises:
            ApiError: an image is not allowed, cannot be loaded, or is too large.
        """
        prompt = parsed.generation.prompt
        if not parsed.links or isinstance(prompt, str):
            return parsed
        loaded = {}
        left = self._max_bytes
        for link in parsed.links:
            async with self._slots:
                data = await self._data(link)
            left -= len(data)
            if left < 0:
                raise invalid_image(
                    link.place, "is too large together with those before it", "image_too_large"
                )
            loaded[link.number] = Image(data)
        generation = msgspec.structs.replace(parsed.generation, prompt=with_images(prompt, loaded))
        return msgspec.structs.replace(parsed, generation=generation, links=())

    async def _data(self, link: LinkedImage) -> bytes:
        scheme, _, rest = link.link.partition(":")
        if link.link.startswith("/"):
            return await _in_time(lambda: self._from_file(link.link, link.place), link.place)
        if scheme.lower() in _PORTS:
            return await self._from_host(link)
        if scheme.lower() == "file" and rest.startswith("///"):
            path = unquote(rest.removeprefix("//"))
            return await _in_time(lambda: self._from_file(path, link.place), link.place)
        raise invalid_image(
            link.place,
            "must be a data URL with base64, a URL of http or https, or an absolute path",
            "invalid_image_url",
        )

    async def _from_host(self, link: LinkedImage) -> bytes:
        # In a thread: reading all authorities' certificates takes a while.
        transport = await asyncio.to_thread(_AllowedHosts, self._hosts)
        try:
            with closing(transport):
                return await _in_time(
                    lambda: _fetched(transport, link.link), link.place, transport.abort
                )
        except _NotAllowedError as error:
            raise invalid_image(
                link.place,
                f"is not allowed: this device does not load images of {error}; send the image "
                "itself as a data URL, or add the host to image_hosts",
                "image_url_not_allowed",
            ) from None
        except (RegistryError, TransientError) as error:
            raise invalid_image(
                link.place, f"cannot be loaded: {error}", "invalid_image_url"
            ) from None

    def _from_file(self, path: str, place: str) -> bytes:
        try:
            real = os.path.realpath(path)
            if not any(map(Path(real).is_relative_to, map(os.path.realpath, self._folders))):
                raise invalid_image(
                    place,
                    "is not allowed: this device does not load images of that folder; send the "
                    "image itself as a data URL, or add the folder to image_folders",
                    "image_url_not_allowed",
                )
            # A pipe must not block, and no link may take the place of a file after the check.
            with open(real, "rb", opener=_open_exactly) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise invalid_image(place, "is not a file", "invalid_image_url")
                data = file.read(MAX_IMAGE_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not a path"
            raise invalid_image(place, f"cannot be read: {reason}", "invalid_image_url") from None
        if len(data) > MAX_IMAGE_BYTES:
            raise too_large(place)
        return data


class _NotAllowedError(Exception):
    """A host is not among those allowed; the message is its name."""


class _AllowedHosts(Transport):
    """A transport for some hosts alone, also after redirects."""

    def __init__(self, hosts: frozenset[str]) -> None:
        super().__init__()
        self._hosts = hosts
        self._sockets: list[socket.socket] = []

    def origin(self, url: str) -> Origin:
        """Split a URL, and check that it may be requested: over HTTP, too, unlike a registry's.

        Raises:
            RegistryError: it is not valid.
            _NotAllowedError: its host is not allowed.
        """
        try:
            parts = urlsplit(url)
            host, scheme = parts.hostname or "", parts.scheme
            port = parts.port or _PORTS[scheme]
        except (ValueError, KeyError):
            host = ""
        plain_text = url.isascii() and url.isprintable() and " " not in url
        if not host or "@" in parts.netloc or len(url) > MAX_URL or not plain_text:
            raise RegistryError("the URL is not valid")
        shown = f"[{host}]" if ":" in host else host
        names = {f"{shown}:{port}"} | ({shown} if port == _PORTS[scheme] else set())
        if not names & self._hosts:
            raise _NotAllowedError(f"{shown}:{port}")
        return scheme, host, port

    def abort(self) -> None:
        """End what another thread waits for."""
        connecting = [connection.sock for connection in list(self._connections.values())]
        for used in (*connecting, *self._sockets):
            if used is not None:
                with suppress(OSError):
                    # As a plain socket: TLS would first say goodbye to the host.
                    socket.socket.shutdown(used, socket.SHUT_RDWR)

    def _on_sent(self, connection: HTTPConnection) -> None:
        self._sockets.append(connection.sock)


def _fetched(transport: Transport, url: str) -> bytes:
    with transport.send("GET", url, {"Accept": "image/*"}) as response:
        if response.status != HTTPStatus.OK:
            raise TransientError(f"{response.url_host} responds with status {response.status}")
        return response.body(MAX_IMAGE_BYTES)


def _open_exactly(path: str, flags: int) -> int:
    """Open a path that has no links in it.

    Raises:
        OSError: it has one now.
    """
    number = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    if str(Path(f"/proc/self/fd/{number}").readlink()) != path:
        os.close(number)
        raise PermissionError(1, "it was moved")
    return number


async def _in_time(
    work: Callable[[], T], place: str, abort: Callable[[], None] = lambda: None
) -> T:
    """Do work in a thread.

    Args:
        work: the work.
        place: path of the image's field, for errors.
        abort: makes the thread's work end soon.

    Raises:
        ApiError: it takes too long.
    """
    try:
        return await asyncio.wait_for(asyncio.to_thread(work), LOAD_S)
    except TimeoutError:
        raise invalid_image(
            place, f"cannot be loaded within {LOAD_S:g} s", "invalid_image_url"
        ) from None
    finally:
        abort()
