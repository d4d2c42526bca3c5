"""Requests with recordings: the forms they come in, the answers, and each input that is refused."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from openai.types.audio import TranscriptionVerbose

from device_runtime.api.app import Api
from device_runtime.api.forms import MAX_PARTS
from device_runtime.api.served_model import ServedModel
from device_runtime.bundle.speech import Speech
from device_runtime.errors import DeviceError, EngineError, RequestError
from device_runtime.inference.engine import NoMemoryNowError
from device_runtime.speech.transcription import (
    AudioError,
    TranscriptionChunk,
    TranscriptionRequest,
)
from device_runtime.status.report import Figure, RequestStats, RuntimeStatus
from device_runtime.tools.dialect import Dialect
from device_runtime.worker.errors import DeadlineError, QueueFullError
from tests.support import asgi
from tests.support.fakes import HEARING, FakeGenerator, runtime_status

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
LIMIT = 8192


class App:
    """The application around a fake generator, asked without a network."""

    def __init__(self, speech: Speech | None = HEARING) -> None:
        self.generator = FakeGenerator()
        self.stats = RequestStats()
        served = ServedModel(model="tiny", dialect=Dialect.of(""), max_tokens=64, speech=speech)
        self.application = Api(
            self.generator,
            self.stats,
            self.status,
            served,
            max_body_bytes=LIMIT // 2,
            max_form_bytes=LIMIT,
        ).app()

    def status(self) -> RuntimeStatus:
        return runtime_status(self.stats)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asgi.request(self.application, method, path, **options)

    def send(
        self, audio: bytes = b"ein Test", path: str = TRANSCRIPTIONS, **fields: Any
    ) -> httpx.Response:
        return self.ask("POST", path, files={"file": ("a.wav", audio)}, data=fields)

    def send_body(self, body: bytes, kind: str = "multipart/form-data; boundary=x") -> Any:
        return self.ask("POST", TRANSCRIPTIONS, content=body, headers={"content-type": kind})


@pytest.fixture
def app() -> App:
    return App()


def part(name: str, value: bytes = b"1", more: str = "") -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + value + b"\r\n"


FILE = part("file", b"ein Test", '; filename="a.wav"')
END = b"--x--\r\n"


def refused(response: httpx.Response, param: str | None, words: str, status: int = 400) -> None:
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert words in error["message"]


def events(response: httpx.Response) -> list[Any]:
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *frames, last = response.text.removesuffix("\n\n").split("\n\n")
    assert last == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


# Answers


def test_recording_is_written_down(app: App) -> None:
    response = app.send(model="hear", language="de", prompt="Namen", temperature="0.5", user="me")
    assert response.status_code == 200
    assert response.json() == {
        "text": "ein Test",
        "usage": {"type": "duration", "seconds": 2.0},
    }
    assert app.generator.transcribed == [
        TranscriptionRequest(
            audio=b"ein Test", language="de", prompt="Namen", temperature=0.5, task="transcribe"
        )
    ]


def test_recording_is_translated(app: App) -> None:
    assert app.send(path=TRANSLATIONS, model="hear").json()["text"] == "ein Test"
    assert app.generator.transcribed[0].task == "translate"


def test_bytes_of_the_recording_reach_the_model_as_they_are(app: App) -> None:
    audio = bytes(range(256)) + b"\r\n--x\r\n--"
    app.generator.error = AudioError("no")
    app.send(audio)
    assert app.generator.transcribed[0].audio == audio


def test_fields_without_a_value_are_as_if_they_were_not_there(app: App) -> None:
    response = app.send(language="", prompt="", temperature="", response_format="", model="")
    assert response.json()["text"] == "ein Test"
    assert app.generator.transcribed == [TranscriptionRequest(audio=b"ein Test")]


def test_text_has_a_line(app: App) -> None:
    response = app.send(response_format="text")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text == "ein Test\n"
    assert not app.generator.transcribed[0].timestamps


@pytest.mark.parametrize(
    ("form", "kind", "begin"),
    [
        ("srt", "application/x-subrip", "1\n00:00:00,000 --> 00:00:01,000\nein\n\n2\n"),
        ("vtt", "text/vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nein\n\n"),
    ],
)
def test_subtitles_have_the_times(app: App, form: str, kind: str, begin: str) -> None:
    response = app.send(response_format=form)
    assert response.headers["content-type"] == f"{kind}; charset=utf-8"
    assert response.text.startswith(begin)
    assert app.generator.transcribed[0].timestamps


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"timestamp_granularities[]": ["segment"]},
        {"timestamp_granularities": "segment"},
        {"timestamp_granularities": ["segment", "segment"]},
    ],
)
def test_verbose_answer_has_what_openai_has(app: App, fields: dict[str, Any]) -> None:
    response = app.send(response_format="verbose_json", **fields)
    read = TranscriptionVerbose.model_validate(response.json(), strict=True)
    assert (read.text, read.language, read.duration) == ("ein Test", "de", 2.0)
    assert read.segments is not None
    first, second = read.segments
    assert (second.id, second.start, second.end, second.text) == (1, 1, 2, " Test")
    assert (first.tokens, first.avg_logprob, first.no_speech_prob) == ([3], -0.5, 0.25)
    assert 0 < first.compression_ratio < 1
    assert response.json()["task"] == "transcribe"


def test_language_of_a_translation_is_english(app: App) -> None:
    response = app.send(path=TRANSLATIONS, response_format="verbose_json").json()
    assert (response["task"], response["language"]) == ("translate", "en")


def test_streamed_text_is_that_of_the_whole_answer(app: App) -> None:
    *deltas, done = events(app.send(stream="true"))
    assert {delta["type"] for delta in deltas} == {"transcript.text.delta"}
    assert [delta["delta"] for delta in deltas] == ["ein", " Test"]
    assert done == {
        "type": "transcript.text.done",
        "text": "ein Test",
        "usage": {"type": "tokens", "input_tokens": 2, "output_tokens": 2, "total_tokens": 4},
    }


def test_error_in_a_stream_is_its_last_event(app: App) -> None:
    app.generator.late_error = EngineError("it broke")
    response = app.send(stream="true")
    assert response.status_code == 200
    last = response.text.removesuffix("\n\n").split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "it broke"


def test_silence_has_an_empty_text(app: App) -> None:
    assert app.send(b" ").json()["text"] == ""


def test_speech_model_is_listed_with_its_languages(app: App) -> None:
    listed = app.ask("GET", "/v1/models").json()["data"]
    assert [(model["id"], model["input_modalities"]) for model in listed] == [
        ("tiny", ["text"]),
        ("hear", ["audio"]),
    ]
    one = app.ask("GET", "/v1/models/hear").json()
    assert one["languages"] == ["en", "de"]
    assert "max_model_len" not in one


def test_ollama_which_has_no_endpoint_for_it_does_not_list_it(app: App) -> None:
    models = app.ask("GET", "/api/tags").json()["models"]
    assert [model["name"] for model in models] == ["tiny:latest"]
    assert app.ask("POST", "/api/show", json={"model": "hear"}).status_code == 404


def test_counters_have_the_seconds_and_no_speed_of_answers(app: App) -> None:
    app.send()
    app.send(path=TRANSLATIONS)
    requests, tokens_per_s, first_token_s = app.stats.snapshot()
    assert requests.completed == 2
    assert (tokens_per_s, first_token_s) == (Figure(), Figure())
    text = app.ask("GET", "/metrics").text
    assert 'edgepack_requests_total{endpoint="transcriptions",outcome="completed"} 1.0' in text
    assert 'edgepack_requests_total{endpoint="translations",outcome="completed"} 1.0' in text
    assert "edgepack_audio_seconds_total 4.0" in text
    assert "edgepack_completion_tokens_total 4.0" in text


# Requests that are refused


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"model": "tiny"}, "model", "'tiny' does not take recordings; 'hear' does"),
        ({"language": "xx"}, "language", "'xx' is not a language of hear: en, de"),
        ({"language": "EN"}, "language", "'EN' is not a language of hear"),
        ({"temperature": "1.5"}, "temperature", "<= 1"),
        ({"temperature": "warm"}, "temperature", "Expected `float`"),
        ({"temperature": "nan"}, "temperature", ">= 0"),
        ({"prompt": "a" * 4097}, "prompt", "length <= 4096"),
        ({"prompt": b"\xff"}, "prompt", "must be UTF-8"),
        ({"response_format": "diarized_json"}, "response_format", "'diarized_json'"),
        ({"stream": "maybe"}, "stream", "Expected `bool`"),
        ({"stream": "true", "response_format": "srt"}, "stream", "srt cannot be streamed"),
        ({"stream": "1", "response_format": "verbose_json"}, "stream", "cannot be streamed"),
        ({"include[]": ["logprobs"]}, "include", "is not supported"),
        ({"languages[]": ["en"]}, "languages", "is not supported"),
        ({"chunking_strategy": "server_vad"}, "chunking_strategy", 'only as "auto"'),
        ({"timestamp_granularities[]": ["segment"]}, "timestamp_granularities", "verbose_json"),
        (
            {"timestamp_granularities[]": ["word"], "response_format": "verbose_json"},
            "timestamp_granularities",
            "word is not supported",
        ),
        (
            {"timestamp_granularities[]": ["line"], "response_format": "verbose_json"},
            "timestamp_granularities[0]",
            "'line'",
        ),
        ({"file": "text"}, "file", "must be one file"),
        ({"prompt": ["a", "b"]}, "prompt", "Expected `str`, got `array`"),
    ],
)
def test_invalid_fields_are_refused_by_name(
    app: App, fields: dict[str, Any], param: str, words: str
) -> None:
    refused(app.send(b"ab", **fields), param, words)
    assert app.generator.transcribed == []
    assert app.stats.snapshot()[0].rejected == 1


@pytest.mark.parametrize("field", ["language", "stream", "timestamp_granularities"])
def test_translation_has_fewer_fields(app: App, field: str) -> None:
    fields: dict[str, Any] = {field: "en"}
    refused(app.send(path=TRANSLATIONS, **fields), field, "is not supported")


def test_model_of_english_alone_does_not_translate() -> None:
    app = App(Speech(**{**_fields(HEARING), "languages": ("en",)}))
    refused(app.send(path=TRANSLATIONS), "model", "hear knows English alone")
    refused(app.send(language="de"), "language", "'de' is not a language of hear: en")
    assert app.send(language="en").status_code == 200


def _fields(speech: Speech) -> dict[str, Any]:
    return {name: getattr(speech, name) for name in speech.__struct_fields__}


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (part("model", b"hear") + END, "file", "is required"),
        (part("file", b"", '; filename=""') + END, "file", "must not be empty"),
        (
            part("file", b"text") + END,
            "file",
            "must be one file, in a part of the form that has a filename",
        ),
        (part("file[]", b"a", '; filename="a"') + END, "file", "must be one file"),
        (FILE + FILE + END, "file", "must be one file"),
        (FILE + part("prompt") + part("prompt[]") + END, "prompt", "got `array`"),
        (FILE + part("prompt[]") + part("prompt") + END, "prompt", "got `array`"),
        (FILE + part("prompt[]") + END, "prompt", "Expected `str`"),
        (FILE + part("prompt", b"a", '; filename="a"') + END, "prompt", "got `bytes`"),
        (FILE, None, "its last boundary is missing"),
        (FILE[:-10], None, "its last boundary is missing"),
        (b"", None, "its last boundary is missing"),
        (b"{}", None, "is not a valid form"),
        (FILE + part("") + END, None, "a part of the form has no name"),
        (FILE + b"--x\r\n\r\n1\r\n" + END, None, "a part of the form has no name"),
        (FILE + part("a[]") * MAX_PARTS + END, None, f"more than {MAX_PARTS} parts"),
        (FILE + b"--x\r\n" + b"A: b\r\n" * 99 + b"\r\n1\r\n" + END, None, "not a valid form"),
    ],
)
def test_forms_that_are_wrong_are_refused(
    app: App, body: bytes, param: str | None, words: str
) -> None:
    refused(app.send_body(body), param, words)
    assert app.generator.transcribed == []
    assert app.stats.snapshot()[0].rejected == 1


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "application/json",
        "application/x-www-form-urlencoded",
        "audio/wav",
        "multipart/form-data",
        "multipart/form-data; boundary=" + 300 * "x",
    ],
)
def test_other_content_types_are_refused(app: App, kind: str) -> None:
    refused(app.send_body(FILE + END, kind), None, "form")


def test_body_over_its_own_limit_is_refused_and_closes_the_connection(app: App) -> None:
    assert app.send(b"a" * (LIMIT - 500)).status_code == 200
    response = app.send(b"a" * LIMIT)
    refused(response, None, f"exceeds {LIMIT} bytes", status=413)
    assert response.headers["connection"] == "close"


def test_other_endpoints_keep_their_limit(app: App) -> None:
    body = {"messages": [{"role": "user", "content": "a" * (LIMIT - 500)}]}
    response = app.ask("POST", "/v1/chat/completions", json=body)
    refused(response, None, f"exceeds {LIMIT // 2} bytes", status=413)


def test_unknown_model_is_404(app: App) -> None:
    response = app.send(model="other")
    refused(response, "model", "the speech model is 'hear'", status=404)
    assert response.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, TRANSLATIONS])
def test_bundle_without_a_speech_model_says_how_to_get_one(path: str) -> None:
    app = App(speech=None)
    refused(app.send(path=path), "model", "edgepack build --speech-model MODEL", status=404)
    assert app.stats.snapshot()[0].rejected == 1


# Errors of the model


@pytest.mark.parametrize(
    ("error", "status", "code", "param", "count"),
    [
        (AudioError("not a recording"), 400, "invalid_audio", "file", "rejected"),
        (RequestError("cannot"), 400, "invalid_value", "file", "rejected"),
        (NoMemoryNowError("no memory"), 503, "insufficient_memory", None, "rejected"),
        (QueueFullError("full", retry_after_s=5), 429, "queue_full", None, "rejected"),
        (DeadlineError("late"), 504, "deadline_exceeded", None, "failed"),
        (EngineError("it broke"), 500, "engine_failed", None, "failed"),
    ],
)
@pytest.mark.parametrize("stream", ["true", "false"])
def test_errors_of_the_model_are_errors_of_the_request(
    app: App, error: DeviceError, status: int, code: str, param: str, count: str, stream: str
) -> None:
    app.generator.error = error
    response = app.send(stream=stream)
    shown = response.json()["error"]
    assert (response.status_code, shown["code"], shown["param"]) == (status, code, param)
    assert getattr(app.stats.snapshot()[0], count) == 1


@pytest.mark.parametrize("stream", [b"true", b"false"])
def test_client_that_disconnects_ends_the_work(app: App, stream: bytes) -> None:
    ended = asyncio.Event()

    async def transcribe(request: TranscriptionRequest) -> AsyncGenerator[TranscriptionChunk]:
        try:
            yield TranscriptionChunk()
            yield TranscriptionChunk(text=" ein")
            await asyncio.Event().wait()
        finally:
            ended.set()

    app.generator.transcribe = transcribe  # type: ignore[method-assign]
    body = FILE + part("stream", stream) + END
    received: list[dict[str, Any]] = [
        {"type": "http.request", "body": body, "more_body": False},
        *[{"type": "http.disconnect"}] * 3,
    ]

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return received.pop(0)

    async def send(message: Any) -> None:
        pass

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "POST", "path": TRANSCRIPTIONS, "headers": headers}
    asyncio.run(app.application(scope, receive, send))
    assert ended.is_set()
    assert app.stats.snapshot()[0].cancelled == 1


# What is not logged


def test_recording_prompt_and_text_are_not_logged(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    app.send(b"secretly said", prompt="hushed", language="de")
    app.send(b"secretly said", prompt="hushed", response_format="wrong")
    assert "secretly" not in caplog.text
    assert "hushed" not in caplog.text
