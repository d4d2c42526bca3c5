"""The KV cache of what all conversations begin with, in a file that outlives the process.

It is the configured prefix alone, template and system prompt: what users write is never in it. Its
head has two digests: of all that the numbers depend on, and of the numbers themselves. From these
numbers answers continue bit for bit as from a prefill, so a file that differs in anything is
ignored, and replaced after the prefill. Its size follows from the prefix; nothing in it says one.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

import device_runtime
from device_runtime import onnx_api
from device_runtime.durable import open_folder
from device_runtime.inference.kv_cache import KvCache, Slot, Tokens
from device_runtime.inference.kv_rows import Layout
from device_runtime.logs import event
from device_runtime.processor import fingerprint

log = logging.getLogger(__name__)

FILE_NAME = "prefix.kv"
MIN_TOKENS = 64
"""Shortest prefix that is kept, tokens."""
STEP = 2 << 20
"""Bytes after which a step of writing ends: a request may wait for them, on a slow card as well."""
DISK_SHARE = 10
"""The file takes at most one of so many parts of the free disk."""

_MAGIC = b"edgepack prefix\n"
_DIGEST = 32
_HEAD = len(_MAGIC) + 2 * _DIGEST

Parts = Sequence[memoryview]


class PrefixFile:
    """The file, in a folder.

    Args:
        folder: the folder.
        model: digest of the model.
        threads: number of ONNX Runtime threads; 0 for one a core.
    """

    def __init__(self, folder: Path, *, model: str, threads: int) -> None:
        self._folder = folder
        self._model = model
        self._threads = threads

    def load(self, cache: KvCache, prefix: Tokens, room: int, layout: Layout) -> Iterator[bool]:
        """Read the KV cache of a prefix into a slot, if the file has it; never fails.

        Args:
            cache: the slots.
            prefix: token ids.
            room: room for a first turn after the prefix, tokens.
            layout: layout of their KV caches.

        Returns:
            The steps that write the file, as `_write` does; none if it is right already.
        """
        if len(prefix) < MIN_TOKENS:
            return iter(())
        try:
            key = self._key(prefix, layout)
        except (OSError, RuntimeError) as error:
            event(log, logging.WARNING, "prefix_not_kept", reason=error)
            return iter(())
        slot = cache.place(prefix, room)
        if slot is not None and not slot.tokens and self._read(key, slot, prefix):
            return iter(())
        return self._write(key, cache, prefix, layout.prefix_bytes(len(prefix)))

    def _key(self, prefix: Tokens, layout: Layout) -> bytes:
        """Digest everything that a KV cache depends on."""
        known = (
            *(self._model, self._threads, device_runtime.__version__),
            *(onnx_api.library_version(), fingerprint()),
            *(layout.shapes, np.dtype(layout.kind).str),
            prefix.tolist(),
        )
        return hashlib.sha256(msgspec.json.encode(known)).digest()

    def _read(self, key: bytes, slot: Slot, prefix: Tokens) -> bool:
        """Read the file into an empty slot; False if it is missing, or ignored."""
        try:
            with open_folder(self._folder) as folder:
                folder.sweep(FILE_NAME)
                with folder.file(FILE_NAME) as file:
                    problem = _problem(file, key, slot.generator.parts(len(prefix)))
        except FileNotFoundError:
            return False
        except OSError as error:
            problem = str(error)
        if problem:
            path = self._folder / FILE_NAME
            event(log, logging.WARNING, "prefix_ignored", file=path, reason=problem)
            return False
        slot.hold(prefix)
        event(log, logging.INFO, "prefix_read", tokens=len(prefix))
        return True

    def _write(self, key: bytes, cache: KvCache, prefix: Tokens, size: int) -> Iterator[bool]:
        """Write the file in steps; an error ends them, with a line in the log.

        Yields:
            True after a step; False while no slot has the prefix.
        """
        while not _cached(cache, prefix):
            yield False
        try:
            with open_folder(self._folder) as folder:
                disk = os.statvfs(folder.descriptor)
                if (_HEAD + size) * DISK_SHARE > disk.f_bavail * disk.f_frsize:
                    reason = f"it takes {size >> 20} MiB, more than a tenth of the free disk"
                    event(log, logging.WARNING, "prefix_not_kept", reason=reason)
                    return
                with folder.written_aside(FILE_NAME, 0o600) as file:
                    yield from _contents(file, key, cache, prefix)
        except OSError as error:
            event(log, logging.WARNING, "prefix_not_kept", reason=error)
            return
        event(log, logging.INFO, "prefix_kept", tokens=len(prefix), bytes=_HEAD + size)


def _problem(file: IO[bytes], key: bytes, parts: Parts) -> str:
    """Read a file into these parts; return why it is ignored, or an empty text."""
    magic, of, digest = (file.read(size) for size in (len(_MAGIC), _DIGEST, _DIGEST))
    if magic != _MAGIC:
        return "it has another form"
    if of != key:
        return "it is of another prefix, model, program or processor"
    if os.fstat(file.fileno()).st_size != _HEAD + sum(part.nbytes for part in parts):
        return "it has another size"
    actual = hashlib.sha256()
    for part in parts:
        file.readinto(part)  # type: ignore[attr-defined]
        actual.update(part)
    return "" if actual.digest() == digest else "it is damaged"


def _contents(file: IO[bytes], key: bytes, cache: KvCache, prefix: Tokens) -> Iterator[bool]:
    """Write head and contents; see `PrefixFile._write`."""
    file.write(bytes(_HEAD))
    digest = hashlib.sha256()
    done = 0
    while not (parts := _cached(cache, prefix)) or done < len(parts):
        written = 0
        while done < len(parts) and written < STEP:
            file.write(parts[done])
            digest.update(parts[done])
            written += parts[done].nbytes
            done += 1
        # Flushed all at the end, they would be one long step.
        file.flush()
        os.fdatasync(file.fileno())
        yield written > 0
    file.seek(0)
    file.write(_MAGIC + key + digest.digest())


def _cached(cache: KvCache, prefix: Tokens) -> Parts:
    """Return the KV cache of a prefix in any slot that has it; empty if none has.

    It has the same bits in all of them.
    """
    tokens = prefix.tolist()
    for slot in cache.slots:
        if not slot.busy and not slot.adapter and slot.tokens[: len(tokens)] == tokens:
            parts: Parts = slot.generator.parts(len(tokens))
            return parts
    return ()
