"""Building of answers to requests with recordings: the speech model's chunks in, text out."""

import zlib
from collections.abc import Sequence
from typing import Literal

import msgspec
from starlette.responses import Response

from device_runtime.api.generation import response
from device_runtime.api.transcription_types import (
    AudioUsage,
    TranscriptDelta,
    TranscriptDone,
    TranscriptFormat,
    Transcription,
    TranscriptSegment,
    TranscriptUsage,
    VerboseTranscription,
)
from device_runtime.inference.engine import Usage
from device_runtime.speech.subtitles import subtitles
from device_runtime.speech.transcription import Segment, TranscriptionChunk

MEDIA_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}
"""Content types of the answers that are not JSON."""


class Transcript:
    """The text of a recording, as far as it is written down.

    Args:
        format: form of the whole answer.
        task: what the request wants.
    """

    def __init__(self, format: TranscriptFormat, task: Literal["transcribe", "translate"]) -> None:
        self._format = format
        self._task = task
        self._text = ""
        self._segments: list[Segment] = []
        self._language = ""
        self._seconds = 0.0

    def push(self, chunk: TranscriptionChunk) -> Sequence[msgspec.Struct]:
        """Add the model's next chunk, and return the events that can be sent now."""
        # Models begin with a space, which is not part of the text.
        added = chunk.text if self._text else chunk.text.lstrip()
        self._text += added
        self._segments += chunk.segments
        events: list[msgspec.Struct] = [TranscriptDelta(added)] if added else []
        if chunk.usage is not None:
            self._language, self._seconds = chunk.language, round(chunk.seconds, 3)
            events.append(TranscriptDone(self._text, _usage(chunk.usage)))
        return events

    def response(self) -> Response:
        """Return the whole answer, once its last chunk is added."""
        match self._format:
            case "json":
                return response(Transcription(self._text, AudioUsage(self._seconds)))
            case "verbose_json":
                return response(self._verbose())
            case "text":
                content = f"{self._text}\n"
            case "srt" | "vtt":
                content = subtitles(self._format, self._segments)
        return Response(content, media_type=f"{MEDIA_TYPES[self._format]}; charset=utf-8")

    def _verbose(self) -> VerboseTranscription:
        return VerboseTranscription(
            task=self._task,
            language="en" if self._task == "translate" else self._language,
            duration=self._seconds,
            text=self._text,
            segments=[_segment(*numbered) for numbered in enumerate(self._segments)],
            usage=AudioUsage(self._seconds),
        )


def _segment(number: int, segment: Segment) -> TranscriptSegment:
    data = segment.text.encode()
    return TranscriptSegment(
        id=number,
        compression_ratio=len(data) / len(zlib.compress(data)),
        **msgspec.structs.asdict(segment) | {"tokens": list(segment.tokens)},
    )


def _usage(usage: Usage) -> TranscriptUsage:
    total = usage.prompt_tokens + usage.completion_tokens
    return TranscriptUsage(usage.prompt_tokens, usage.completion_tokens, total)
