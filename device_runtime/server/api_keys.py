"""The file of API keys, which decides who may use this device.

One key per line: its name, `sha256:` and the digest of the key in hexadecimal, and the day it was
created:

    # a comment
    laptop sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef 2026-07-01

The keys themselves are not stored: a lost key is replaced by a new one.
"""

import fcntl
import hmac
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from device_runtime.config.api_key import LINE, NAME, PREFIX, ApiKey, digest, entry
from device_runtime.durable import written_aside
from device_runtime.errors import ServiceError
from device_runtime.logs import event

log = logging.getLogger(__name__)

KEY_BYTES = 32
MAX_FILE_BYTES = 1 << 20


def read(file: Path) -> dict[str, ApiKey]:
    """Read all keys of a file, by name.

    Raises:
        ServiceError: the file cannot be read, or a line of it is invalid.
    """
    return _parse(file, _text(file))


def create(file: Path, name: str) -> str:
    """Create a key and add it to the file, which is created if it does not exist.

    Returns:
        The key, which is stored nowhere.

    Raises:
        ServiceError: the name is taken or invalid, or the file cannot be read or written.
    """
    if not NAME.fullmatch(name):
        raise ServiceError(
            f"{name!r} is not a valid key name",
            hint="Use 1 to 64 letters, digits, '.', '_', '@' and '-'.",
        )
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    with _locked(file):
        text = _text(file) if file.exists() else ""
        if name in _parse(file, text):
            raise ServiceError(
                f"{file} already has a key named {name!r}",
                hint=f"Use another name, or first run edgepack-runtime api-key revoke {name}",
            )
        if text and not text.endswith("\n"):
            text += "\n"
        _write(file, f"{text}{entry(name, key)}\n")
    return key


def revoke(file: Path, name: str) -> None:
    """Remove a key from the file.

    Raises:
        ServiceError: no such key exists, or the file cannot be read or written.
    """
    with _locked(file):
        text = _text(file)
        keys = _parse(file, text)
        if name not in keys:
            raise ServiceError(
                f"{file} has no key named {name!r}",
                hint=f"Its keys: {', '.join(keys) or 'none'}.",
            )
        kept = [line for line in text.splitlines() if line.split()[:1] != [name]]
        _write(file, "".join(f"{line}\n" for line in kept))


class KeyRing:
    """The current keys of a file, which is read again whenever it changes.

    While the file cannot be read, no key is valid.
    """

    def __init__(self, file: Path) -> None:
        """Read the file.

        Raises:
            ServiceError: the file cannot be read.
        """
        self._file = file
        # Taken before the keys, so that a change in between is noticed.
        self._seen = self._state()
        self._keys = read(file)
        if not self._keys:
            event(log, logging.WARNING, "no_api_keys", file=file, detail="all requests are refused")

    def name_of(self, key: str) -> str | None:
        """Return the name of a key; None if the key is not valid."""
        self._refresh()
        key_digest = digest(key)
        name = None
        # All keys are compared, each in constant time, so that the time reveals nothing.
        for known in self._keys.values():
            if hmac.compare_digest(known.digest, key_digest):
                name = known.name
        return name

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
        """Return a value that changes when the file does; empty if the file does not exist."""
        try:
            status = self._file.stat()
        except OSError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_mode & stat.S_IWOTH:
                raise ServiceError(
                    f"{file} can be written by everybody, who could add a key of their own",
                    hint=f"chmod o-w {file}",
                )
            data = opened.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ServiceError(
            f"no such file of API keys: {file}",
            hint=f"Create a key: edgepack-runtime api-key new NAME --file {file}",
        ) from None
    except PermissionError:
        raise ServiceError(
            f"cannot read {file}: permission denied",
            hint=f"chown the file to the service's user, or chmod 644 {file}: it holds only "
            "digests of keys.",
        ) from None
    except OSError as error:
        raise ServiceError(
            f"cannot read {file}: {error.strerror or error}", hint="Pass a file of API keys."
        ) from None
    try:
        if len(data) <= MAX_FILE_BYTES:
            return data.decode()
    except UnicodeDecodeError:
        pass
    raise ServiceError(f"{file} is not a file of API keys", hint=_INVALID_FILE)


def _parse(file: Path, text: str) -> dict[str, ApiKey]:
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        # The line itself is not shown: it may hold the key by mistake.
        match = LINE.fullmatch(stripped)
        if match is None:
            raise ServiceError(f"line {number} of {file} is not an API key", hint=_INVALID_FILE)
        key = ApiKey(**match.groupdict())
        if key.name in keys:
            raise ServiceError(f"{file} has two keys named {key.name!r}", hint=_INVALID_FILE)
        keys[key.name] = key
    return keys


_INVALID_FILE = "Fix the file, or create a new one: edgepack-runtime api-key new NAME --file FILE"


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Lock out other changes: one of two at once could restore what the other revoked.

    The folder is locked, because the file itself is replaced.
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
    """Replace the file atomically; only its owner can read a new file."""
    try:
        # A link stays, and the file behind it is replaced.
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
        hint="Run this as a user with write permission, and pass a file in an existing folder.",
    )
