"""Requests for embeddings: what HTTP makes of texts and vectors, and each input that is refused."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import ollama
import pytest

from device_runtime.api.app import Api
from device_runtime.api.served_model import ServedModel
from device_runtime.bundle.embedding import Embedding
from device_runtime.bundle.model_facts import ModelFacts
from device_runtime.errors import DeviceError, EngineError
from device_runtime.inference.embedding import EmbeddingChunk, EmbeddingRequest
from device_runtime.inference.engine import NoMemoryNowError, PromptTooLongError
from device_runtime.status.report import Figure, RequestStats, RuntimeStatus
from device_runtime.tools.dialect import Dialect
from tests.support import asgi
from tests.support.fakes import FakeGenerator, runtime_status, vector

ENCODER = Embedding(
    model=ModelFacts(
        name="mini",
        source="test",
        source_sha256="0" * 64,
        architecture="BertModel",
        parameters=1,
        license="",
    ),
    dimensions=2,
    vocabulary=10,
    max_tokens=8,
    memory_bytes=1,
)


class App:
    """The application around a fake generator, asked without a network."""

    def __init__(self, embedding: Embedding | None = ENCODER) -> None:
        self.generator = FakeGenerator()
        self.stats = RequestStats()
        served = ServedModel(
            model="tiny", dialect=Dialect.of(""), max_tokens=64, embedding=embedding
        )
        self.application = Api(self.generator, self.stats, self.status, served).app()

    def status(self) -> RuntimeStatus:
        return runtime_status(self.stats)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asgi.request(self.application, method, path, **options)

    def embed(self, **fields: Any) -> httpx.Response:
        return self.ask("POST", "/v1/embeddings", json=fields)


@pytest.fixture
def app() -> App:
    return App()


def test_one_text(app: App) -> None:
    response = app.embed(input="abc", model="mini", user="somebody")
    assert response.status_code == 200
    assert response.json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [3.0, 3.0]}],
        "model": "mini",
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }


def test_several_texts_keep_their_order(app: App) -> None:
    data = app.embed(input=["abc", "a"]).json()["data"]
    assert [(one["index"], one["embedding"]) for one in data] == [(0, [3, 3]), (1, [1, 1])]


def test_base64_is_float32_little_endian(app: App) -> None:
    (data,) = app.embed(input="abc", encoding_format="base64").json()["data"]
    assert struct.unpack("<2f", base64.b64decode(data["embedding"])) == (3, 3)


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["a\0b"], ("a\0b",)),
        ([" "], (" ",)),
        (["a"] * 2048, ("a",) * 2048),
    ],
)
def test_each_form_of_input_reaches_the_model_whole(
    app: App, given: list[Any], inputs: tuple[Any, ...]
) -> None:
    assert app.embed(input=given).status_code == 200
    assert app.generator.embedded == [EmbeddingRequest(inputs=inputs)]


def test_fewer_dimensions_reach_the_model(app: App) -> None:
    assert app.embed(input="a", dimensions=1).status_code == 200
    assert app.generator.embedded[0].dimensions == 1


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "input", "is required"),
        ({"input": None}, "input", "Expected"),
        ({"input": ""}, "input", "must not be empty"),
        ({"input": []}, "input", "must not be empty"),
        ({"input": ["a", ""]}, "input[1]", "must not be empty"),
        ({"input": [[1], []]}, "input[1]", "must not be empty"),
        ({"input": ["a"] * 2049}, "input", "at most 2048 texts; it has 2049"),
        ({"input": ["a", [1]]}, "input", "not several kinds"),
        ({"input": ["a", 1]}, "input", "not several kinds"),
        ({"input": [1, [1]]}, "input", "not several kinds"),
        ({"input": [True]}, "input[0]", "got `bool`"),
        ({"input": [-1]}, "input[0]", ">= 0"),
        ({"input": [2**31]}, "input[0]", "<= 2147483647"),
        ({"input": [1.5]}, "input[0]", "got `float`"),
        ({"input": {"text": "a"}}, "input", "got `object`"),
        ({"input": "a", "model": "tiny"}, "model", "makes no embeddings; 'mini' does"),
        ({"input": "a", "dimensions": 0}, "dimensions", ">= 1"),
        ({"input": "a", "dimensions": 3}, "dimensions", "mini has 2 dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "'hex'"),
        ({"input": "a", "input_type": "query"}, "input_type", "is not supported"),
    ],
)
def test_invalid_fields_are_refused_by_name(
    app: App, fields: dict[str, Any], param: str, words: str
) -> None:
    response = app.embed(**fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert words in error["message"]
    assert app.generator.embedded == []
    assert app.stats.snapshot()[0].rejected == 1


def test_unknown_model_is_404(app: App) -> None:
    response = app.embed(input="a", model="other")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert "the embedding model is 'mini'" in response.json()["error"]["message"]


def test_bundle_without_an_embedding_model_says_how_to_get_one() -> None:
    app = App(embedding=None)
    response = app.embed(input="a", model="tiny")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert "edgepack build --embedding-model MODEL" in response.json()["error"]["message"]
    assert [model["id"] for model in app.ask("GET", "/v1/models").json()["data"]] == ["tiny"]


def test_embedding_model_is_listed_last_and_marked(app: App) -> None:
    listed = app.ask("GET", "/v1/models").json()["data"]
    assert [(model["id"], model.get("dimensions")) for model in listed] == [
        ("tiny", None),
        ("mini", 2),
    ]
    assert app.ask("GET", "/v1/models/mini").json()["dimensions"] == 2


@pytest.mark.parametrize(
    ("error", "status", "code", "count"),
    [
        (PromptTooLongError("too long"), 400, "context_length_exceeded", "rejected"),
        (NoMemoryNowError("no memory"), 503, "insufficient_memory", "rejected"),
        (EngineError("it broke"), 500, "engine_failed", "failed"),
    ],
)
def test_errors_of_the_model_are_errors_of_the_request(
    app: App, error: DeviceError, status: int, code: str, count: str
) -> None:
    app.generator.error = error
    response = app.embed(input="a")
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    if status == 400:
        assert response.json()["error"]["param"] == "input"
    assert getattr(app.stats.snapshot()[0], count) == 1


def test_error_after_some_vectors_is_the_whole_answer(app: App) -> None:
    app.generator.late_error = EngineError("it broke")
    response = app.embed(input=["a", "b"])
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "it broke"


def test_counters_have_the_tokens_and_no_speed(app: App) -> None:
    app.embed(input="a")
    requests, tokens_per_s, first_token_s = app.stats.snapshot()
    assert requests.completed == 1
    assert (tokens_per_s, first_token_s) == (Figure(), Figure())
    text = app.ask("GET", "/metrics").text
    assert 'edgepack_requests_total{endpoint="embeddings",outcome="completed"} 1.0' in text
    assert "edgepack_prompt_tokens_total 2.0" in text


def test_ollama_client_reads_the_vectors(app: App) -> None:
    response = app.ask(
        "POST", "/api/embed", json={"model": "mini:latest", "input": ["abc", "a"], "keep_alive": 5}
    )
    read = ollama.EmbedResponse.model_validate(response.json())
    assert read.embeddings == [[3, 3], [1, 1]]
    assert (read.model, read.prompt_eval_count) == ("mini:latest", 2)
    assert 'endpoint="ollama_embed",outcome="completed"} 1.0' in app.ask("GET", "/metrics").text


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"input": "a"}, 400, "model is required"),
        ({"model": "mini"}, 400, "input is required"),
        ({"model": "mini", "input": ""}, 400, "must not be empty"),
        ({"model": "mini", "input": [1]}, 400, "Expected `str`"),
        ({"model": "mini", "input": "a", "truncate": True}, 400, "truncate is supported only as"),
        ({"model": "mini", "input": "a", "dimensions": 3}, 400, "mini has 2 dimensions"),
        ({"model": "tiny:latest", "input": "a"}, 400, "makes no embeddings"),
        ({"model": "other", "input": "a"}, 404, "does not exist"),
    ],
)
def test_ollama_request_that_is_invalid_is_refused(
    app: App, fields: dict[str, Any], status: int, words: str
) -> None:
    response = app.ask("POST", "/api/embed", json=fields)
    assert response.status_code == status
    assert words in response.json()["error"]


def test_client_that_disconnects_ends_the_work(app: App) -> None:
    ended = asyncio.Event()

    async def embed(request: EmbeddingRequest) -> AsyncGenerator[EmbeddingChunk]:
        try:
            yield EmbeddingChunk()
            yield EmbeddingChunk(vector=vector("a"))
            await asyncio.Event().wait()
        finally:
            ended.set()

    app.generator.embed = embed  # type: ignore[method-assign]
    body = json.dumps({"input": ["a", "b"]}).encode()
    received: list[dict[str, Any]] = [
        {"type": "http.request", "body": body, "more_body": False},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return received.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": []}
    asyncio.run(app.application(scope, receive, send))
    assert ended.is_set()
    assert sent[0]["status"] == 499
    assert app.stats.snapshot()[0].cancelled == 1
