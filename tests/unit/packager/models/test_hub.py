"""Models of the hub: fetched once and verified, and what is refused before anything is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from device_runtime.tokenizer.files import chat_templates
from packager import cache
from packager.models.source import resolve
from tests.support import hub, tiny_gguf
from tests.support.sources import refused

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def fake_hub(tiny_hf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.FakeHub]:
    with hub.serving(tiny_hf) as served:
        served.files.update({"onnx/model.onnx": b"x", "code.py": b"x", "pytorch_model.bin": b"x"})
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


@pytest.fixture
def gguf_hub(fake_hub: hub.FakeHub, tiny_hf: Path, tmp_path: Path) -> hub.FakeHub:
    """The hub with GGUF files of one model, and what often lies beside them."""
    data = tiny_gguf.make_gguf(tiny_hf, tmp_path / "tiny.gguf").read_bytes()
    fake_hub.files.clear()
    fake_hub.files.update(
        {
            "README.md": b"A model.",
            "tiny-Q4_0.gguf": data,
            "tiny-q4_k_m.gguf": data,
            "tiny-Q4_K_S.gguf": data,
            "big/tiny-F32.gguf": data,
            "mmproj-Q4_0.gguf": b"x",
            "tiny-BF16-00001-of-00002.gguf": data,
            "tiny-BF16-00002-of-00002.gguf": data,
        }
    )
    return fake_hub


def test_hub_model_is_fetched_once(fake_hub: hub.FakeHub, tiny_hf: Path) -> None:
    source = resolve("tiny/llama")
    assert (source.kind, source.name) == ("hf", "tiny/llama")
    assert source.origin == f"hub: tiny/llama@{hub.COMMIT}"
    assert source.digest == resolve(str(tiny_hf)).digest
    assert source.path.is_relative_to(cache.root())
    assert {path.name for path in source.path.iterdir()} == {p.name for p in tiny_hf.iterdir()}
    fetched = _fetched(fake_hub)
    assert resolve("tiny/llama@main").digest == source.digest
    assert resolve("tiny/llama@a/branch").digest == source.digest
    assert _fetched(fake_hub) == fetched


def _fetched(fake_hub: hub.FakeHub) -> int:
    """How many files were asked for."""
    return sum(request.startswith("GET /tiny") for request in fake_hub.requests)


def test_templates_with_names_are_fetched(fake_hub: hub.FakeHub) -> None:
    fake_hub.files["additional_chat_templates/tool_use.jinja"] = b"{{ tools }}"
    assert chat_templates(resolve("tiny/llama").path)["tool_use"] == "{{ tools }}"


def test_a_commit_in_the_cache_needs_no_request(fake_hub: hub.FakeHub) -> None:
    digest = resolve("tiny/llama").digest
    fake_hub.requests.clear()
    assert resolve(f"tiny/llama@{hub.COMMIT}").digest == digest
    assert fake_hub.requests == []


def test_hub_model_is_found_without_the_hub(tiny_hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub.serving(tiny_hf) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        source = resolve("tiny/llama")
    assert resolve("tiny/llama").digest == source.digest
    (source.path / "config.json").unlink()
    assert "cannot be reached" in refused("tiny/llama")
    assert "cannot be reached" in refused("tiny/other")


def test_hub_code_is_fetched_only_when_trusted(fake_hub: hub.FakeHub) -> None:
    assert not (resolve("tiny/llama").path / "code.py").exists()
    source = resolve("tiny/llama", trust_remote_code=True)
    assert (source.path / "code.py").is_file()


def test_hub_gated_model_needs_the_token(
    fake_hub: hub.FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.gated = True
    assert "HF_TOKEN" in refused("tiny/llama")
    monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
    assert resolve("tiny/llama").kind == "hf"
    # The storage of large files is another host.
    assert {authorization for _, authorization in fake_hub.offered} == {None}


def test_hub_private_model_needs_the_token(
    fake_hub: hub.FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.private = True
    assert "HF_TOKEN" in refused("tiny/llama")
    monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
    assert resolve("tiny/llama").kind == "hf"


def test_hub_token_that_cannot_be_one(
    fake_hub: hub.FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_\u00e4")
    message = refused("tiny/llama")
    assert "no token has" in message
    assert "\u00e4" not in message


@pytest.mark.parametrize(
    ("files", "word"),
    [({"pytorch_model.bin": b""}, "pickle"), ({"README.md": b""}, "no weights")],
)
def test_hub_model_without_weights_in_a_supported_format(
    fake_hub: hub.FakeHub, files: dict[str, bytes], word: str
) -> None:
    fake_hub.files.clear()
    fake_hub.files.update(files)
    assert word in refused("tiny/llama")
    assert _fetched(fake_hub) == 0


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (b'{"architectures": ["MambaForCausalLM"]}', "tiny/llama: architecture MambaForCausalLM"),
        (b'{"architectures": ["InternLM2ForCausalLM"]}', "tiny/llama (InternLM2ForCausalLM)"),
        (b"{", "config.json"),
        (None, "config.json"),
    ],
)
def test_hub_model_that_is_not_supported_is_refused_before_its_weights(
    config: bytes | None, word: str, fake_hub: hub.FakeHub
) -> None:
    del fake_hub.files["config.json"]
    if config is not None:
        fake_hub.files["config.json"] = config
    assert word in refused("tiny/llama")
    assert fake_hub.offered == []


def test_hub_unknown_model_and_revision(fake_hub: hub.FakeHub) -> None:
    assert "nor a model on the hub" in refused("tiny/other")
    assert "no revision" in refused("tiny/llama@v9")


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("tiny/llama:Q4_0", "tiny-Q4_0.gguf"),
        ("tiny/llama:Q4_K_M", "tiny-q4_k_m.gguf"),
        ("tiny/llama:q4_k_s@a/branch", "tiny-Q4_K_S.gguf"),
        ("tiny/llama:F32", "big/tiny-F32.gguf"),
        ("tiny/llama/tiny-Q4_0.gguf", "tiny-Q4_0.gguf"),
        (f"tiny/llama/big/tiny-F32.gguf@{hub.COMMIT}", "big/tiny-F32.gguf"),
    ],
)
def test_gguf_file_of_the_hub(model: str, file: str, gguf_hub: hub.FakeHub) -> None:
    source = resolve(model)
    assert (source.kind, source.name) == ("gguf", Path(file).stem)
    assert source.origin == f"hub: tiny/llama/{file}@{hub.COMMIT}"
    assert _fetched(gguf_hub) == 1
    # The origin is a name of the same file: a bundle's source is found again by it.
    assert resolve(source.origin.removeprefix("hub: ")).digest == source.digest


def test_the_only_gguf_file_needs_no_name(gguf_hub: hub.FakeHub) -> None:
    for name in [name for name in gguf_hub.files if name not in ("README.md", "tiny-Q4_0.gguf")]:
        del gguf_hub.files[name]
    assert resolve("tiny/llama").name == "tiny-Q4_0"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("tiny/llama", ("has 6 GGUF files", "tiny/llama:TAG", "tiny-Q4_0.gguf")),
        ("tiny/llama:Q4_K", ("no file Q4_K", "tiny-Q4_K_S.gguf")),
        ("tiny/llama:tiny", ("files with tiny in their names", "tiny-Q4_0.gguf")),
        ("tiny/llama/tiny-Q9.gguf", ("no file tiny-Q9.gguf", "tiny-Q4_0.gguf")),
        ("tiny/llama:BF16", ("one of 2 parts", "join", "tiny-Q4_0.gguf")),
    ],
)
def test_gguf_file_that_is_not_clear(
    model: str, words: tuple[str, ...], gguf_hub: hub.FakeHub
) -> None:
    message = refused(model)
    assert all(word in message for word in words), message
    assert "mmproj" not in message
    assert _fetched(gguf_hub) == 0


def test_safetensors_go_before_gguf(fake_hub: hub.FakeHub) -> None:
    fake_hub.files["tiny-Q4_0.gguf"] = b"x"
    assert resolve("tiny/llama").kind == "hf"


def test_a_missing_file_of_a_folder_is_not_asked_of_the_hub(
    gguf_hub: hub.FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny/llama").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "neither a known name nor a path" in refused("tiny/llama/mistyped.gguf")
    assert gguf_hub.requests == []


@pytest.mark.parametrize("name", ["../../evil.json", "/etc/evil.json", "a\\b.json", "\x1b.json"])
def test_names_that_would_leave_the_cache_are_refused(name: str, fake_hub: hub.FakeHub) -> None:
    fake_hub.files[name] = b"x"
    assert "invalid names" in refused("tiny/llama")
    assert _fetched(fake_hub) == 0


def test_names_of_the_catalog_are_names_of_the_hub(
    tiny_hf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub.serving(tiny_hf) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        assert "Qwen/Qwen3-0.6B is neither" in refused("qwen3-0.6b")
    assert any("models/Qwen/Qwen3-0.6B/revision/main" in path for path in served.requests)
