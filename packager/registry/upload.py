"""Upload a blob to a registry in pieces; an interrupted upload is resumed, also by a later command.

The protocol is "Pushing a blob in chunks" of the OCI distribution specification 1.1. CNCF
Distribution (up to 2.8 at least) discards an upload whose connection is lost within a piece; there
the blob is sent again from its beginning.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from urllib.parse import urljoin

from device_runtime.bundle.release import OnBytes
from device_runtime.errors import RegistryError
from device_runtime.update.registry.client import Registry
from device_runtime.update.registry.transport import Response, TransientError
from packager import cache

PIECE = 16 << 20
"""Length of a piece, bytes. A piece that is lost is sent again; some registries limit a body."""
MAX_PIECE = 64 << 20

_RECEIVED = re.compile(r"(?:bytes=)?0-([0-9]{1,15})")

Content = Callable[[], Iterator[bytes]]
"""Reads a blob from its beginning."""


def exists(registry: Registry, digest: str) -> bool:
    """Return whether the repository has a blob.

    Raises:
        RegistryError: the registry refuses the request, or there were too many failures.
    """
    status, _, _ = registry.insist("HEAD", f"blobs/{digest}", expected=(200, 404))
    return status == 200


def upload(registry: Registry, digest: str, size: int, content: Content, on_bytes: OnBytes) -> None:
    """Upload a blob.

    Args:
        registry: the repository to upload to.
        digest: `sha256:` and the blob's digest.
        size: length of the blob, bytes.
        content: the blob.
        on_bytes: called with the size of each piece that the registry has; negative for a piece
            that it lost.

    Raises:
        RegistryError: the registry refuses the blob, or there were too many failures.
    """
    patience = registry.patience()
    session = _Session(registry, digest)
    reported = reached = 0
    while True:
        try:
            session.open(size)
            on_bytes(session.offset - reported)
            reported = session.offset
            rest = b""
            for piece in _pieces(content, session.offset, session.piece):
                if session.offset + len(piece) == size:
                    rest = piece
                    break
                session.send(piece)
                on_bytes(len(piece))
                reported += len(piece)
            session.finish(rest)
            on_bytes(len(rest))
            return
        except TransientError as error:
            if session.offset > reached:
                reached = session.offset
                patience.progressed()
            patience.failed(error)
            # The response to the last piece may be all that was lost.
            if exists(registry, digest):
                on_bytes(size - reported)
                return


class _Session:
    """An upload on the registry.

    Attributes:
        offset: number of bytes that the registry has.
        piece: length of the pieces to send, bytes.
    """

    def __init__(self, registry: Registry, digest: str) -> None:
        self.offset = 0
        self.piece = PIECE
        self._registry = registry
        self._digest = digest
        self._location = ""
        key = cache.key({"repository": str(registry.reference.at(digest))})
        self._memory = cache.root() / "uploads" / key

    def open(self, size: int) -> None:
        """Continue the upload that this or an earlier command began, or begin a new one."""
        with suppress(OSError, UnicodeDecodeError):
            self._location = self._memory.read_text()
        if self._location and self._resume(size):
            return
        self.offset = 0
        with self._registry.request("POST", "blobs/uploads/", expected=(202,)) as response:
            self._moved(response)
            shortest = response.headers.get("OCI-Chunk-Min-Length", "")
        if shortest.isascii() and shortest.isdecimal() and len(shortest) < 12:
            self.piece = min(max(PIECE, int(shortest)), MAX_PIECE)

    def _resume(self, size: int) -> bool:
        """Ask the registry what it has; False if it does not know the upload any more."""
        try:
            with self._registry.request("GET", self._location, expected=(204,)) as response:
                received = _RECEIVED.fullmatch(response.headers.get("Range", ""))
                self._moved(response)
        except RegistryError:
            received = None
        # A registry without a byte of it says 0-0, as one with a single byte does.
        end = int(received[1]) if received is not None else 0
        if not 0 < end < size:
            return False
        self.offset = end + 1
        return True

    def send(self, piece: bytes) -> None:
        """Send the next piece, but not the last one."""
        with self._registry.request(
            "PATCH", self._location, expected=(202, 416), headers=self._fields(piece), body=piece
        ) as response:
            if response.status == 416:
                raise TransientError(f"{response.url_host} has another part of the blob")
            self._moved(response)
        self.offset += len(piece)

    def finish(self, rest: bytes) -> None:
        """End the upload with its last piece, which is empty if the registry has it already."""
        url = f"{self._location}{'&' if '?' in self._location else '?'}digest={self._digest}"
        fields = self._fields(rest) if rest else {}
        with self._registry.request("PUT", url, expected=(201,), headers=fields, body=rest or None):
            self._memory.unlink(missing_ok=True)

    def _fields(self, piece: bytes) -> dict[str, str]:
        return {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(len(piece)),
            "Content-Range": f"{self.offset}-{self.offset + len(piece) - 1}",
        }

    def _moved(self, response: Response) -> None:
        """Remember the URL for the next request."""
        location = response.headers.get("Location")
        if location is None:
            raise RegistryError(
                f"{response.url_host} sent no place to upload to",
                hint="Check the address: this may not be a registry.",
            )
        self._location = urljoin(response.url, location)
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        # To those who know its URL, some registries give the upload without a login.
        self._memory.touch(0o600)
        self._memory.write_text(self._location)


def _pieces(content: Content, offset: int, size: int) -> Iterator[bytes]:
    """Read a blob from an offset in pieces of a size; the last one may be shorter."""
    buffer = bytearray()
    skip = offset
    for chunk in content():
        buffer += chunk[skip:]
        skip = max(0, skip - len(chunk))
        while len(buffer) >= size:
            yield bytes(buffer[:size])
            del buffer[:size]
    if buffer:
        yield bytes(buffer)
