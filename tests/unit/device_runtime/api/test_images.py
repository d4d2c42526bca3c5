"""Images in the requests of all APIs: what reaches the engine, and what is refused by its name."""

import asyncio
import json
import logging
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from device_runtime.api import images
from device_runtime.api.app import Api
from device_runtime.api.chat_requests import parse_chat
from device_runtime.api.errors import ApiError
from device_runtime.api.image_loader import ImageLoader
from device_runtime.api.openai_responses.store import ResponseStore
from device_runtime.api.requests import ParsedRequest
from device_runtime.api.served_model import ServedModel
from device_runtime.bundle.vision import Vision
from device_runtime.errors import RequestError
from device_runtime.inference.engine import Image, Message
from device_runtime.status.report import RequestStats
from device_runtime.tools.dialect import Dialect
from tests.support import asgi, tool_templates
from tests.support.conversations import turns
from tests.support.fakes import FakeGenerator, runtime_status

DATA = b"\x89PNG and more\x00"
BASE64 = b64encode(DATA).decode()
URL = f"data:image/png;base64,{BASE64}"
TEXT_MODEL = ServedModel(model="tiny", dialect=Dialect.of(""), max_tokens=64)
SERVED = msgspec.structs.replace(TEXT_MODEL, vision=Vision(family="phi3v", image_tokens=9))

Body = Callable[[str], dict[str, Any]]


class App:
    """The application around a fake generator."""

    def __init__(self, served: ServedModel = SERVED, loader: ImageLoader | None = None) -> None:
        self.generator = FakeGenerator()
        stats = RequestStats()
        self._app = Api(
            self.generator,
            stats,
            lambda: runtime_status(stats),
            served,
            store=ResponseStore(9, 1 << 20),
            images=loader,
        ).app()

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asgi.request(self._app, method, path, **options)

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self.ask("POST", path, json=body)

    @property
    def content(self) -> Any:
        """Content of the last turn of the last request."""
        return turns(self.generator.requests[-1])[-1].content


def part(url: str = URL, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [*content]}


def _chat(url: str) -> dict[str, Any]:
    return {"messages": [user(text("What?"), part(url, detail="high"))]}


def _response(url: str) -> dict[str, Any]:
    content = [
        {"type": "input_text", "text": "What?"},
        {"type": "input_image", "image_url": url, "detail": "auto", "file_id": None},
    ]
    return {"input": [{"role": "user", "content": content}]}


def _message(url: str) -> dict[str, Any]:
    source = {"type": "url", "url": url}
    if url.startswith("data:"):
        data = url.rpartition(",")[2]
        source = {"type": "base64", "media_type": "image/png", "data": data}
    image = {"type": "image", "source": source, "transformations": {}}
    return {"model": "tiny", "max_tokens": 5, "messages": [user(text("What?"), image)]}


def _ollama_chat(url: str) -> dict[str, Any]:
    turn = {"role": "user", "content": "What?", "images": [url.rpartition(",")[2]]}
    return {"model": "tiny", "stream": False, "messages": [turn]}


def _ollama_generate(url: str) -> dict[str, Any]:
    images = [url.rpartition(",")[2]]
    return {"model": "tiny", "stream": False, "prompt": "What?", "images": images}


APIS: dict[str, tuple[str, Body, str]] = {
    "chat": ("/v1/chat/completions", _chat, "messages[0].content[1].image_url"),
    "responses": ("/v1/responses", _response, "input[0].content[1].image_url"),
    "input_tokens": ("/v1/responses/input_tokens", _response, "input[0].content[1].image_url"),
    "messages": ("/v1/messages", _message, "messages[0].content[1].source.data"),
    "ollama_chat": ("/api/chat", _ollama_chat, "messages[0].images[0]"),
    "ollama_generate": ("/api/generate", _ollama_generate, "images[0]"),
}
"""Path, body with an image, and name of the image's field in errors."""
every_api = pytest.mark.parametrize(("path", "body", "place"), APIS.values(), ids=APIS)


