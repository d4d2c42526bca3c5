"""The file of API keys, and who gets past it."""

import logging
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from device_runtime.errors import ServiceError
from device_runtime.server import api_keys
from device_runtime.server.api_keys import KeyRing
from device_runtime.server.auth import (
    FORGET_S,
    FREE_GUESSES,
    LONGEST_DELAY_S,
    MAX_ADDRESSES,
    OPEN_PATHS,
    Guesses,
    protect,
)
from tests.support import asgi


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "api-keys"


def test_key_is_random_and_nowhere_in_the_file(file: Path) -> None:
    first, second = api_keys.create(file, "a"), api_keys.create(file, "b")
    assert first != second
    assert first.startswith("sk-edgepack-")
    assert len(first.removeprefix("sk-edgepack-")) == 43  # 32 bytes in base64
    text = file.read_text()
    assert first.removeprefix("sk-edgepack-") not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(api_keys.read(file)) == ["a", "b"]
    assert list(file.parent.iterdir()) == [file]


def test_comments_mode_and_link_survive_changes(file: Path) -> None:
    target = file.with_name("real")
    target.write_text("# ours\n")
    target.chmod(0o644)
    file.symlink_to(target)
    api_keys.create(file, "a")
    api_keys.create(file, "b")
    api_keys.revoke(file, "a")
    assert file.is_symlink()
    first, second = target.read_text().splitlines()
    assert first == "# ours"
    assert second.startswith("b sha256:")
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_name_that_is_taken(file: Path) -> None:
    api_keys.create(file, "a")
    before = file.read_bytes()
    with pytest.raises(ServiceError, match="already has a key named 'a'"):
        api_keys.create(file, "a")
    assert file.read_bytes() == before


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "#a", "-a", "ä", "a" * 65])
def test_name_that_is_not_valid(file: Path, name: str) -> None:
    with pytest.raises(ServiceError, match="not a valid key name"):
        api_keys.create(file, name)
    assert not file.exists()


def test_revoking_what_is_not_there(file: Path) -> None:
    with pytest.raises(ServiceError, match="no such file of API keys"):
        api_keys.revoke(file, "a")
    api_keys.create(file, "a")
    with pytest.raises(ServiceError, match="no key named 'b'") as caught:
        api_keys.revoke(file, "b")
    assert caught.value.hint == "Its keys: a."


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="No such file"):
        api_keys.create(tmp_path / "nowhere" / "api-keys", "a")


@pytest.mark.parametrize(
    "content",
    [
        b"a sk-edgepack-secret 2026-07-01\n",
        b"a sha256:123 2026-07-01\n",
        b"a sha256:" + b"0" * 64 + b"\n",
        2 * (b"a sha256:" + b"0" * 64 + b" 2026-07-01\n"),
        b"\xff\n",
        b"#" * (1 << 21),
    ],
)
def test_broken_file(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ServiceError) as caught:
        api_keys.read(file)
    assert str(file) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_file_that_others_may_write(file: Path) -> None:
    api_keys.create(file, "a")
    file.chmod(0o646)
    with pytest.raises(ServiceError, match="can be written by everybody"):
        KeyRing(file)


def test_many_wrong_keys_are_refused_ever_more_slowly() -> None:
    guesses = Guesses()
    delays = [guesses.delay_s("192.0.2.1", 100.0) for _ in range(FREE_GUESSES + 100)]
    assert delays[:FREE_GUESSES] == [0.0] * FREE_GUESSES
    assert delays == sorted(delays)
    assert 0 < delays[FREE_GUESSES] < delays[-1] == LONGEST_DELAY_S
    assert guesses.delay_s("192.0.2.2", 100.0) == 0
    assert guesses.delay_s("192.0.2.1", 100.0 + FORGET_S) == 0
    for number in range(2 * MAX_ADDRESSES):
        guesses.delay_s(str(number), 200.0)
    assert len(guesses._seen) == MAX_ADDRESSES


