"""Fuzz the reader of bundles, as it is and with digests that always match: so it gets further."""

import hashlib
import io
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import zstandard

from device_runtime.bundle import delta, reader, release, source
from device_runtime.bundle import manifest as schema
from device_runtime.bundle.reader import BLOCK, END, Bundle
from device_runtime.errors import BundleError
from tests.fuzz import manifest as fuzz_manifest
from tests.support.bundles import draft, member, tar

DIGESTED = (schema, delta, reader, release, source)
SHM = Path("/dev/shm")


class Equal(str):
    """A digest that is equal to each other one."""

    def __eq__(self, _: object) -> bool:
        return True

    def __ne__(self, _: object) -> bool:
        return False

    __hash__ = str.__hash__


class Matching:
    """In place of a sha256."""

    def __init__(self, _: bytes = b"") -> None:
        pass

    def update(self, _: bytes) -> None:
        pass

    def hexdigest(self) -> str:
        return Equal("0" * 64)


@contextmanager
def matching() -> Iterator[None]:
    """Let all digests match."""
    for module in DIGESTED:
        module.hashlib = SimpleNamespace(sha256=Matching)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in DIGESTED:
            module.hashlib = hashlib  # type: ignore[attr-defined]


def unpack(bundle: Bundle) -> None:
    """Unpack a bundle; nothing may get out of its folder."""
    with tempfile.TemporaryDirectory(dir=SHM if SHM.is_dir() else None) as folder:
        inside = Path(folder, "release")
        inside.mkdir()
        bundle.unpack(inside)
        for path in Path(folder).rglob("*"):
            assert path.resolve().is_relative_to(inside.resolve()), path


def run(data: bytes) -> None:
    with suppress(BundleError):
        Bundle(io.BytesIO(data)).verify()
    with matching(), suppress(BundleError):
        Bundle(io.BytesIO(data)).verify()
        unpack(Bundle(io.BytesIO(data)))


def seeds() -> Iterator[bytes]:
    for machine in ("x86_64", None):
        yield tar(draft(machine).members())
    yield b"".join(member(*data) for data in draft(None).members()[:4]) + END


def mutate(data: bytes, random_source: random.Random) -> bytes:
    """Change the content of one member, and make its header fit."""
    members = list(split(data))
    if len(members) < 4:
        members = draft(random_source.choice(("x86_64", None))).members()
    number = 1 if random_source.random() < 0.4 else random_source.randrange(len(members))
    name, content = members[number]
    if name == schema.MANIFEST_NAME:
        content = fuzz_manifest.mutate(content, random_source)
    elif name.startswith(schema.BLOB_PREFIX):
        # Of the same length, as the manifest has it; sometimes another frame.
        frame = zstandard.compress(random_source.randbytes(20) * random_source.randrange(2000))
        content = (frame if random_source.random() < 0.5 else content[::-1])[: len(content)].ljust(
            len(content), b"\0"
        )
    elif random_source.random() < 0.5:
        content += random_source.randbytes(random_source.randrange(700))
    else:
        del members[number]
        members.insert(random_source.randrange(len(members) + 1), (name, content))
        return tar(members)
    members[number] = (name, content)
    return tar(members)


def split(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Read the members as far as they are whole."""
    position = 0
    while len(header := data[position : position + BLOCK]) == BLOCK and header[0]:
        try:
            name, size = header[:100].rstrip(b"\0").decode("ascii"), int(header[124:135], 8)
        except ValueError:
            return
        if size < 0:
            return
        yield name, data[position + BLOCK : position + BLOCK + size]
        position += BLOCK + size + -size % BLOCK