def message_of(answer: httpx.Response) -> str:
    """The message of an error, whichever form it has."""
    error = answer.json()["error"]
    return str(error if isinstance(error, str) else error["message"])


@every_api
def test_image_reaches_the_engine_in_its_place(path: str, body: Body, place: str) -> None:
    app = App()
    answer = app.post(path, body(URL))
    assert answer.status_code == 200, answer.text
    image, words = Image(DATA), "What?"
    # Ollama's images precede the text.
    assert app.content == ((image, words) if path.startswith("/api/") else (words, image))


@every_api
def test_text_model_refuses_an_image_by_its_field(path: str, body: Body, place: str) -> None:
    app = App(TEXT_MODEL)
    answer = app.post(path, body(URL))
    assert answer.status_code == 400
    message = f"{place} is not supported: the model 'tiny' takes text alone"
    assert message_of(answer) == message
    assert not app.generator.requests


@every_api
def test_what_is_not_base64_is_refused_by_its_field(path: str, body: Body, place: str) -> None:
    answer = App().post(path, body("data:image/png;base64,AA=A"))
    assert answer.status_code == 400
    assert message_of(answer) == f"{place} is not valid base64"
    assert BASE64 not in answer.text


@every_api
def test_image_that_the_worker_refuses_is_a_bad_request(path: str, body: Body, place: str) -> None:
    app = App()
    app.generator.error = RequestError("image 1 is not an image that can be read")
    answer = app.post(path, body(URL))
    assert answer.status_code == 400
    assert message_of(answer) == "image 1 is not an image that can be read"


def parse(*messages: dict[str, Any], **fields: Any) -> ParsedRequest:
    served = fields.pop("served", SERVED)
    return parse_chat(json.dumps({"messages": messages, **fields}).encode(), served)


def refused(*messages: dict[str, Any], **fields: Any) -> tuple[str | None, str | None]:
    with pytest.raises(ApiError) as caught:
        parse(*messages, **fields)
    assert caught.value.status == 400
    return caught.value.param, caught.value.code


def contents(parsed: ParsedRequest) -> list[Any]:
    return [turn.content for turn in turns(parsed.generation)]


def test_texts_between_images_are_joined() -> None:
    image = Image(DATA)
    mixed = parse(user(text("a"), text("b"), part(), part(), text("c"), text(""), text("d")))
    assert contents(mixed) == [("a\nb", image, image, "c\n\nd")]
    assert contents(parse(user(part()))) == [(image,)]
    assert contents(parse(user(text("a"), text("b")))) == ["a\nb"]
    assert contents(parse(user())) == [""]


@pytest.mark.parametrize(
    "url",
    [
        f"data:;base64,{BASE64}",
        f"DATA:image/png;BASE64,{BASE64}",
        f"data:image/jpeg;charset=utf-8;base64,{BASE64}",
    ],
)
def test_forms_of_data_urls(url: str) -> None:
    assert contents(parse(user(part(url)))) == [(Image(DATA),)]


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:image/png",
        "data:image/png,AAAA",
        "data:image/png;base64,",
        "data:image/png;base64,A",
        "data:image/png;base64,AA AA",
        "data:image/png;base64,AAAA\n",
        "data:image/png;base64,é",
        "data:image/svg+xml,<svg/>",
        "data:" + "a;" * 10_000,
    ],
)
def test_data_that_are_not_an_image_are_refused(url: str) -> None:
    place = "messages[0].content[1].image_url"
    assert refused(user(part(), part(url))) == (place, "invalid_image")


def test_size_is_checked_before_and_after_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 10)
    for size, is_allowed in ((10, True), (11, False), (12, False), (13, False), (5000, False)):
        url = "data:;base64," + b64encode(b"x" * size).decode()
        if is_allowed:
            assert contents(parse(user(part(url)))) == [(Image(b"x" * size),)]
        else:
            place = "messages[0].content[0].image_url"
            assert refused(user(part(url))) == (place, "image_too_large")


