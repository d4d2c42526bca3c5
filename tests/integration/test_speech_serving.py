"""A tiny speech model, served: recordings by OpenAI's client, through the worker."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from openai.types.audio import TranscriptionVerbose

from tests.support import releases, tiny_speech
from tests.support.recordings import babble, wav
from tests.support.serving import Serving
from tests.support.speech_releases import add_speech, make_onnx

SECONDS = 4
RECORDING = ("a.wav", wav(babble(SECONDS, seed=1)))


@pytest.fixture(scope="module")
def server(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("speech")
    model = make_onnx(
        tiny_speech.make(folder / "hf", max_target_positions=48), folder / "onnx", folder / "work"
    )
    release = releases.release(folder / "release", tiny_onnx)
    add_speech(release, model, tiny_speech.LANGUAGES)
    with Serving(folder / "release") as server:
        yield server


def test_transcript_is_the_same_streamed_or_not(client: openai.OpenAI) -> None:
    create = client.audio.transcriptions.create
    text = create(file=RECORDING, model="tiny-whisper", language="en").text
    assert text
    deltas = [
        event.delta
        for event in create(file=RECORDING, model="tiny-whisper", language="en", stream=True)
        if event.type == "transcript.text.delta"
    ]
    assert len(deltas) > 1
    assert "".join(deltas) == text


def test_times_are_within_the_recording(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        file=RECORDING, model="tiny-whisper", response_format="verbose_json"
    )
    assert isinstance(answer, TranscriptionVerbose)
    assert answer.duration == SECONDS
    assert answer.language in tiny_speech.LANGUAGES
    assert answer.segments
    assert "".join(segment.text for segment in answer.segments).strip() == answer.text


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_translation(client: openai.OpenAI) -> None:
    assert client.audio.translations.create(file=RECORDING, model="tiny-whisper").text


def test_file_that_is_not_a_recording_is_refused_by_the_worker(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(file=("a.wav", b"text"), model="tiny-whisper")
    assert (caught.value.code, caught.value.param) == ("invalid_audio", "file")


def test_answers_go_on_beside_recordings(server: Serving, client: openai.OpenAI) -> None:
    with ThreadPoolExecutor() as pool:
        written = pool.submit(
            client.audio.transcriptions.create, file=RECORDING, model="tiny-whisper"
        )
        assert server.chat().status_code == 200
        assert written.result().text
    status = server.get("/v1/status")
    assert status["speech"] == {"model": "tiny-whisper", "weights": "fp32"}
    assert status["worker_restarts"] == 0
