"""The endpoints of the Responses API around a fake generator."""

import json
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from device_runtime.api.app import Api
from device_runtime.api.openai_responses.store import ResponseStore
from device_runtime.api.served_model import ServedModel
from device_runtime.errors import EngineError
from device_runtime.inference.engine import OutOfMemoryError, PromptTooLongError
from device_runtime.status.report import RequestStats
from device_runtime.tools.dialect import Dialect
from tests.support import asgi
from tests.support.fakes import FakeGenerator, runtime_status

SERVED = ServedModel(model="tiny", dialect=Dialect.of(""), max_tokens=64)


class App:
    """The application; `key` is the name of the API key of the next requests."""

    def __init__(self, count: int = 10) -> None:
        self.generator = FakeGenerator()
        self.stats = RequestStats()
        self.key = ""
        store = ResponseStore(count, 1 << 20)
        self._app = Api(
            self.generator, self.stats, lambda: runtime_status(self.stats), SERVED, store=store
        ).app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.key:
            scope.setdefault("state", {})["key_name"] = self.key
        await self._app(scope, receive, send)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asgi.request(self, method, f"/v1/responses{path}", **options)

    def create(self, text: Any = "Hi", **fields: Any) -> httpx.Response:
        return self.ask("POST", "", json={"input": text, **fields})


@pytest.fixture
def app() -> App:
    return App()


def events(response: httpx.Response) -> list[Any]:
    sent = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        fields = json.loads(data.removeprefix("data: "))
        assert name == f"event: {fields['type']}"
        sent.append(fields)
    return sent


