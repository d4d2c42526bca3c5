"""Bit rot is noticed everywhere without a signature, as is a file that changes while it is read."""

import hashlib
import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.manifest import Blob, Record
from device_runtime.bundle.reader import BLOCK, END, Bundle, member_header, open_bundle, padding
from device_runtime.bundle.release import CHUNK, open_release
from device_runtime.errors import BundleError
from device_runtime.update import install as installation
from tests.support import targets
from tests.support.bundles import Draft, digest, draft, tar, with_manifest


def verify(data: bytes) -> None:
    Bundle(io.BytesIO(data)).verify()


def refused(data: bytes, position: int) -> None:
    """Refused by the one class of errors, in one line. Anything else that is raised fails."""
    try:
        verify(data)
    except BundleError as error:
        assert error.hint, position
        assert "\n" not in str(error), position
    else:
        pytest.fail(f"accepted with a change at byte {position}")


def regions(good: Draft) -> Iterator[tuple[str, range]]:
    """The bytes of the bundle: `data`, `padding` or `blob`, and where."""
    position = 0
    for name, data in good.members():
        content = position + BLOCK
        end = content + len(data)
        yield "data", range(position, content)
        yield "blob" if name.startswith(schema.BLOB_PREFIX) else "data", range(content, end)
        position = end + len(padding(len(data)))
        yield "padding", range(end, position)
    yield "padding", range(position, position + len(END))


BITS = {"data": range(8), "padding": (0, 7), "blob": ()}


def test_every_bit_of_all_that_is_not_a_blob() -> None:
    """Marker, manifest, signature, SBOM and tar headers; of the zeros between them, two bits."""
    good = draft()
    data = bytearray(tar(good.members()))
    verify(bytes(data))
    flips = 0
    for kind, places in regions(good):
        for position in places:
            for bit in BITS[kind]:
                data[position] ^= 1 << bit
                refused(bytes(data), position)
                data[position] ^= 1 << bit
                flips += 1
    assert flips > 8 * len(schema.encode(good.manifest))


def test_2000_random_bytes_of_blobs() -> None:
    source = random.Random(10)
    good = draft()
    data = bytearray(tar(good.members()))
    places = [position for kind, span in regions(good) if kind == "blob" for position in span]
    for position in source.choices(places, k=2000):
        old = data[position]
        data[position] = (old + source.randrange(1, 256)) % 256
        refused(bytes(data), position)
        data[position] = old


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return targets.make_root(tmp_path / "root", targets.ELF_X86_64)


def with_noise(seed: int) -> Draft:
    """A bundle that is longer than the reader's buffers, so that a change in the file is seen."""
    good = draft()
    noise = random.Random(seed).randbytes(100_000)
    blob = Blob(sha256=digest(noise), size=len(noise))
    good.blobs[blob.sha256] = noise
    return good.replaced(sequence=seed).with_records(
        Record(
            path="model/noise",
            component="model",
            mode=0o644,
            size=blob.size,
            sha256=blob.sha256,
            blob=blob,
        )
    )


def swapped(path: Path, other: bytes) -> None:
    aside = path.with_suffix(".new")
    aside.write_bytes(other)
    aside.replace(path)


def rewritten(path: Path, other: bytes) -> None:
    with path.open("r+b") as file:
        file.write(other)


def flipped(path: Path, _: bytes) -> None:
    with path.open("r+b") as file:
        for position in range(40_000, path.stat().st_size, 1000):
            file.seek(position)
            file.write(b"x")


def cut(path: Path, _: bytes) -> None:
    os.truncate(path, 40_000)


def removed(path: Path, _: bytes) -> None:
    path.unlink()


@pytest.mark.parametrize("exchange", [swapped, rewritten, flipped, cut, removed])
def test_file_exchanged_before_each_read_of_an_installation(
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    exchange: Callable[[Path, bytes], None],
) -> None:
    """What becomes current is what was verified, or nothing does."""
    path = tmp_path / "b.epk"
    good, other = tar(with_noise(1).members()), tar(with_noise(2).members())
    assert len(good) == len(other)
    read = Bundle._read
    reads, moment = 0, -1

    def counted(bundle: Bundle, size: int) -> bytes:
        nonlocal reads
        if reads == moment:
            exchange(path, other)
        reads += 1
        return read(bundle, size)

    monkeypatch.setattr(Bundle, "_read", counted)

    def install(at: int) -> str:
        """Install anew; return the digest of the release that became current, or nothing."""
        nonlocal reads, moment
        reads, moment = 0, at
        shutil.rmtree(root / "var", ignore_errors=True)
        path.write_bytes(good)
        try:
            release = installation.install(path, root)
        except BundleError:
            assert not (root / "var/lib/edgepack/current").exists()
            return ""
        current = open_release(root / "var/lib/edgepack/current")
        current.verify()
        assert current.digest == release.digest
        return release.digest

    expected = install(-1)
    results = [install(at) for at in range(1, reads)]
    assert len(results) > 20
    assert set(results) <= {"", expected}
    assert ("" in results) == (exchange in (rewritten, flipped, cut))


GIB = 1 << 30


def sparse(path: Path, size: int) -> int:
    """Write a bundle with a file of zeros that takes no space on the disk; return its start."""
    hasher, zeros = hashlib.sha256(), bytes(CHUNK)
    for _ in range(size // CHUNK):
        hasher.update(zeros)
    content = hasher.hexdigest()
    record = Record(
        path="model/model.onnx.data",
        component="model",
        mode=0o644,
        size=size,
        sha256=content,
        blob=Blob(sha256=content, size=size),
    )
    empty = draft(machine=None).replaced(records=())
    encoded = schema.encode(empty.with_records(record).manifest)
    head = tar(with_manifest(empty.members(), encoded)).removesuffix(END)
    with path.open("wb") as file:
        file.write(head + member_header(schema.BLOB_PREFIX + content, size))
        start = file.tell()
        file.truncate(start + size + len(padding(size)) + len(END))
    return start


@pytest.mark.slow
def test_byte_beyond_two_and_four_gib(tmp_path: Path) -> None:
    path = tmp_path / "big.epk"
    start = sparse(path, 4 * GIB + CHUNK)
    assert path.stat().st_blocks * 512 < 1 << 20
    with open_bundle(path) as bundle:
        bundle.verify()
    for place in (2 * GIB + 12345, 4 * GIB + 123):
        with path.open("r+b") as file:
            file.seek(start + place)
            file.write(b"\1")
        with (
            pytest.raises(BundleError, match=r"model/model\.onnx\.data is damaged"),
            open_bundle(path) as bundle,
        ):
            bundle.verify()
        with path.open("r+b") as file:
            file.seek(start + place)
            file.write(b"\0")
