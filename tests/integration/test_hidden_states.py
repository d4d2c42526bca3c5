"""Embeddings from the hidden states of the model that answers, in a bundle and served."""

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from device_runtime.bundle.reader import open_bundle
from device_runtime.bundle.release import Release
from packager.models.catalog import CHAT
from tests.integration.test_embeddings import vector_of_transformers
from tests.support.commands import edgepack_quickly
from tests.support.serving import Serving

MODEL = "hf-hidden-states"
TEXTS = ["x", "How do I reset my password?", "Über Öl 🤖 und\0null", "one step and a bit " * 8]


@pytest.fixture(scope="module")
def release(cache: Path, tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The tiny model in fp32."""
    folder = tmp_path_factory.mktemp("hidden")
    outcome = edgepack_quickly(
        *("build", "--profile", f"cpu-{platform.machine()}", "--model", tiny_hf, "--model-only"),
        *("--recipe", "fp32", "--embedding-model", CHAT, "-o", folder / "b.epk"),
        cache=cache,
    )
    assert outcome.status == 0, outcome.err
    with open_bundle(folder / "b.epk") as bundle:
        return bundle.unpack(folder / "release")


@pytest.fixture(scope="module")
def server(release: Release) -> Iterator[Serving]:
    with Serving(release.folder) as serving:
        yield serving


def test_vectors_are_those_of_transformers(client: openai.OpenAI, tiny_hf: Path) -> None:
    answer = client.embeddings.create(model=MODEL, input=TEXTS)
    for text, data in zip(TEXTS, answer.data, strict=True):
        vector = np.array(data.embedding)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert vector @ vector_of_transformers(tiny_hf, text) > 0.9999, text
    assert answer.model == MODEL
    # More than one step of prefill.
    assert answer.usage.prompt_tokens > 128


def test_cut_vectors_have_length_1(client: openai.OpenAI) -> None:
    (whole,) = client.embeddings.create(model=MODEL, input="Hi").data
    (cut,) = client.embeddings.create(model=MODEL, input="Hi", dimensions=8).data
    start = np.array(whole.embedding[:8])
    np.testing.assert_allclose(cut.embedding, start / np.linalg.norm(start), atol=1e-6)


def test_model_is_listed_apart_from_the_one_that_answers(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["hf", MODEL]
    with pytest.raises(openai.BadRequestError, match="'hf' makes no embeddings"):
        client.embeddings.create(model="hf", input="Hi")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model=MODEL, prompt="Hi")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("word " * 4000, "maximum context length is"),
        ([30522], "not in the model's vocabulary"),
        ("", "must not be empty"),
    ],
)
def test_input_that_the_model_cannot_take_is_refused(
    client: openai.OpenAI, given: str | list[int], words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        client.embeddings.create(model=MODEL, input=given)


def test_answers_go_on_and_are_the_same(client: openai.OpenAI) -> None:
    def ask() -> openai.Stream[Any]:
        return client.completions.create(
            model="hf", prompt="Once", max_tokens=200, temperature=0, stream=True
        )

    alone = "".join(part.choices[0].text for part in ask())
    beside = ask()
    text = next(beside).choices[0].text
    assert len(client.embeddings.create(model=MODEL, input=TEXTS).data) == len(TEXTS)
    assert text + "".join(part.choices[0].text for part in beside) == alone


def test_bundle_has_no_second_model(release: Release) -> None:
    described = release.manifest.embedding
    assert described is not None
    assert (described.hidden_states, described.dimensions) == (True, 64)
    assert not release.embedding_folder.exists()
    sbom = json.loads((release.folder / "sbom.cdx.json").read_text())
    models = [part["name"] for part in sbom["components"] if "model" in part["type"]]
    assert models == ["hf"]
