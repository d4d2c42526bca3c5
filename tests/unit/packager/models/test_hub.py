"""Models of the hub: fetched once, and what is refused before anything is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from packager import cache
from packager.models.source import resolve
from tests.support import hub
from tests.support.sources import refused

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def fake_hub(tiny_hf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.FakeHub]:
    with hub.serving(tiny_hf) as served:
        served.files.update({"onnx/model.onnx": b"x", "code.py": b"x", "pytorch_model.bin": b"x"})
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def test_hub_model_is_fetched_once(fake_hub: hub.FakeHub, tiny_hf: Path) -> None:
    source = resolve("tiny/llama")
    assert (source.kind, source.name) == ("hf", "tiny/llama")
    assert source.origin == f"hub: tiny/llama@{hub.COMMIT}"
    assert source.digest == resolve(str(tiny_hf)).digest
    assert source.path.is_relative_to(cache.root())
    assert {path.name for path in source.path.iterdir()} == {p.name for p in tiny_hf.iterdir()}
    fetched = sum(request.startswith("GET /tiny") for request in fake_hub.requests)
    assert resolve("tiny/llama@main").digest == source.digest
    assert sum(request.startswith("GET /tiny") for request in fake_hub.requests) == fetched


def test_hub_model_is_found_without_the_hub(tiny_hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub.serving(tiny_hf) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        digest = resolve("tiny/llama").digest
    assert resolve("tiny/llama").digest == digest
    assert "cannot be reached" in refused("tiny/other")


def test_hub_code_is_fetched_only_when_trusted(fake_hub: hub.FakeHub) -> None:
    source = resolve("tiny/llama", trust_remote_code=True)
    assert (source.path / "code.py").is_file()


def test_hub_gated_model_needs_the_token(
    fake_hub: hub.FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.gated = True
    assert "HF_TOKEN" in refused("tiny/llama")
    monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
    assert resolve("tiny/llama").kind == "hf"


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"pytorch_model.bin": b""}, "pickle"),
        ({"model-q4.gguf": b""}, "GGUF"),
        ({"README.md": b""}, "no weights"),
    ],
)
def test_hub_model_without_safetensors(
    fake_hub: hub.FakeHub, files: dict[str, bytes], word: str
) -> None:
    fake_hub.files.clear()
    fake_hub.files.update(files)
    assert word in refused("tiny/llama")
    assert not any(request.startswith("GET /tiny") for request in fake_hub.requests)


def test_hub_unknown_model_and_revision(fake_hub: hub.FakeHub) -> None:
    assert "nor a model on the hub" in refused("tiny/other")
    assert "no revision" in refused("tiny/llama@v9")
