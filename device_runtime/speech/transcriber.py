"""The speech model of a release, Whisper in ONNX Runtime GenAI: loaded when it is first needed."""

from collections.abc import Callable, Generator
from pathlib import Path

from device_runtime import memory
from device_runtime.errors import EngineError
from device_runtime.inference.engine import NoMemoryNowError, no_memory
from device_runtime.inference.genai_model import ENGINE_HINT, failure, first_line
from device_runtime.processor import cores
from device_runtime.speech.decoding import SpeechDecoding
from device_runtime.speech.model import SpeechModel
from device_runtime.speech.recording import Recording
from device_runtime.speech.transcription import TranscriptionChunk, TranscriptionRequest

_HINT = "Send a shorter recording, or stop other programs on the device."


class WhisperTranscriber:
    """Implements `Transcriber`.

    In usage, the tokens of the prompt are those before the text of a window: the request's prompt,
    and the marks of language and task.

    Args:
        folder: folder with the model.
        memory_bytes: memory that it needs, bytes.
        threads: number of ONNX Runtime threads; 0 for one a core.
    """

    def __init__(self, folder: Path, *, memory_bytes: int, threads: int) -> None:
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._threads = threads or cores()
        self._model: SpeechModel | None = None

    def transcribe(
        self, request: TranscriptionRequest, cancelled: Callable[[], bool]
    ) -> Generator[TranscriptionChunk]:
        """See `Transcriber.transcribe`."""
        recording = Recording(request.audio)
        model = self._load()
        model.check(request)
        decoding = SpeechDecoding(model, recording, request, cancelled)
        yield TranscriptionChunk()
        try:
            yield from decoding.chunks()
        except (RuntimeError, FloatingPointError, MemoryError) as error:
            raise failure(error, _HINT) from None

    def _load(self) -> SpeechModel:
        if self._model is None:
            if memory.available() < self._memory_bytes:
                raise NoMemoryNowError(
                    f"the speech model needs {self._memory_bytes >> 20} MiB of memory, "
                    f"{memory.available() >> 20} MiB are free",
                )
            try:
                self._model = SpeechModel(self._folder, self._threads)
            except EngineError:
                raise
            except Exception as error:
                if memory.is_short(error):
                    raise no_memory(error) from None
                raise EngineError(
                    f"the speech model does not load: {first_line(error)}", hint=ENGINE_HINT
                ) from None
        return self._model