def test_ring_follows_the_file(file: Path) -> None:
    first = api_keys.create(file, "first")
    ring = KeyRing(file)
    second = api_keys.create(file, "second")
    assert (ring.name_of(first), ring.name_of(second)) == ("first", "second")
    api_keys.revoke(file, "first")
    assert (ring.name_of(first), ring.name_of(second)) == (None, "second")
    assert ring.name_of("sk-edgepack-other") is None


@pytest.mark.parametrize("damage", ["gone", "broken", "empty", "folder"])
def test_ring_refuses_all_while_the_file_is_unusable(
    file: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = api_keys.create(file, "a")
    ring = KeyRing(file)
    good = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "gone":
        file.write_bytes(b"nonsense" if damage == "broken" else b"")
    assert ring.name_of(key) is None
    assert ring.name_of(key) is None
    told = [record.msg for record in caplog.records if record.levelno == logging.ERROR]
    assert told == ([] if damage == "empty" else ["api_keys_broken"])
    if damage == "folder":
        file.rmdir()
    file.write_bytes(good)
    assert ring.name_of(key) == "a"


def test_ring_of_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(ServiceError, match="no such file") as caught:
        KeyRing(file)
    assert "api-key new" in caught.value.hint


class App:
    """An application that says who asks, protected."""

    def __init__(self, **options: Any) -> None:
        async def answer(request: Request) -> Response:
            return JSONResponse(request.scope["state"].get("key_name"))

        paths = ("/v1/models", "/healthz", "/healthz/x", "/readyz")
        app = Starlette(routes=[Route(path, answer, methods=["GET", "POST"]) for path in paths])
        defaults: dict[str, Any] = {"keys": None, "origins": (), "loopback": True}
        protected = protect(app, open_paths=OPEN_PATHS, **(defaults | options))

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            await protected({**scope, "state": {}}, receive, send)

        self._app = with_state

    def ask(
        self, path: str = "/v1/models", method: str = "POST", **headers: str | list[str]
    ) -> httpx.Response:
        sent = [
            (name.replace("_", "-").encode(), each.encode("latin-1"))
            for name, value in headers.items()
            for each in ([value] if isinstance(value, str) else value)
        ]
        base = "http://127.0.0.1:8080"
        return asgi.request(self._app, method, path, base_url=base, headers=sent)


@pytest.fixture
def key(file: Path) -> str:
    api_keys.create(file, "other")
    return api_keys.create(file, "laptop")


def test_key_opens_and_its_name_is_known(file: Path, key: str) -> None:
    app = App(keys=KeyRing(file))
    assert app.ask(authorization=f"Bearer {key}").json() == "laptop"
    assert app.ask(authorization=f"bearer  {key}").json() == "laptop"


@pytest.mark.parametrize("wrong", [{"authorization": "Bearer wrong"}, {"x_api_key": "wrong"}])
def test_a_wrong_key_slows_nobody_else_down(
    file: Path, key: str, wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("device_runtime.server.auth.asyncio.sleep", sleep)
    app = App(keys=KeyRing(file))
    for _ in range(FREE_GUESSES + 1):
        assert app.ask(**wrong).status_code == 401
    assert waited[-1] > 0
    del waited[:]
    assert app.ask(authorization=f"Bearer {key}").status_code == 200
    assert waited == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_need_no_key(file: Path, key: str, path: str) -> None:
    assert App(keys=KeyRing(file)).ask(path).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic a2V5",
        "KEY",
        "Bearer KEYx",
        "Bearer sk-edgepack-",
        "Bearer ÿ",
    ],
)
def test_no_valid_key(file: Path, key: str, value: str | None) -> None:
    headers = {} if value is None else {"authorization": value.replace("KEY", key)}
    response = App(keys=KeyRing(file)).ask(**headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    error = response.json()["error"]
    assert error["code"] == "invalid_api_key"
    assert error["type"] in ("authentication_error", "invalid_request_error")
    assert key not in response.text


def test_two_headers_are_refused(file: Path, key: str) -> None:
    app = App(keys=KeyRing(file))
    assert app.ask(authorization=[f"Bearer {key}", f"Bearer {key}"]).status_code == 401


@pytest.mark.parametrize("path", ["/healthz/", "/healthz/x", "//healthz", "/HEALTHZ", "/"])
def test_only_exact_paths_are_open(file: Path, key: str, path: str) -> None:
    assert App(keys=KeyRing(file)).ask(path).status_code == 401


def test_with_keys_any_host_and_page_may_ask(file: Path, key: str) -> None:
    app = App(keys=KeyRing(file))
    response = app.ask(
        authorization=f"Bearer {key}", host="box.example", origin="https://evil.example"
    )
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "127.0.0.1:1", "127.1.2.3", "[::1]:8080", "LOCALHOST"]
)
def test_host_of_this_machine(host: str) -> None:
    assert App().ask(host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example"),
        *(
            "192.168.0.7",
            "[::2]",
            "evil.example#localhost",
            "[",
            "localhost@evil.example",
            "0.0.0.0",
        ),
    ],
)
def test_other_host_is_refused_on_loopback(host: str) -> None:
    response = App().ask(host=host, method="GET")
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "forbidden_origin"
    assert App(loopback=False).ask(host=host).status_code == 200