def test_whole_and_streamed_agree(app: App) -> None:
    whole = app.create().json()
    streamed = app.create(stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    last = events(streamed)[-1]
    assert last["type"] == "response.completed"
    for response in (whole, last["response"]):
        for name in ("id", "created_at", "completed_at"):
            response.pop(name)
        response["output"][0].pop("id")
    assert last["response"] == whole
    assert whole["output"][0]["content"][0]["text"] == "Hello there"


@pytest.mark.parametrize("stream", [False, True])
def test_response_can_be_retrieved_until_it_is_deleted(app: App, stream: bool) -> None:
    answer = app.create(stream=stream)
    whole = events(answer)[-1]["response"] if stream else answer.json()
    place = f"/{whole['id']}"
    assert app.ask("GET", place).json() == whole
    assert app.ask("DELETE", place).json() == {
        "id": whole["id"],
        "object": "response",
        "deleted": True,
    }
    for method in ("GET", "DELETE"):
        response = app.ask(method, place)
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "response_not_found"
    assert app.create(previous_response_id=whole["id"]).status_code == 404


def test_other_methods_are_refused(app: App) -> None:
    response = app.ask("PUT", "/resp_1")
    assert response.status_code == 405
    assert {"GET", "DELETE"} <= {*response.headers["allow"].split(", ")}


def test_conversation_goes_on_over_three_turns(app: App) -> None:
    response_id = None
    for text in ("One", "Two", "Three"):
        response_id = app.create(text, previous_response_id=response_id).json()["id"]
    prompt = app.generator.requests[-1].prompt
    assert isinstance(prompt, tuple)
    assert [turn.content for turn in prompt] == [
        "One",
        "Hello there",
        "Two",
        "Hello there",
        "Three",
    ]


def test_instructions_are_not_carried_over(app: App) -> None:
    first = app.create("One", instructions="Be brief.").json()["id"]
    app.create("Two", previous_response_id=first)
    prompt = app.generator.requests[-1].prompt
    assert isinstance(prompt, tuple)
    assert [turn.role for turn in prompt] == ["user", "assistant", "user"]


def test_output_can_be_sent_back_as_it_came(app: App) -> None:
    output = app.create().json()["output"]
    asked = {"role": "user", "content": "Hi"}
    assert app.create([asked, *output, asked]).status_code == 200
    assert app.create([asked, {"id": output[0]["id"]}, asked]).status_code == 200
    first, second = app.generator.requests[-2:]
    assert first == second


def test_nothing_is_kept_unless_wanted(app: App) -> None:
    whole = app.create(store=False).json()
    assert whole["store"] is False
    assert app.ask("GET", f"/{whole['id']}").status_code == 404


def test_nothing_is_kept_where_the_store_is_off() -> None:
    app = App(count=0)
    whole = app.create(store=True).json()
    assert whole["store"] is False
    assert app.ask("GET", f"/{whole['id']}").status_code == 404


def test_response_of_another_key_is_not_found(app: App) -> None:
    app.key = "alice"
    whole = app.create().json()
    place = f"/{whole['id']}"
    app.key = "bob"
    assert app.ask("GET", place).status_code == 404
    assert app.ask("DELETE", place).status_code == 404
    assert app.ask("GET", f"{place}/input_items").status_code == 404
    assert app.create(previous_response_id=whole["id"]).status_code == 404
    app.key = "alice"
    assert app.ask("GET", place).status_code == 200


def test_input_items_are_listed_in_pages(app: App) -> None:
    first = app.create([{"role": "user", "content": "One"}]).json()["id"]
    response_id = app.create("Two", previous_response_id=first).json()["id"]
    place = f"/{response_id}/input_items"
    page = app.ask("GET", place, params={"order": "asc", "limit": 2}).json()
    assert [item["content"][0]["text"] for item in page["data"]] == ["One", "Hello there"]
    assert (page["object"], page["has_more"]) == ("list", True)
    rest = app.ask("GET", place, params={"order": "asc", "after": page["last_id"]}).json()
    assert [item["content"][0]["text"] for item in rest["data"]] == ["Two"]
    assert rest["has_more"] is False
    newest = app.ask("GET", place).json()
    assert [item["id"] for item in newest["data"]] == [
        item["id"] for item in reversed(page["data"] + rest["data"])
    ]
    end = app.ask("GET", place, params={"after": newest["last_id"]}).json()
    assert (end["data"], end["first_id"], end["last_id"]) == ([], None, None)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "msg_9"}, "after"),
    ],
)
def test_wrong_query_is_refused(app: App, query: dict[str, Any], param: str) -> None:
    place = f"/{app.create().json()['id']}/input_items"
    response = app.ask("GET", place, params=query)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_kept_response_is_not_streamed(app: App) -> None:
    place = f"/{app.create().json()['id']}"
    response = app.ask("GET", place, params={"stream": "true"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "stream")


def test_nothing_can_be_cancelled(app: App) -> None:
    response = app.ask("POST", f"/{app.create().json()['id']}/cancel")
    assert response.status_code == 400
    assert "close its connection" in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "param"),
    [(PromptTooLongError("too long"), "input"), (OutOfMemoryError("no"), "max_output_tokens")],
)
def test_errors_of_the_engine_name_this_api_s_fields(
    app: App, error: Exception, param: str, stream: bool
) -> None:
    app.generator.error = error  # type: ignore[assignment]
    response = app.create(stream=stream)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_error_within_an_answer(app: App) -> None:
    app.generator.late_error = EngineError("it broke")
    last = events(app.create(stream=True))[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["message"] == "it broke"
    assert app.ask("GET", f"/{last['response']['id']}").status_code == 404
    assert app.create().status_code == 500
    assert app.stats.snapshot()[0].failed == 2


def test_tokens_are_counted_without_an_answer(app: App) -> None:
    response = app.ask("POST", "/input_tokens", json={"input": "Hi", "stream": True})
    assert response.json() == {"object": "response.input_tokens", "input_tokens": 2}
    (request,) = app.generator.requests
    assert request.counts
    wrong = app.ask("POST", "/input_tokens", json={"input": [{"type": "web_search_call"}]})
    assert wrong.json()["error"]["param"] == "input[0].type"


def test_metrics_have_a_label(app: App) -> None:
    app.create()
    app.create(temperature="hot")
    metrics = asgi.request(app, "GET", "/metrics").text
    assert 'edgepack_requests_total{endpoint="responses",outcome="completed"} 1.0' in metrics
    assert 'edgepack_requests_total{endpoint="responses",outcome="rejected"} 1.0' in metrics