def test_number_of_images_is_bounded() -> None:
    turn = user(*[part()] * 4)
    assert len(contents(parse(turn, turn))[1]) == 4
    place = "messages[2].content[0].image_url"
    assert refused(turn, turn, user(part())) == (place, "too_many_images")


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
def test_only_users_have_images(role: str) -> None:
    turn = {"role": role, "content": [text("a"), part()]}
    assert refused(turn) == ("messages[0].content[1].image_url", "invalid_value")


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ({"type": "image_url"}, "image_url"),
        ({"type": "image_url", "image_url": URL}, "image_url"),
        ({"type": "image_url", "image_url": {}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": 1}}, "image_url.url"),
        (part(detail="huge"), "image_url.detail"),
        (part(size=1), "image_url.size"),
        (part() | {"image": URL}, "image"),
    ],
)
def test_wrong_fields_of_a_part_are_named(content: dict[str, Any], param: str) -> None:
    assert refused(user(content))[0] == f"messages[0].content[0].{param}"


WEATHER = {"type": "function", "function": {"name": "weather"}}
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("template", "described"),
    [("", True), (tool_templates.HERMES, False), (tool_templates.PHI4, True)],
)
def test_images_stay_beside_tools(template: str, described: bool) -> None:
    served = msgspec.structs.replace(SERVED, dialect=Dialect.of(template))
    turn = user(text("Where?"), part())
    result = {"role": "tool", "tool_call_id": "c", "content": "Rain."}
    call = {"role": "assistant", "tool_calls": [CALL]}
    found = contents(parse(turn, call, result, turn, tools=[WEATHER], served=served))
    assert ("Where?", Image(DATA)) in found
    last = found[-1]
    assert last[-2:] == ("Where?", Image(DATA)) or last[-1] == Image(DATA)
    assert "weather" in str(found[0]) or not described


def test_tools_without_a_system_turn_are_described_before_the_image() -> None:
    template = "{{ raise_exception('System role not supported') }}"
    served = msgspec.structs.replace(SERVED, dialect=Dialect.of(template))
    (content,) = contents(parse(user(part(), text("Where?")), tools=[WEATHER], served=served))
    instructions, *rest = content
    assert "weather" in instructions
    assert rest == [Image(DATA), "Where?"]
    (content,) = contents(parse(user(text("Where?"), part()), tools=[WEATHER], served=served))
    assert content[0].endswith("\n\nWhere?")
    assert content[1:] == (Image(DATA),)


def test_image_after_the_result_of_a_call_is_in_one_turn_with_it() -> None:
    result = {"role": "tool", "tool_call_id": "c", "content": "Rain."}
    call = {"role": "assistant", "tool_calls": [CALL]}
    found = parse({"role": "user", "content": "?"}, call, result, user(text("And"), part()))
    answered = "<tool_response>\nRain.\n</tool_response>\nAnd"
    assert contents(found)[-1] == (answered, Image(DATA))