@pytest.mark.parametrize("loopback", [True, False])
def test_own_page_may_ask(loopback: bool) -> None:
    app = App(loopback=loopback)
    response = app.ask(host="localhost:9000", origin="http://localhost:9000")
    assert response.status_code == 200


@pytest.mark.parametrize("loopback", [True, False])
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:9001", "http://127.0.0.1:9000", ""]
)
def test_foreign_page_is_refused(origin: str, loopback: bool) -> None:
    response = App(loopback=loopback).ask(host="localhost:9000", origin=origin)
    assert response.status_code == 403
    assert "cors_origins" in response.json()["error"]["message"]


def test_listed_page_may_ask_and_read() -> None:
    page = "https://page.example"
    app = App(origins=(page,))
    response = app.ask(origin=page)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == page
    assert "access-control-allow-credentials" not in response.headers
    assert app.ask(origin="https://page.example.evil").status_code == 403


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_browser_asks_in_advance_without_a_key(file: Path, key: str, method: str) -> None:
    app = App(keys=KeyRing(file), origins=("https://page.example",))
    headers = {"access_control_request_method": method}
    headers |= {"access_control_request_headers": "authorization,content-type,x-stainless-lang"}
    allowed = app.ask(method="OPTIONS", origin="https://page.example", **headers)
    assert allowed.status_code == 200
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    foreign = app.ask(method="OPTIONS", origin="https://evil.example", **headers)
    assert "access-control-allow-origin" not in foreign.headers
    assert foreign.status_code == 403
    assert foreign.json()["error"]["code"] == "forbidden_origin"
    assert "'https://evil.example'" in foreign.json()["error"]["message"]
    putting = headers | {"access_control_request_method": "PUT"}
    refused = app.ask(method="OPTIONS", origin="https://page.example", **putting)
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
    assert refused.headers["access-control-allow-origin"] == "https://page.example"
    refused = app.ask(origin="https://page.example")
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://page.example"


def test_key_in_the_header_of_anthropics_clients(file: Path, key: str) -> None:
    app = App(keys=KeyRing(file))
    assert app.ask(x_api_key=key).json() == "laptop"
    assert app.ask(x_api_key="wrong").status_code == 401
    for headers in (
        {"x_api_key": key, "authorization": f"Bearer {key}"},
        {"x_api_key": [key, key]},
        {"x_api_key": ""},
    ):
        assert app.ask(**headers).status_code == 401


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"type": "error", "request_id": None}),
        ("/v1/messages/count_tokens", {"type": "error", "request_id": None}),
        ("/api/chat", {}),
        ("/v1/models", {}),
    ],
)
def test_refusals_have_the_form_of_the_paths_api(
    file: Path, key: str, path: str, body: dict[str, Any]
) -> None:
    app = App(keys=KeyRing(file))
    sent = app.ask(path).json()
    error = sent.pop("error")
    assert sent == body
    message = error if path.startswith("/api") else error["message"]
    assert "x-api-key: KEY" in message
    forbidden = App().ask(path, origin="http://evil.example").json()
    assert "evil.example" in str(forbidden["error"])
