"""An engine that needs no model, and a program that serves it as the inference process does.

What it does is in the prompt: `crash` ends the process, `long` streams until cancelled, `noise`
prints to standard output as native code may, `close` closes the pipe to the parent and goes on,
`garble` writes nonsense into it, `refuse` is a prompt too long, `fault` a failing model, `warmed`
repeats the system prompts that were prepared; everything else is repeated word by word. A word is a
token, and its length is the token's id.
"""

import fcntl
import os
import signal
import struct
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path

import msgspec

from device_runtime.bundle.model_facts import ModelFacts
from device_runtime.bundle.speech import Speech
from device_runtime.errors import DeviceError, EngineError
from device_runtime.inference.embedding import EmbeddingChunk, EmbeddingRequest
from device_runtime.inference.engine import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    PromptTooLongError,
    TokenLogprob,
    Usage,
)
from device_runtime.speech.transcription import (
    AudioError,
    Segment,
    TranscriptionChunk,
    TranscriptionRequest,
)
from device_runtime.status.report import RequestStats, RuntimeStatus
from device_runtime.worker import process
from device_runtime.worker.health import Health
from tests.support import statuses

ROOT = Path(__file__).parents[2]


def usage(tokens: int = 3) -> Usage:
    return Usage(prompt_tokens=2, completion_tokens=tokens, first_token_s=0.5, decode_s=0.1)


def request(prompt: str) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, max_tokens=10)


class FakeEngine:
    """Implements `Engine`."""

    def __init__(self, mode: str = "") -> None:
        self._mode = mode
        self._warmed: list[str] = []

    def generate(
        self, request: GenerationRequest, cancelled: Callable[[], bool]
    ) -> Generator[GenerationChunk]:
        prompt = request.prompt
        assert isinstance(prompt, str)
        if prompt == "refuse":
            raise PromptTooLongError("too long", hint="Shorten it.")
        yield GenerationChunk()
        if prompt == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if prompt == "fault":
            raise EngineError("the model failed")
        if prompt == "warmed":
            prompt = " ".join(self._warmed)
        if prompt == "close":
            os.close(_to_parent())
            signal.pause()
        if prompt == "garble":
            os.write(_to_parent(), b"\x00\x00\x00\x01?")
        if prompt == "noise":
            os.write(1, b"native code prints\n" * 10)
        reason = FinishReason.STOP
        tokens = 0
        for tokens, word in enumerate(prompt.split(), 1):
            number = len(word) + (self._mode == "wrong")
            parts = (TokenLogprob(token=number, data=word.encode(), logprob=0),)
            logprobs = parts if request.logprobs is not None else ()
            yield GenerationChunk(text=word + " ", tokens=tokens, logprobs=logprobs)
        while prompt == "long" and not cancelled():
            time.sleep(0.01)
            tokens += 1
            yield GenerationChunk(text="x", tokens=tokens)
            reason = FinishReason.CANCELLED
        decode_s = 0.01 if self._mode == "fast" else 0.1
        used = msgspec.structs.replace(usage(tokens), decode_s=decode_s)
        yield GenerationChunk(tokens=tokens, finish_reason=reason, usage=used)

    def warm(self, system: str) -> None:
        self._warmed.append(system)

    def idle(self) -> bool:
        return False


class FakeEmbedder:
    """Implements `Embedder`. The vector of a text is its length, twice; `refuse` is too long."""

    def embed(
        self, request: EmbeddingRequest, cancelled: Callable[[], bool]
    ) -> Generator[EmbeddingChunk]:
        if "refuse" in request.inputs:
            raise PromptTooLongError("too long", hint="Split it.")
        yield EmbeddingChunk()
        for text in request.inputs:
            if text == "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            while text == "long" and not cancelled():
                time.sleep(0.01)
                yield EmbeddingChunk()
            yield EmbeddingChunk(vector=vector(text))
        yield EmbeddingChunk(usage=usage(0))


HEARING = Speech(
    model=ModelFacts(
        name="hear",
        source="test",
        source_sha256="0" * 64,
        architecture="WhisperForConditionalGeneration",
        parameters=1,
        license="",
    ),
    weights="int8",
    languages=("en", "de"),
    memory_bytes=1,
)
"""The speech model that the fakes are."""


