"""The file of API keys: who may ask this device.

One key a line: its name, `sha256:` and the digest of the key in hexadecimal, the day it was made:

    # anything, after a hash sign
    laptop sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef 2026-07-01

The keys themselves are nowhere: who has lost one makes a new one.
"""

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from device_runtime.durable import written_aside
from device_runtime.errors import ServiceError
from device_runtime.logs import event

log = logging.getLogger(__name__)

PREFIX = "sk-edgepack-"
"""Start of each key, for people and for scanners that look for secrets in source code."""
KEY_BYTES = 32
MAX_FILE_BYTES = 1 << 20

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LINE = re.compile(
    rf"(?P<name>{_NAME.pattern})\s+sha256:(?P<digest>[0-9a-f]{{64}})\s+(?P<made>\d{{4}}-\d\d-\d\d)"
)


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key, without itself.

    Attributes:
        name: whose it is.
        digest: of the key, SHA-256, hexadecimal.
        made: the day it was made, `2026-07-01`.
    """

    name: str
    digest: str
    made: str


def digest(key: str) -> str:
    """What the file holds of a key.

    A slow hash (scrypt, Argon2) makes up for passwords that people choose: they can be guessed.
    These keys are 256 random bits, which no speed of guessing finds, so a fast hash is as safe. It
    costs a slow board nothing on each request, and whoever sends wrong keys can burn nothing by it.
    """
    return hashlib.sha256(key.encode()).hexdigest()


def read(file: Path) -> dict[str, ApiKey]:
    """All keys of a file, by name.

    Raises:
        ServiceError: it cannot be read, or a line of it makes no sense.
    """
    return _parse(file, _text(file))


def create(file: Path, name: str) -> str:
    """Make a key and add it to the file, which need not be there yet.

    Returns:
        The key. Nothing else knows it.

    Raises:
        ServiceError: the name is taken or not valid, or the file cannot be read or written.
    """
    if not _NAME.fullmatch(name):
        raise ServiceError(
            f"{name!r} is no name for a key",
            hint="Use 1 to 64 letters, digits, '.', '_', '@' and '-'.",
        )
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    with _alone(file):
        text = _text(file) if file.exists() else ""
        if name in _parse(file, text):
            raise ServiceError(
                f"{file} has a key {name!r} already",
                hint=f"Take another name, or first: edgepack-runtime api-key revoke {name}",
            )
        if text and not text.endswith("\n"):
            text += "\n"
        _write(file, f"{text}{name} sha256:{digest(key)} {datetime.now(UTC):%Y-%m-%d}\n")
    return key


def revoke(file: Path, name: str) -> None:
    """Remove a key from the file.

    Raises:
        ServiceError: it is not there, or the file cannot be read or written.
    """
    with _alone(file):
        text = _text(file)
        found = _parse(file, text)
        if name not in found:
            raise ServiceError(
                f"{file} has no key {name!r}", hint=f"It has: {', '.join(found) or 'none'}."
            )
        kept = [line for line in text.splitlines() if line.split()[:1] != [name]]
        _write(file, "".join(f"{line}\n" for line in kept))


class KeyRing:
    """The keys of a file as they are now: the file is read again whenever it has changed.

    While it cannot be read, no key is valid.
    """

    def __init__(self, file: Path) -> None:
        """Read the file.

        Raises:
            ServiceError: it cannot be read.
        """
        self._file = file
        # Taken first: a change in between is then seen as one.
        self._seen = self._state()
        self._keys = read(file)
        if not self._keys:
            event(log, logging.WARNING, "no_api_keys", file=file, detail="all requests are refused")

    def name_of(self, key: str) -> str | None:
        """Whose key this is; None if nobody's."""
        self._refresh()
        given = digest(key)
        found = None
        # All of them are compared, each in constant time: how long it takes tells nothing.
        for known in self._keys.values():
            if hmac.compare_digest(known.digest, given):
                found = known.name
        return found

    def _refresh(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._keys = read(self._file)
        except ServiceError as error:
            self._keys = {}
            event(log, logging.ERROR, "api_keys_broken", detail=f"no key is valid now: {error}")
        else:
            event(log, logging.INFO, "api_keys_read", keys=len(self._keys))

    def _state(self) -> tuple[int, ...]:
        """Differs when the file does; empty while there is none."""
        try:
            found = self._file.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ServiceError(
            f"there is no file of API keys {file}",
            hint=f"Make a key: edgepack-runtime api-key new NAME --file {file}",
        ) from None
    except PermissionError:
        raise ServiceError(
            f"cannot read {file}: this user may not",
            hint=f"Give the file to the service's user, or chmod 644 {file}: it holds only digests "
            "of keys.",
        ) from None
    except OSError as error:
        raise ServiceError(
            f"cannot read {file}: {error.strerror or error}", hint="Name a file of API keys."
        ) from None
    try:
        if len(data) <= MAX_FILE_BYTES:
            return data.decode()
    except UnicodeDecodeError:
        pass
    raise ServiceError(f"{file} is no file of API keys", hint=_BROKEN)


def _parse(file: Path, text: str) -> dict[str, ApiKey]:
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        # The line itself is not shown: somebody may have put the key there.
        found = _LINE.fullmatch(stripped)
        if found is None:
            raise ServiceError(f"line {number} of {file} is no API key", hint=_BROKEN)
        key = ApiKey(**found.groupdict())
        if key.name in keys:
            raise ServiceError(f"{file} has two keys {key.name!r}", hint=_BROKEN)
        keys[key.name] = key
    return keys


_BROKEN = "Mend it, or make a new one: edgepack-runtime api-key new NAME --file FILE"


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """No two changes at once: one of them could bring back what the other revoked.

    The folder is locked, since the file itself is replaced.
    """
    try:
        handle = os.open(file.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unwritable(file, error) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(file: Path, text: str) -> None:
    """Replace the file in one step; a new one is for its owner only."""
    try:
        # Behind a link, the file is replaced and not the link.
        target = file.resolve()
        with written_aside(target, 0o600) as opened:
            opened.write(text.encode())
            if target.exists():
                # The service's user must still be able to read it.
                before = target.stat()
                os.fchmod(opened.fileno(), before.st_mode & 0o777)
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(opened.fileno(), before.st_uid, before.st_gid)
    except OSError as error:
        raise _unwritable(file, error) from None


def _unwritable(file: Path, error: OSError) -> ServiceError:
    return ServiceError(
        f"cannot write {file}: {error.strerror or error}",
        hint="Run this as a user who may, and name a file in a folder that exists.",
    )
