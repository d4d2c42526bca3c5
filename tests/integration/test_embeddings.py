"""Embeddings of a real model (MiniLM), built into a bundle and served by the frozen runtime, and
the families of encoders compared with transformers."""

import json
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from device_runtime.bundle.manifest import EMBEDDING_FOLDER
from device_runtime.bundle.reader import open_bundle
from device_runtime.bundle.release import Release
from device_runtime.inference.onnx_embedder import EmbeddingGraph
from packager import cache as stages
from packager.errors import ModelSourceError
from packager.jobs import export_encoder
from packager.models import embedding
from packager.models.catalog import EMBEDDING_MODELS, ENCODERS
from packager.models.embedding import EmbeddingModel
from tests.support import tiny_encoder
from tests.support.commands import edgepack, edgepack_quickly, refused
from tests.support.serving import Serving

MINILM = "all-minilm-l6-v2"
TEXTS = [
    "x",
    "How do I reset my password?",
    "The quarterly revenue of the company rose by 12.5 percent, which nobody had expected.",
    "Wie geht es dir heute? Über Öl und Äpfel.",
    "東京は日本の首都です。",
    "Привет, мир! Как дела?",
    "مرحبا بالعالم",
    "def add(a, b):\n\treturn a + b  # sums",
    "😀 fun \u200b and\0zero",
    "A long text about Rome and its emperors, as long as the model takes. " * 15,
]


def vector_of_transformers(folder: Path, text: str) -> Any:
    """The mean of the last states, scaled to length 1, as sentence-transformers computes it."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state
    return torch.nn.functional.normalize(states.mean(1), dim=-1)[0].numpy()


# Families


@pytest.mark.usefixtures("own_cache", "jobs_here")
@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token", "lasttoken"])
@pytest.mark.parametrize("architecture", ENCODERS)
def test_family_has_the_vectors_of_transformers(
    tmp_path: Path, architecture: str, pooling: str
) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = tiny_encoder.make(tmp_path / "m", architecture, pooling=pooling, normalize=False)
    model = exported(folder)
    graph = EmbeddingGraph(model.graph, width=32, threads=1)
    for text in ("a", "Some bytes: äöü 東京", "x" * 48):
        ids = AutoTokenizer.from_pretrained(folder)(text, truncation=False).input_ids
        with torch.no_grad():
            states = AutoModel.from_pretrained(folder)(torch.tensor([ids])).last_hidden_state[0]
        expected = {"mean_tokens": states.mean(0), "cls_token": states[0], "lasttoken": states[-1]}
        np.testing.assert_allclose(graph.run(ids), expected[pooling], rtol=0.02, atol=0.01)


def exported(folder: Path) -> EmbeddingModel:
    return embedding.export(embedding.resolve(str(folder)), context_length=4096)


@pytest.mark.usefixtures("jobs_here")
def test_same_model_gives_the_same_bytes(own_cache: Path, tmp_path: Path) -> None:
    folder = tiny_encoder.make(tmp_path / "m")

    def digests() -> dict[str, str]:
        model = exported(folder)
        return {path.name: stages.file_digest(path) for path in sorted(model.folder.iterdir())}

    first = digests()
    assert first.keys() == {"model.onnx", "tokenizer.json"}
    shutil.rmtree(own_cache)
    assert digests() == first


@pytest.mark.usefixtures("own_cache", "jobs_here")
def test_context_of_the_device_bounds_the_texts(tmp_path: Path) -> None:
    source = embedding.resolve(str(tiny_encoder.make(tmp_path / "m")))
    assert embedding.export(source, context_length=20).facts.max_tokens == 20


# Builds that are refused


@pytest.mark.usefixtures("own_cache", "jobs_here")
def test_graph_with_other_vectors_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_encoder, "LEAST_COSINE", 1.1)
    with pytest.raises(ModelSourceError, match="computes other vectors than transformers"):
        exported(tiny_encoder.make(tmp_path / "m"))


@pytest.mark.slow
def test_models_that_need_too_much_memory_together_are_refused(
    cache: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    text = (Path(__file__).parents[2] / "profiles/mobile.toml").read_text()
    text, count = re.subn(r"(?m)^memory_budget_mb = \d+", "memory_budget_mb = 250", text)
    assert count == 1
    (tmp_path / "small.toml").write_text(text)
    outcome = edgepack_quickly(
        *("build", "--profile", tmp_path / "small.toml", "--model", tiny_hf, "--recipe", "int8"),
        *("-o", tmp_path / "x.epk", "--embedding-model", MINILM),
        cache=cache,
    )
    refused(outcome, 11, "the model and the embedding model need", "more than the 250 MiB")
    assert not (tmp_path / "x.epk").exists()


def test_two_models_of_one_name_are_refused(cache: Path, tiny_hf: Path, tmp_path: Path) -> None:
    folder = tiny_encoder.make(tmp_path / tiny_hf.name)
    output = tmp_path / "x.epk"
    outcome = edgepack_quickly(
        *("build", "--profile", "mobile", "--model", tiny_hf, "-o", output),
        *("--embedding-model", folder),
        cache=cache,
    )
    refused(outcome, 4, "both models have the name 'hf'")
    assert not output.exists()


def test_language_model_is_not_an_embedding_model(
    cache: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    output = tmp_path / "x.epk"
    outcome = edgepack_quickly(
        *("build", "--profile", "mobile", "--model", tiny_hf, "-o", output),
        *("--embedding-model", tiny_hf),
        cache=cache,
    )
    refused(outcome, 4, "architecture LlamaForCausalLM is not supported")
    assert not output.exists()


# MiniLM in a bundle, served by the frozen runtime


@pytest.fixture(scope="module")
def release(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The tiny model and MiniLM with the frozen runtime, from the user's own cache."""
    folder = tmp_path_factory.mktemp("embedding")
    outcome = edgepack(
        *("build", "--profile", f"cpu-{platform.machine()}", "--model", tiny_hf),
        *("--recipe", "int8", "--allow-quality-loss", "--embedding-model", MINILM),
        *("-o", folder / "b.epk", "--json"),
    )
    assert outcome.status == 0, outcome.err
    described = json.loads(outcome.out)["manifest"]["embedding"]
    assert (described["dimensions"], described["max_tokens"]) == (384, 256)
    with open_bundle(folder / "b.epk") as bundle:
        return bundle.unpack(folder / "release")


