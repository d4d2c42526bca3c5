"""Ollama's endpoints over HTTP, and the form of all errors below them."""

import json
from typing import Any

import httpx
import msgspec
import ollama
import pytest

from device_runtime.api.app import Api
from device_runtime.api.ollama.endpoints import API_VERSION
from device_runtime.api.served_model import ModelCard, ServedModel
from device_runtime.errors import EngineError
from device_runtime.status.report import RequestStats, RuntimeStatus
from device_runtime.tools.dialect import Dialect
from device_runtime.worker.errors import QueueFullError
from device_runtime.worker.health import Health
from tests.support import asgi
from tests.support.fakes import FakeGenerator, runtime_status
from tests.unit.device_runtime.api.test_embeddings import ENCODER

SERVED = ServedModel(
    model="tiny",
    dialect=Dialect.of(""),
    max_tokens=64,
    adapters=("a",),
    card=ModelCard(
        architecture="Qwen2ForCausalLM",
        parameters=134_515_008,
        recipe="int4",
        license="MIT",
        size_bytes=1000,
        digest="0" * 64,
        context_length=4096,
        template="{{ messages }}",
    ),
)
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


class App:
    """The application around a fake generator."""

    def __init__(self, served: ServedModel = SERVED) -> None:
        self.generator = FakeGenerator()
        self.health = Health.READY
        self.stats = RequestStats()
        self._app = Api(self.generator, self.stats, self.status, served).app()

    def status(self) -> RuntimeStatus:
        return runtime_status(self.stats, self.health)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asgi.request(self._app, method, path, **options)

    def chat(self, **fields: Any) -> httpx.Response:
        return self.ask("POST", "/api/chat", json=CHAT | fields)


@pytest.fixture
def app() -> App:
    return App()


def lines(response: httpx.Response) -> list[Any]:
    return [json.loads(line) for line in response.text.splitlines()]


def test_chat_is_streamed_in_lines_by_default(app: App) -> None:
    response = app.chat()
    assert response.headers["content-type"] == "application/x-ndjson"
    *parts, last = lines(response)
    assert [part["message"]["content"] for part in parts] == ["Hello ", "there"]
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "stop", 3)
    whole = app.chat(stream=False)
    assert whole.headers["content-type"] == "application/json"
    assert whole.json()["message"]["content"] == "Hello there"


def test_generate(app: App) -> None:
    body = {"model": "tiny:latest", "prompt": "Hi", "stream": False}
    answer = app.ask("POST", "/api/generate", json=body).json()
    assert (answer["model"], answer["response"]) == ("tiny:latest", "Hello there")


def test_request_without_messages_generates_nothing(app: App) -> None:
    (line,) = lines(app.chat(messages=[]))
    assert (line["done"], line["done_reason"]) == (True, "load")
    assert app.generator.requests[0].counts


def test_models_are_listed_with_tags(app: App) -> None:
    listed = ollama.ListResponse.model_validate(app.ask("GET", "/api/tags").json()).models
    assert [model.model for model in listed] == ["tiny:latest", "tiny:a"]
    assert listed[0].size == 1000
    assert listed[0].digest == "0" * 64
    assert listed[0].details is not None
    assert listed[0].details.family == "qwen2"
    assert listed[0].details.parameter_size == "134.5M"
    assert listed[0].details.quantization_level == "int4"


def test_embedding_model_is_listed_and_shown() -> None:
    card = ModelCard(architecture="BertModel", recipe="fp16", size_bytes=10, context_length=8)
    served = msgspec.structs.replace(SERVED, embedding=ENCODER, embedding_card=card)
    app = App(served)
    listed = ollama.ListResponse.model_validate(app.ask("GET", "/api/tags").json()).models
    assert [(model.model, model.size) for model in listed] == [
        *(("tiny:latest", 1000), ("tiny:a", 1000)),
        ("mini:latest", 10),
    ]
    for name in ("mini", "mini:latest"):
        answer = app.ask("POST", "/api/show", json={"model": name}).json()
        shown = ollama.ShowResponse.model_validate(answer)
        assert shown.capabilities == ["embedding"]
        assert shown.modelinfo is not None
        assert shown.modelinfo["bert.embedding_length"] == 2
        assert shown.modelinfo["bert.context_length"] == 8


def test_only_a_model_in_memory_is_running(app: App) -> None:
    running = ollama.ProcessResponse.model_validate(app.ask("GET", "/api/ps").json()).models
    assert [(model.name, model.context_length) for model in running] == [("tiny:latest", 4096)]
    app.health = Health.UNLOADED
    assert app.ask("GET", "/api/ps").json() == {"models": []}


@pytest.mark.parametrize("body", [{"model": "tiny"}, {"model": "tiny:a"}, {"name": "tiny:latest"}])
def test_model_is_shown(app: App, body: dict[str, str]) -> None:
    shown = ollama.ShowResponse.model_validate(app.ask("POST", "/api/show", json=body).json())
    assert shown.capabilities == ["completion", "tools"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["qwen2.context_length"] == 4096
    assert shown.modelinfo["general.parameter_count"] == 134_515_008
    assert (shown.template, shown.license) == ("{{ messages }}", "MIT")


def test_version(app: App) -> None:
    assert app.ask("GET", "/api/version").json() == {"version": API_VERSION}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/api/show", {"model": "gpt"}, 404, "model 'gpt' not found"),
        ("POST", "/api/show", {}, 400, "model: "),
        ("POST", "/api/show", {"model": "tiny", "system": "x"}, 400, "system is supported only"),
        ("POST", "/api/chat", CHAT | {"model": "gpt"}, 404, "the model 'gpt' does not exist"),
        ("POST", "/api/pull", {"model": "x"}, 501, "/api/pull is not supported"),
        ("POST", "/api/push", {"model": "x"}, 501, "/api/push is not supported"),
        ("POST", "/api/create", {"model": "x"}, 501, "/api/create is not supported"),
        ("POST", "/api/copy", {"source": "x"}, 501, "/api/copy is not supported"),
        ("DELETE", "/api/delete", {"model": "x"}, 501, "/api/delete is not supported"),
        ("POST", "/api/blobs/sha256:0", {}, 501, "/api/blobs/sha256:0 is not supported"),
        ("GET", "/api/nothing", {}, 404, "no such endpoint: /api/nothing"),
        ("GET", "/api/chat", {}, 405, "method GET not allowed"),
    ],
)
def test_errors_have_ollamas_form(
    app: App, method: str, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    response = app.ask(method, path, json=body)
    assert response.status_code == status
    assert {*response.json()} == {"error"}
    assert response.json()["error"].startswith(message)
    assert app.generator.requests == []


def test_errors_of_the_engine(app: App) -> None:
    app.generator.error = QueueFullError("full", retry_after_s=5)
    response = app.chat()
    assert (response.status_code, response.json()) == (429, {"error": "full. Try again in 5 s."})
    assert response.headers["retry-after"] == "5"
    assert app.ask("POST", "/api/chat", content=b"x" * 1_100_000).status_code == 413


def test_error_within_a_streamed_answer_is_its_last_line(app: App) -> None:
    app.generator.late_error = EngineError("it broke")
    assert lines(app.chat())[-1] == {"error": "it broke"}
