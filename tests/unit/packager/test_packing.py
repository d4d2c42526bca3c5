"""What is compressed on its way into a bundle, and by how many cores."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from packager import bundle, console, tree
from packager.genai.folder import component

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with weights of an unusual name, and a large text."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(1 << 20))
    words = [b"alpha ", b"beta ", b"gamma "]
    text = b"".join(random.Random(1).choices(words, k=1_000_000))
    (folder / "tokenizer.json").write_bytes(text)
    return folder


def packed(folder: Path, **inputs: int) -> dict[str, bundle.Part]:
    weights = [folder / "weights.bin"]
    parts = bundle.pack(tree.read(folder), "model", {"model": 1, **inputs}, component, weights)
    return {part.record.path.removeprefix("model/"): part for part in parts}


def compression(part: bundle.Part) -> str:
    assert part.record.blob is not None
    return part.record.blob.compression


def test_weights_of_any_name_are_stored_as_they_are(folder: Path) -> None:
    parts = packed(folder)
    assert compression(parts["weights.bin"]) == "none"
    assert compression(parts["tokenizer.json"]) == "zstd"


def test_progress_is_within_a_file_and_adds_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    @contextmanager
    def progress(title: str, total: int, unit: str = "bytes") -> Iterator[Callable[[int], None]]:
        yield steps.append
        assert sum(steps) == total

    monkeypatch.setattr(console, "progress", progress)
    packed(folder)
    assert len(steps) > len(list(folder.iterdir()))


def test_large_file_is_the_same_by_any_number_of_cores(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "LARGE", 1)
    monkeypatch.setattr(bundle, "LEVEL", 3)
    text = (folder / "tokenizer.json").read_bytes()
    compressor = zstandard.ZstdCompressor
    digests = set()
    for cores in (1, 2, 3):

        def with_cores(level: int, threads: int, cores: int = cores) -> zstandard.ZstdCompressor:
            assert threads == -1
            return compressor(level=level, threads=cores)

        monkeypatch.setattr(zstandard, "ZstdCompressor", with_cores)
        stored = packed(folder, cores=cores)["tokenizer.json"].stored
        assert stored is not None
        digests.add(stored.name)
        assert zstandard.ZstdDecompressor().decompress(stored.read_bytes()) == text
    assert len(digests) == 1