@pytest.fixture(scope="module")
def server(release: Release) -> Iterator[Serving]:
    with Serving(release.folder) as serving:
        yield serving


@pytest.fixture(scope="module")
def minilm() -> Path:
    return embedding.resolve(MINILM).path


@pytest.mark.slow
def test_vectors_are_those_of_transformers(client: openai.OpenAI, minilm: Path) -> None:
    # The client asks for base64 unless told otherwise.
    answer = client.embeddings.create(model=MINILM, input=TEXTS)
    for text, data in zip(TEXTS, answer.data, strict=True):
        vector = np.array(data.embedding)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert vector @ vector_of_transformers(minilm, text) > 0.9999, text
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 250
    assert answer.model == MINILM


@pytest.mark.slow
def test_numbers_token_ids_and_cut_vectors(client: openai.OpenAI, minilm: Path) -> None:
    (text,) = client.embeddings.create(model=MINILM, input="hello").data
    (numbers,) = client.embeddings.create(model=MINILM, input="hello", encoding_format="float").data
    (tokens,) = client.embeddings.create(model=MINILM, input=[101, 7592, 102]).data
    assert text.embedding == numbers.embedding == tokens.embedding
    (cut,) = client.embeddings.create(model=MINILM, input="hello", dimensions=64).data
    start = np.array(text.embedding[:64])
    np.testing.assert_allclose(cut.embedding, start / np.linalg.norm(start), atol=1e-6)


@pytest.mark.slow
def test_a_text_has_the_same_vector_in_any_company(client: openai.OpenAI) -> None:
    together = client.embeddings.create(model=MINILM, input=[TEXTS[1], TEXTS[9], TEXTS[1]]).data
    (alone,) = client.embeddings.create(model=MINILM, input=TEXTS[1]).data
    np.testing.assert_allclose(together[0].embedding, alone.embedding, atol=1e-6)
    np.testing.assert_allclose(together[2].embedding, alone.embedding, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("word " * 300, "maximum context length is 256 tokens"),
        (["fine", "word " * 300], "maximum context length is 256 tokens"),
        ([30522], "the model has no token 30522"),
        ("", "must not be empty"),
    ],
)
def test_input_that_the_model_cannot_take_is_refused(
    client: openai.OpenAI, given: str | list[str] | list[int], words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        client.embeddings.create(model=MINILM, input=given)


@pytest.mark.slow
def test_chat_and_embeddings_are_served_together(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[-1] == MINILM
    stream = client.chat.completions.create(
        model=names[0], messages=[{"role": "user", "content": "Hi"}], max_tokens=50, stream=True
    )
    next(stream)
    assert len(client.embeddings.create(model=MINILM, input=TEXTS).data) == len(TEXTS)
    *_, last = stream
    assert last.choices[0].finish_reason is not None


@pytest.mark.slow
def test_bundle_describes_its_embedding_model(release: Release) -> None:
    described = release.manifest.embedding
    assert described is not None
    assert described.model.license == EMBEDDING_MODELS[MINILM].license
    records = [r for r in release.manifest.records if r.path.startswith(f"{EMBEDDING_FOLDER}/")]
    assert {Path(record.path).name: record.component for record in records} == {
        "model.onnx": "model",
        "tokenizer.json": "tokenizer",
    }
    sbom = json.loads((release.folder / "sbom.cdx.json").read_text())
    assert {"hf", MINILM} <= {component["name"] for component in sbom["components"]}
