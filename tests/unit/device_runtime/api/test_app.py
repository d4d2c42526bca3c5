"""What HTTP makes of the generator's chunks and errors."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from device_runtime.api import generation, streaming
from device_runtime.api.app import Api
from device_runtime.api.served_model import ServedModel
from device_runtime.errors import DeviceError, EngineError, ResourceError, ServiceError
from device_runtime.inference.engine import (
    GenerationChunk,
    GenerationRequest,
    NoMemoryNowError,
    OutOfMemoryError,
    PromptTooLongError,
)
from device_runtime.server.listener import bind, is_loopback, url_of
from device_runtime.status.report import Figure, RequestStats, RuntimeStatus
from device_runtime.tools.dialect import Dialect
from device_runtime.worker.errors import BusyError, DeadlineError, QueueFullError
from device_runtime.worker.health import Health
from tests.support import asgi
from tests.support.fakes import FakeGenerator, runtime_status
from tests.support.serving import chat_body

SERVED = ServedModel(model="tiny", dialect=Dialect.of(""), max_tokens=64, adapters=("a",))


class App:
    """The application around a fake generator, asked without a network."""

    def __init__(self, generator: FakeGenerator | None = None) -> None:
        self.generator = generator or FakeGenerator()
        self.stats = RequestStats()
        self.health = Health.READY
        self.application = Api(self.generator, self.stats, self.status, SERVED).app()

    def status(self) -> RuntimeStatus:
        return runtime_status(self.stats, self.health)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asgi.request(self.application, method, path, **options)

    def chat(self, **fields: Any) -> httpx.Response:
        return self.ask("POST", "/v1/chat/completions", json=chat_body(**fields))


@pytest.fixture
def app() -> App:
    return App()


def events(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_whole_answer(app: App) -> None:
    answer = app.chat().json()
    assert answer["choices"][0]["message"]["content"] == "Hello there"
    assert answer["usage"]["completion_tokens"] == 3
    requests, tokens_per_s, _ = app.stats.snapshot()
    assert requests.completed == 1
    assert tokens_per_s == Figure(last=20.0, average=20.0, p50=20.0, p95=20.0)


def test_streamed_answer(app: App) -> None:
    response = app.chat(stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, totals, done = events(response)
    text = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    assert text == ["", "Hello ", "there", None]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert totals["usage"]["total_tokens"] == 5
    assert done == "[DONE]"


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.mark.parametrize("stream", [False, True])
def test_header_has_the_keywords_of_tools_that_are_not_enforced(
    app: App, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tags = {"type": "array", "uniqueItems": True}
    tools = [tool("search", tags=tags), tool("other", **{"my\nkéy": {"not": {}}})]
    response = app.chat(tools=tools, stream=stream)
    assert response.headers["X-Edgepack-Ignored-Keywords"] == (
        'search.properties.tags.uniqueItems, other.properties["my\\nk\\u00e9y"].not'
    )
    [line] = [line for line in caplog.records if line.message == "keywords_ignored"]
    assert vars(line)["edgepack_fields"] == {"keywords": "not uniqueItems", "count": 2}


def test_no_header_without_such_keywords(app: App) -> None:
    response = app.chat(tools=[tool("search", tags={"type": "array"})])
    assert "X-Edgepack-Ignored-Keywords" not in response.headers


def test_header_is_cut_to_its_bound(app: App) -> None:
    properties: Any = {f"{'p' * 30}{number}": {"not": {}} for number in range(60)}
    header = app.chat(tools=[tool("f", **properties)]).headers["X-Edgepack-Ignored-Keywords"]
    assert len(header) == 1000
    assert header.endswith("...")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code", "count"),
    [
        (PromptTooLongError("too long"), 400, "context_length_exceeded", "rejected"),
        (OutOfMemoryError("too much"), 400, "kv_cache_too_small", "rejected"),
        (NoMemoryNowError("no memory"), 503, "insufficient_memory", "rejected"),
        (DeadlineError("too late"), 504, "deadline_exceeded", "failed"),
        (QueueFullError("full", retry_after_s=5), 429, "queue_full", "rejected"),
        (BusyError("no model", retry_after_s=30), 503, "model_unavailable", "rejected"),
        (EngineError("it broke"), 500, "engine_failed", "failed"),
        (ServiceError("stopping"), 503, "stopping", "failed"),
    ],
)
def test_errors_before_the_answer_are_http_errors(
    app: App, error: DeviceError, status: int, code: str, count: str, stream: bool
) -> None:
    app.generator.error = error
    response = app.chat(stream=stream)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert ("retry-after" in response.headers) == isinstance(error, BusyError)
    assert getattr(app.stats.snapshot()[0], count) == 1


class Slow(FakeGenerator):
    """Waits a while before each chunk."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        async for chunk in super().generate(request):
            await asyncio.sleep(0.2)
            yield chunk


WAITING = {
    "/v1/chat/completions": ": waiting\n\n",
    "/v1/responses": ": waiting\n\n",
    "/v1/messages": 'event: ping\ndata: {"type":"ping"}\n\n',
}


