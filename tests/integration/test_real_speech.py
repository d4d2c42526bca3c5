"""Real recordings, written down by Whisper base with its trained weights in 8 bits."""

from collections.abc import Callable

import pytest

from device_runtime.speech.transcriber import WhisperTranscriber
from device_runtime.speech.transcription import TranscriptionRequest
from packager.models import speech
from tests.support import whisper_base
from tests.support.real_speech import words

pytestmark = pytest.mark.slow

Write = Callable[[str], tuple[str, str]]


@pytest.fixture(scope="module")
def write() -> Write:
    """Writes down a recording; returns the language that was heard, and the text."""
    source = speech.resolve(str(whisper_base.model()))
    folder = speech.export(source, "int8").folder
    transcriber = WhisperTranscriber(folder, memory_bytes=0, threads=2)

    def write(name: str) -> tuple[str, str]:
        file = whisper_base.recordings() / f"{name}.wav"
        request = TranscriptionRequest(audio=file.read_bytes(), timestamps=True)
        chunks = list(transcriber.transcribe(request, lambda: False))
        return chunks[-1].language, "".join(chunk.text for chunk in chunks)

    return write


@pytest.mark.parametrize(
    "name",
    [
        "en/hello_world",
        "en/quick_brown_fox",
        "fr/bonjour_monde",
        "ja/konnichiwa_sekai",
        "pt/contagem",
        "zh/nihao_shijie",
    ],
)
def test_text_is_what_is_said(write: Write, name: str) -> None:
    language, text = write(name)
    said = (whisper_base.recordings() / f"{name}.txt").read_text()
    assert language == name.partition("/")[0]
    assert words(text) == words(said)
