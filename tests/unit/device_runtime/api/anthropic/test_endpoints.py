"""Anthropic's endpoints over HTTP, and the form of all errors below them."""

import json
from typing import Any

import httpx
import pytest

from device_runtime.api.app import Api
from device_runtime.api.served_model import ServedModel
from device_runtime.errors import DeviceError, EngineError, ServiceError
from device_runtime.inference.engine import PromptTooLongError
from device_runtime.server.access_log import AccessLog
from device_runtime.status.report import RequestStats
from device_runtime.tools.dialect import Dialect
from device_runtime.worker.errors import DeadlineError, QueueFullError
from tests.support import asgi
from tests.support.fakes import FakeGenerator, runtime_status

SERVED = ServedModel(model="tiny", dialect=Dialect.of(""), max_tokens=64, adapters=("a",))
BODY: dict[str, Any] = {
    "model": "tiny",
    "max_tokens": 4,
    "messages": [{"role": "user", "content": "Hi"}],
}


class App:
    """The application around a fake generator."""

    def __init__(self) -> None:
        self.generator = FakeGenerator()
        self.stats = RequestStats()
        self._app = Api(
            self.generator, self.stats, lambda: runtime_status(self.stats), SERVED
        ).app()

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asgi.request(self._app, method, path, **options)

    def message(self, **fields: Any) -> httpx.Response:
        return self.ask("POST", "/v1/messages", json=BODY | fields)


@pytest.fixture
def app() -> App:
    return App()


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    """The named events of a stream."""
    parts = [part.split("\n") for part in response.text.strip().split("\n\n")]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in parts
    ]


def test_message_whole_and_streamed(app: App) -> None:
    whole = app.message().json()
    assert whole["content"] == [{"type": "text", "text": "Hello there"}]
    response = app.message(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    sent = events(response)
    assert [name for name, _ in sent] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert all(name == data["type"] for name, data in sent)


def test_count_is_no_answer_in_the_statistics(app: App) -> None:
    body = {name: value for name, value in BODY.items() if name != "max_tokens"}
    counted = app.ask("POST", "/v1/messages/count_tokens", json=body)
    assert counted.json() == {"input_tokens": 2}
    assert app.generator.requests[0].counts
    requests, _, first_token_s = app.stats.snapshot()
    assert requests.completed == 1
    assert first_token_s.last is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (PromptTooLongError("too long"), 400, "invalid_request_error"),
        (QueueFullError("full", retry_after_s=5), 429, "rate_limit_error"),
        (EngineError("it broke"), 500, "api_error"),
        (ServiceError("stopping"), 503, "overloaded_error"),
        (DeadlineError("too late"), 504, "timeout_error"),
    ],
)
def test_errors_before_the_answer(
    app: App, error: DeviceError, status: int, kind: str, stream: bool
) -> None:
    app.generator.error = error
    response = app.message(stream=stream)
    assert response.status_code == status
    body = response.json()
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    too_long = isinstance(error, PromptTooLongError)
    assert body["error"]["message"].startswith("prompt is too long: " if too_long else str(error))
    assert ("retry-after" in response.headers) == isinstance(error, QueueFullError)


def test_error_within_a_streamed_answer_is_its_last_event(app: App) -> None:
    app.generator.late_error = EngineError("it broke")
    name, data = events(app.message(stream=True))[-1]
    assert name == data["type"] == "error"
    assert data["error"] == {"type": "api_error", "message": "it broke"}


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "kind"),
    [
        ("POST", "/v1/messages/batches", b"{}", 404, "not_found_error"),
        ("GET", "/v1/messages", b"", 405, "invalid_request_error"),
        ("POST", "/v1/messages", b"{", 400, "invalid_request_error"),
        ("POST", "/v1/messages", b"x" * 1_100_000, 413, "request_too_large"),
    ],
)
def test_all_errors_below_the_path_have_one_form(
    app: App, method: str, path: str, content: bytes, status: int, kind: str
) -> None:
    response = app.ask(method, path, content=content)
    assert response.status_code == status
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == kind
    assert app.generator.requests == []


def test_clients_know_to_go_on_without_a_thread(app: App) -> None:
    response = app.message(thread={"type": "create"})
    assert response.status_code == 400
    assert response.json()["error"]["details"] == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["thread"],
    }
    assert "details" not in app.message(n=2).json()["error"]


def test_other_paths_keep_the_form_of_openai(app: App) -> None:
    assert {*app.ask("GET", "/v1/messagesx").json()} == {"error"}
    assert app.ask("GET", "/v1/messagesx").json()["error"]["param"] is None


def test_models_as_anthropics_client_reads_them(app: App) -> None:
    version = {"anthropic-version": "2023-06-01"}
    page = app.ask("GET", "/v1/models", headers=version).json()
    assert [model["id"] for model in page["data"]] == ["tiny", "tiny:a"]
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("tiny", "tiny:a", False)
    model = app.ask("GET", "/v1/models/tiny:a", headers=version).json()
    assert (model["type"], model["display_name"]) == ("model", "tiny:a")
    assert model["created_at"].endswith("Z")
    assert app.ask("GET", "/v1/models").json()["object"] == "list"


def test_errors_have_the_requests_id() -> None:
    generator = FakeGenerator()
    stats = RequestStats()
    api = Api(generator, stats, lambda: runtime_status(stats), SERVED)
    app = AccessLog(api.app())
    refused = asgi.request(app, "POST", "/v1/messages", json=BODY | {"max_tokens": 0})
    assert refused.json()["request_id"] == refused.headers["request-id"]
    own = {"X-Request-Id": "job-7"}
    missing = asgi.request(app, "GET", "/v1/messages/none", headers=own)
    assert missing.json()["request_id"] == "job-7"
    generator.late_error = EngineError("too bad")
    failed = asgi.request(app, "POST", "/v1/messages", json=BODY | {"stream": True}, headers=own)
    last = failed.text.strip().rpartition("data: ")[2]
    assert json.loads(last)["request_id"] == "job-7"
