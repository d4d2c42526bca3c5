"""The interface of a speech model: recordings in, text out.

The structs here are sent between the two processes, so they hold plain data only.
"""

from collections.abc import Callable, Generator
from typing import ClassVar, Literal, Protocol

import msgspec

from device_runtime.errors import RequestError
from device_runtime.inference.engine import Usage


class TranscriptionRequest(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A recording to write down.

    Attributes:
        audio: the file as it came; not checked yet.
        language: language of the speech, ISO 639; empty for the one that the model hears in the
            first seconds.
        task: write it down in its own language, or translate it into English.
        prompt: text before the recording, for names and style; empty for none.
        temperature: softmax temperature; 0 is greedy decoding.
        timestamps: whether the answer has segments with times.
        quicker: the way to a request that takes less time, for hints.
    """

    quicker: ClassVar[str] = "Send a shorter recording"
    audio: bytes
    language: str = ""
    task: Literal["transcribe", "translate"] = "transcribe"
    prompt: str = ""
    temperature: float = 0.0
    timestamps: bool = False


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a recording, and what is said in it.

    Attributes:
        start: its beginning, seconds from that of the recording.
        end: its end, likewise.
        text: its text, a leading space included.
        tokens: token ids of the text and of its two times.
        temperature: the temperature that it was decoded with.
        avg_logprob: mean log probability of the tokens of its window.
        no_speech_prob: probability that nobody speaks in its window.
        seek: beginning of its window, hundredths of a second.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    no_speech_prob: float
    seek: int


class TranscriptionChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """A piece of what is said.

    Attributes:
        text: whole characters, which continue the text; may be empty.
        segments: segments that have ended, if the request has times.
        language: language of the speech, ISO 639; only in the last chunk.
        seconds: length of the recording; only in the last chunk.
        usage: usage of the request; only in the last chunk.
    """

    text: str = ""
    segments: tuple[Segment, ...] = ()
    language: str = ""
    seconds: float = 0.0
    usage: Usage | None = None

    @property
    def is_empty(self) -> bool:
        """True if the chunk tells nothing but that work goes on."""
        return not (self.text or self.segments or self.usage)


class AudioError(RequestError):
    """A recording cannot be used."""

    wire_name = "audio"
    api_code = "invalid_audio"
    param = "file"


class Transcriber(Protocol):
    """A speech model, which is loaded when it is first needed."""

    def transcribe(
        self, request: TranscriptionRequest, cancelled: Callable[[], bool]
    ) -> Generator[TranscriptionChunk]:
        """Write down what is said in a recording, one token a step.

        The first chunk is empty and precedes all work with the model: the request is accepted. More
        empty chunks may follow, so that other requests can run between two steps.

        Args:
            request: the recording, and what is known of it.
            cancelled: polled before each step; once it returns True, the answer ends with what has
                been written down.

        Raises:
            AudioError: before the first chunk, if the recording cannot be read.
            RequestError: before the first chunk, if the model does not know the language, or cannot
                translate.
            NoMemoryNowError: before the first chunk, if the model does not fit into memory now.
            EngineError: the model does not load, or fails.
        """
        ...