def test_images_of_a_kept_response_are_kept() -> None:
    app = App()
    first = app.post("/v1/responses", _response(URL)).json()
    app.post("/v1/responses", {"input": "More", "previous_response_id": first["id"]})
    conversation = turns(app.generator.requests[-1])
    assert conversation[0].content == ("What?", Image(DATA))
    (item,) = app.ask("GET", f"/v1/responses/{first['id']}/input_items").json()["data"]
    assert item["content"] == [
        {"type": "input_text", "text": "What?"},
        {"type": "input_image", "image_url": URL, "detail": "auto"},
    ]


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        (
            "/v1/responses",
            {"role": "user", "content": [{"type": "input_image", "file_id": "f"}]},
            "input[0].content[0].",
        ),
        (
            "/v1/messages",
            user({"type": "image", "source": {"type": "file", "file_id": "f"}}),
            "messages[0].content[0].source.type",
        ),
        (
            "/v1/messages",
            {"role": "assistant", "content": _message(URL)["messages"][0]["content"]},
            "messages[0].content[1] is allowed only with the role user",
        ),
        (
            "/api/chat",
            {"role": "assistant", "content": "x", "images": [BASE64]},
            "messages[0].images[0] is allowed only with the role user",
        ),
    ],
)
def test_other_forms_are_refused_by_name(path: str, body: dict[str, Any], place: str) -> None:
    fields: dict[str, Any] = {"input": [body]}
    if path != "/v1/responses":
        fields = {"model": "tiny", "messages": [body]}
    if path == "/v1/messages":
        fields["max_tokens"] = 5
    answer = App().post(path, fields)
    assert answer.status_code == 400
    assert message_of(answer).startswith(place), answer.text


def test_images_are_not_in_tool_results() -> None:
    image = _message(URL)["messages"][0]["content"][1]
    use = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [image]}
    conversation = [user(text("?")), {"role": "assistant", "content": [use]}, user(result)]
    body = {"model": "tiny", "max_tokens": 5, "messages": conversation}
    answer = App().post("/v1/messages", body)
    assert answer.status_code == 400
    assert message_of(answer).startswith("messages[2].content[0].content[0].type")


def test_link_is_left_for_later_in_its_place() -> None:
    parsed = parse(user(part(), part("https://a.example/x.png")), user(part("/a.png"), text("?")))
    assert contents(parsed) == [(Image(DATA), Image(b"")), (Image(b""), "?")]
    assert [(link.number, link.link, link.place) for link in parsed.links] == [
        (1, "https://a.example/x.png", "messages[0].content[1].image_url"),
        (2, "/a.png", "messages[1].content[0].image_url"),
    ]
    prompt = parsed.generation.prompt
    assert isinstance(prompt, tuple)
    whole = images.with_images(prompt, {1: Image(b"1"), 2: Image(b"2")})
    assert [turn.content for turn in whole] == [(Image(DATA), Image(b"1")), (Image(b"2"), "?")]
    assert whole[0] == Message(role="user", content=(Image(DATA), Image(b"1")))


@pytest.mark.parametrize("served", [SERVED, TEXT_MODEL], ids=["sees", "text"])
def test_models_say_whether_they_see(served: ServedModel) -> None:
    app, sees = App(served), served.vision is not None
    (model,) = app.ask("GET", "/v1/models").json()["data"]
    assert model["input_modalities"] == (["text", "image"] if sees else ["text"])
    shown = app.post("/api/show", {"model": "tiny"}).json()
    assert ("vision" in shown["capabilities"]) is sees


@every_api
def test_no_log_has_anything_of_an_image(
    path: str, body: Body, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for served in (SERVED, TEXT_MODEL):
        app = App(served)
        for url in (URL, URL + "=", "https://a.example/secret-name.png"):
            app.post(path, body(url))
        app.generator.error = RequestError("image 1 is not an image")
        app.post(path, body(URL))
    assert BASE64 not in caplog.text
    assert "secret-name" not in caplog.text


def test_request_over_mqtt_has_images(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"from a file")
    generator, stats = FakeGenerator(), RequestStats()
    loader = ImageLoader(folders=[str(tmp_path)])
    api = Api(generator, stats, lambda: runtime_status(stats), SERVED, images=loader)

    async def ask(url: str) -> None:
        async for _ in api.chat(json.dumps(_chat(url)).encode()):
            pass

    asyncio.run(ask(URL))
    asyncio.run(ask(str(file)))
    images = [turns(request)[0].content[1] for request in generator.requests]
    assert images == [Image(DATA), Image(b"from a file")]
    with pytest.raises(ApiError, match="image_folders"):
        asyncio.run(ask("/etc/hosts"))
