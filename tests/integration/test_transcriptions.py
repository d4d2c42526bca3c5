"""Recordings over HTTP, sent by OpenAI's own client to the real server around a fake model."""

from collections.abc import Iterator

import httpx
import openai
import pytest
from openai.types.audio import TranscriptionVerbose, TranslationVerbose

from device_runtime.inference.engine import NoMemoryNowError
from tests.support.browser import Echo, echoing
from tests.support.fakes import HEARING

AUDIO = b"RIFF says something"
WAV = ("a.wav", AUDIO)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with echoing(speech=HEARING) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_transcription(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(file=WAV, model="hear", language="en")
    assert answer.text == "RIFF says something"
    assert answer.usage is not None
    assert answer.usage.type == "duration"
    assert answer.usage.seconds == 3


def test_transcription_with_times(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        file=WAV,
        model="hear",
        response_format="verbose_json",
        timestamp_granularities=["segment"],
        temperature=0.2,
        prompt="RIFF",
    )
    assert isinstance(answer, TranscriptionVerbose)
    assert (answer.language, answer.duration) == ("de", 3)
    assert [segment.text for segment in answer.segments or ()] == [" RIFF", " says", " something"]


def test_plain_text_and_subtitles(client: openai.OpenAI) -> None:
    text = client.audio.transcriptions.create(file=WAV, model="hear", response_format="text")
    assert text == "RIFF says something\n"
    srt = client.audio.transcriptions.create(file=WAV, model="hear", response_format="srt")
    assert srt.startswith("1\n00:00:00,000 --> 00:00:01,000\nRIFF\n\n2\n")
    vtt = client.audio.transcriptions.create(file=WAV, model="hear", response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nRIFF\n\n")


def test_streamed_transcription(client: openai.OpenAI) -> None:
    stream = client.audio.transcriptions.create(
        file=WAV, model="hear", stream=True, chunking_strategy="auto"
    )
    deltas, done = [], []
    for event in stream:
        if event.type == "transcript.text.delta":
            deltas.append(event.delta)
        elif event.type == "transcript.text.done":
            done.append(event)
    assert deltas == ["RIFF", " says", " something"]
    (end,) = done
    assert end.text == "RIFF says something"
    assert end.usage is not None
    assert (end.usage.input_tokens, end.usage.output_tokens) == (2, 3)


# OpenAI deprecates its endpoint; others have it still.
@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_translation(client: openai.OpenAI) -> None:
    answer = client.audio.translations.create(file=WAV, model="hear")
    assert answer.text == "RIFF says something"
    whole = client.audio.translations.create(file=WAV, model="hear", response_format="verbose_json")
    assert isinstance(whole, TranslationVerbose)
    assert (whole.language, len(whole.segments or ())) == ("en", 3)


def test_what_is_not_supported_is_an_error_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="word is not supported") as caught:
        client.audio.transcriptions.create(
            file=WAV,
            model="hear",
            response_format="verbose_json",
            timestamp_granularities=["word"],
        )
    assert caught.value.param == "timestamp_granularities"
    with pytest.raises(openai.BadRequestError, match="include is not supported"):
        client.audio.transcriptions.create(file=WAV, model="hear", include=["logprobs"])
    with pytest.raises(openai.NotFoundError, match="the speech model is 'hear'"):
        client.audio.transcriptions.create(file=WAV, model="whisper-1")


def test_device_without_a_speech_model_discards_the_recording() -> None:
    with echoing() as url, httpx.Client(base_url=url) as client:
        # The second request comes over the same connection.
        for _ in range(2):
            response = client.post(
                "/v1/audio/transcriptions", files={"file": ("a.wav", bytes(20 << 20))}
            )
            assert response.status_code == 404
            assert "--speech-model MODEL" in response.json()["error"]["message"]


def test_recording_over_the_limit_is_refused_before_it_is_sent(url: str) -> None:
    with httpx.Client(base_url=url) as client:
        response = client.post(
            "/v1/audio/transcriptions", files={"file": ("a.wav", bytes(17 << 20))}
        )
    assert response.status_code == 413
    assert response.headers["connection"] == "close"


def test_error_before_the_text_has_its_status_in_a_stream() -> None:
    echo = Echo()
    echo.error = NoMemoryNowError("not enough memory")
    with echoing(echo, speech=HEARING) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
        with client, pytest.raises(openai.InternalServerError) as caught:
            client.audio.transcriptions.create(file=WAV, model="hear", stream=True)
        assert caught.value.status_code == 503