@pytest.mark.parametrize("path", WAITING)
def test_stream_shows_that_it_goes_on(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SILENCE_S", 0.05)
    app = App(Slow())
    body = chat_body(stream=True, max_tokens=5) | {"model": "tiny", "input": "Hi"}
    if path == "/v1/responses":
        del body["messages"], body["max_tokens"]
    else:
        del body["input"]
    text = app.ask("POST", path, json=body).text
    beats = text.split(WAITING[path])
    assert beats[0] == "", "the queue is waited for"
    assert len(beats) > 5
    answer = "".join(beats)
    assert "Hello" in answer
    app.generator.late_error = EngineError("it broke")
    assert "it broke" in app.ask("POST", path, json=body).text
    app.generator.error = BusyError("no model", retry_after_s=30)
    refused = app.ask("POST", path, json=body)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")


def test_error_within_a_streamed_answer_is_its_last_event(app: App) -> None:
    app.generator.late_error = EngineError("it broke")
    *_, last = events(app.chat(stream=True))
    assert last["error"]["message"] == "it broke"
    assert app.chat().status_code == 500


def test_health_is_200_and_readiness_is_not_without_a_model(app: App) -> None:
    assert app.ask("GET", "/readyz").status_code == 200
    app.health = Health.DEGRADED
    alive = app.ask("GET", "/healthz")
    assert alive.status_code == 200
    assert (alive.json()["health"], alive.json()["worker_restarts"]) == ("degraded", 2)
    assert app.ask("GET", "/readyz").status_code == 503


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/nothing", 404, "no such endpoint: /nothing"),
        ("GET", "/v1/chat/completions", 405, "method GET not allowed for /v1/chat/completions"),
        ("POST", "/healthz", 405, "method POST not allowed for /healthz"),
    ],
)
def test_unknown_places_have_errors_of_the_same_shape(
    app: App, method: str, path: str, status: int, message: str
) -> None:
    response = app.ask(method, path)
    assert response.status_code == status
    assert response.json()["error"]["message"] == message


def test_wrong_requests_never_reach_the_generator(app: App) -> None:
    assert app.chat(temperature="hot").status_code == 400
    assert app.ask("POST", "/v1/chat/completions", content=b"{").status_code == 400
    assert app.ask("POST", "/v1/chat/completions", content=b"x" * 1_100_000).status_code == 413
    assert app.generator.requests == []
    assert app.stats.snapshot()[0].rejected == 3


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
def test_bind_takes_a_free_port(listen: str) -> None:
    with bind(listen) as bound:
        assert is_loopback(bound)
        assert url_of(bound).startswith("http://")
        assert ":0" not in url_of(bound).removeprefix("http://[::1]")


def test_bind_refuses_what_is_no_address() -> None:
    for listen in ("", "8080", "host:", "127.0.0.1:x", "127.0.0.1:70000"):
        with pytest.raises(ServiceError):
            bind(listen)


def test_bind_names_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(ResourceError, match="in use") as caught:
            bind(f"127.0.0.1:{other.getsockname()[1]}")
        assert caught.value.hint
    with bind("0.0.0.0:0") as bound:
        assert not is_loopback(bound)


def test_completion_of_raw_text(app: App) -> None:
    answer = app.ask("POST", "/v1/completions", json={"prompt": "Once"}).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"] == "Hello there"
    streamed = events(app.ask("POST", "/v1/completions", json={"prompt": "Once", "stream": True}))
    assert "".join(each["choices"][0]["text"] for each in streamed[:-1]) == "Hello there"


def test_models_are_the_model_and_its_adapters(app: App) -> None:
    models = app.ask("GET", "/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["tiny", "tiny:a"]
    assert app.ask("GET", "/v1/models/tiny:a").json()["id"] == "tiny:a"
    assert app.ask("GET", "/v1/models/gpt").status_code == 404


def test_metrics_count_requests_tokens_and_time(app: App) -> None:
    app.chat()
    app.chat(temperature="hot")
    app.generator.error = EngineError("it broke")
    app.chat()
    response = app.ask("GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert found["edgepack_requests_total", "chat", "completed"] == 1
    assert found["edgepack_requests_total", "chat", "rejected"] == 1
    assert found["edgepack_requests_total", "chat", "failed"] == 1
    assert found["edgepack_prompt_tokens_total",] == 2
    assert found["edgepack_completion_tokens_total",] == 3
    assert found["edgepack_first_token_seconds_count",] == 1
    assert found["edgepack_next_token_seconds_count",] == 1
    assert found["edgepack_worker_restarts_total",] == 2
    assert found["edgepack_health", "ready"] == 1
    assert found["edgepack_health", "failing"] == 0


def test_few_large_bodies_are_read_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "LARGE", 100)
    monkeypatch.setattr(generation, "LARGE_BODIES", 1)
    application = App().application
    path, large = "/v1/chat/completions", json.dumps(chat_body("x" * 200)).encode()

    async def test() -> None:
        may_end = asyncio.Event()
        is_read: list[str] = []

        async def body(name: str) -> AsyncGenerator[bytes]:
            yield large[:150]
            is_read.append(name)
            await may_end.wait()
            yield large[150:]

        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            sent = [asyncio.create_task(client.post(path, content=body(name))) for name in "ab"]
            small = await client.post(path, json=chat_body())
            assert small.status_code == 200
            for _ in range(100):
                await asyncio.sleep(0)
            assert is_read == ["a"]
            may_end.set()
            assert [(await task).status_code for task in sent] == [200, 200]

    asyncio.run(test())
