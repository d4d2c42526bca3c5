"""The log: one line for each event, and never what was said."""

import fcntl
import json
import logging
import os
import sys
import threading

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from device_runtime import logs
from device_runtime.server.access_log import AccessLog
from tests.support import asgi

log = logging.getLogger("tests.logs")


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text")
    logs.event(log, logging.WARNING, "late", seconds=1.5, who="a b", empty="", sign='x="y"\n')
    line = capsys.readouterr().err
    assert line.startswith("ts=20")
    assert line.endswith(
        'level=warning event=late seconds=1.5 who="a b" empty="" sign="x=\\"y\\"\\n"\n'
    )
    assert line.count("\n") == 1


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("json")
    logs.event(log, logging.INFO, "request", status=200, path="/v1/models")
    logging.getLogger("library").warning("it said %s", "this")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("ts").endswith("Z")
    assert first == {"level": "info", "event": "request", "status": 200, "path": "/v1/models"}
    assert (second["event"], second["logger"]) == ("log", "library")
    assert second["message"] == "it said this"


def test_traceback_stays_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text")
    try:
        raise ValueError("wrong")
    except ValueError:
        log.exception("it failed")
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "ValueError: wrong" in line


def test_log_that_nobody_reads_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)
    with os.fdopen(reader, "rb", 0) as pipe, os.fdopen(writer, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        logs.set_up("json")

        def write() -> None:
            for number in range(200):
                logs.event(log, logging.INFO, "request", number=number)
            log.error("long " * 2000)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        thread.join(10)
        waits = thread.is_alive()
        lines = pipe.read(65536).splitlines()
        assert not waits
        kept = len(lines)
        assert [json.loads(line)["number"] for line in lines] == [*range(kept)]
        logs.event(log, logging.INFO, "request", number=201)
        dropped, last = map(json.loads, pipe.read(65536).splitlines())
        assert (dropped["event"], dropped["lines"]) == ("log_lines_dropped", 201 - kept)
        assert last["number"] == 201
        log.error("long " * 1000)
        assert json.loads(pipe.read(65536))["message"] == "long " * 1000
        log.error("long " * 4000)
        assert b"long long" in pipe.read(65536)
        logs.event(log, logging.INFO, "request", number=202)
        ending, dropped, last = pipe.read(65536).splitlines()
        assert (ending, json.loads(dropped)["lines"], json.loads(last)["number"]) == (b"", 1, 202)


async def _answer(request: Request) -> PlainTextResponse:
    request.scope["state"]["log"]["outcome"] = "completed"
    await request.body()
    return PlainTextResponse("the answer", status_code=int(request.query_params.get("status", 200)))


def ask(path: str, **headers: str) -> str:
    app = AccessLog(Starlette(routes=[Route("/{path:path}", _answer, methods=["POST"])]))
    response = asgi.request(app, "POST", path, content="the question", headers=headers)
    number: str = response.headers["x-request-id"]
    return number


def test_access_log_tells_how_it_went_and_not_what_was_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.set_up("text")
    ask("/v1/chat/completions?secret=1")
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "event=request" in each]
    assert "method=POST path=/v1/chat/completions status=200" in line
    assert "outcome=completed" in line
    for said in ("question", "answer", "secret"):
        assert said not in line


@pytest.mark.parametrize("header", ["X-Client-Request-Id", "X-Request-Id"])
def test_id_of_a_request_is_in_the_log_and_the_response(
    capsys: pytest.CaptureFixture[str], header: str
) -> None:
    logs.set_up("text")
    assert ask("/a", **{header: "job-7:a.b_c"}) == "job-7:a.b_c"
    new = ask("/a")
    assert new.startswith("req_")
    assert ask("/a") != new
    for wrong in ("", "a b", "a" * 129, "a=1 event=forged"):
        assert ask("/a", **{header: wrong}).startswith("req_")
    lines = capsys.readouterr().err
    assert "id=job-7:a.b_c" in lines
    assert f"id={new}" in lines
    assert "forged" not in lines


def test_probes_are_told_only_when_they_fail(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text")
    ask("/healthz")
    assert "event=request" not in capsys.readouterr().err
    ask("/healthz?status=503")
    assert "status=503" in capsys.readouterr().err


def test_path_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text")
    ask("/a%0Aevent=forged")
    lines = [each for each in capsys.readouterr().err.splitlines() if "event=request" in each]
    assert len(lines) == 1
    assert 'path="/a\\nevent=forged"' in lines[0]


def test_a_library_that_repeats_itself_fills_no_disk(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text")
    for _ in range(1000):
        logging.getLogger("asyncio").error("socket.accept() out of system resource")
        logs.event(logging.getLogger("device_runtime"), logging.INFO, "own")
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "out of system" in line]) == logs.LIBRARY_LINES
    assert len([line for line in lines if "event=own" in line]) == 1000