class FakeTranscriber:
    """Implements `Transcriber`: a recording is its text. `refuse` cannot be read."""

    def transcribe(
        self, request: TranscriptionRequest, cancelled: Callable[[], bool]
    ) -> Generator[TranscriptionChunk]:
        if request.audio == b"refuse":
            raise AudioError("the recording cannot be read", hint="Send a WAV file.")
        yield TranscriptionChunk()
        while request.audio == b"long" and not cancelled():
            time.sleep(0.01)
            yield TranscriptionChunk(text=" x")
        yield from transcript(request)


def transcript(request: TranscriptionRequest) -> list[TranscriptionChunk]:
    """The chunks of a recording that is its text: a word a second, and a segment for each."""
    words = request.audio.decode().split()
    chunks = [
        TranscriptionChunk(
            text=f" {word}", segments=(segment(second, word),) if request.timestamps else ()
        )
        for second, word in enumerate(words)
    ]
    end = TranscriptionChunk(
        language=request.language or "de", seconds=len(words), usage=usage(len(words))
    )
    return [*chunks, end]


def segment(second: int, word: str) -> Segment:
    return Segment(
        start=second,
        end=second + 1,
        text=f" {word}",
        tokens=(len(word),),
        temperature=0,
        avg_logprob=-0.5,
        no_speech_prob=0.25,
        seek=0,
    )


def vector(text: str | tuple[int, ...]) -> bytes:
    return struct.pack("<2f", len(text), len(text))


def _to_parent() -> int:
    """The pipe that a worker keeps for its messages: the one that can be written, beside stderr."""
    numbers = [int(entry.name) for entry in Path("/proc/self/fd").iterdir() if entry.is_fifo()]
    (number,) = (
        number
        for number in numbers
        if number > 2 and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    )
    return number


class FakeGenerator:
    """Implements the `Generator` of the HTTP server: some chunks, or an error before or after."""

    def __init__(self) -> None:
        self.error: DeviceError | None = None
        self.late_error: DeviceError | None = None
        self.requests: list[GenerationRequest] = []
        self.embedded: list[EmbeddingRequest] = []
        self.transcribed: list[TranscriptionRequest] = []

    async def embed(self, request: EmbeddingRequest) -> AsyncGenerator[EmbeddingChunk]:
        self.embedded.append(request)
        if self.error is not None:
            raise self.error
        yield EmbeddingChunk()
        for text in request.inputs:
            yield EmbeddingChunk(vector=vector(text))
        if self.late_error is not None:
            raise self.late_error
        yield EmbeddingChunk(usage=usage(0))

    async def transcribe(self, request: TranscriptionRequest) -> AsyncGenerator[TranscriptionChunk]:
        self.transcribed.append(request)
        if self.error is not None:
            raise self.error
        yield TranscriptionChunk()
        for chunk in transcript(request):
            if chunk.usage is not None and self.late_error is not None:
                raise self.late_error
            yield chunk

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        yield GenerationChunk(prompt_tokens=2)
        if request.counts:
            yield GenerationChunk(finish_reason=FinishReason.STOP, usage=usage(0))
            return
        yield GenerationChunk(text="Hello ", tokens=1)
        if self.late_error is not None:
            raise self.late_error
        yield GenerationChunk(text="there", tokens=2)
        yield GenerationChunk(tokens=3, finish_reason=FinishReason.STOP, usage=usage())


def runtime_status(stats: RequestStats, health: Health = Health.READY) -> RuntimeStatus:
    requests, tokens_per_s, first_token_s = stats.snapshot()
    return statuses.status(
        health=health,
        running=1,
        requests=requests,
        tokens_per_s=tokens_per_s,
        first_token_s=first_token_s,
        worker_restarts=2,
    )


def worker_command(mode: str = "") -> list[str]:
    """Starts this file as an inference process.

    With mode `broken` the model never loads, with `dies` the process ends as it does, and with
    `hangs` it never does; with `wrong` it answers other tokens, and with `fast` it is fast. A path
    as mode makes it load only while no such file exists.
    """
    path = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    code = f"{path}; from tests.support import fakes; fakes.main()"
    return [sys.executable, "-c", code, str(os.getpid()), mode]


def main() -> None:
    parent, mode = sys.argv[1:]

    def load() -> process.Models:
        if mode == "broken" or (mode and Path(mode).exists()):
            raise EngineError("no model here", hint="Bring one.")
        if mode == "hangs":
            signal.pause()
        if mode == "dies":
            os.kill(os.getpid(), signal.SIGSEGV)
        return process.Models(FakeEngine(mode), FakeEmbedder(), FakeTranscriber())

    sys.exit(process.run(load, int(parent)))
