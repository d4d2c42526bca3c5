"""The forms of requests to write recordings down, and the answers: fields, types and bounds."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

TranscriptFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]

WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {"chunking_strategy": ("auto",)}
"""Unsupported fields, and the values that request nothing: long recordings are always cut."""

_Seconds = Annotated[float, Meta(description="Seconds from the beginning of the recording.")]


class TranslationBody(msgspec.Struct, frozen=True, kw_only=True):
    """A form with a recording to translate into English."""

    file: Annotated[
        bytes,
        Meta(
            min_length=1,
            description="The recording. The first bytes tell its format; its name does not count.",
        ),
    ]
    model: Annotated[str, Meta(description="The device's speech model (the default).")] = ""
    prompt: Annotated[
        str,
        Meta(
            max_length=4096,
            description="Text before the recording, for names and style; the model reads its end.",
        ),
    ] = ""
    response_format: Annotated[
        TranscriptFormat,
        Meta(
            description="A JSON object (the default), the text alone, subtitles (SubRip or "
            "WebVTT), or an object with times."
        ),
    ] = "json"
    temperature: Annotated[
        float,
        Meta(ge=0, le=1, description="0, the default, picks the most likely token each time."),
    ] = 0.0


class TranscriptionBody(TranslationBody, frozen=True, kw_only=True):
    """A form with a recording to write down in its own language."""

    language: Annotated[
        str,
        Meta(description="Language of the speech, ISO 639; by default the model hears it."),
    ] = ""
    timestamp_granularities: Annotated[
        list[Literal["segment"]],
        Meta(
            max_length=8,
            description="What `verbose_json` has anyway, and no other format; times of words are "
            "not supported.",
        ),
    ] = []
    stream: Annotated[
        bool,
        Meta(
            description="Stream the text as server-sent events; only as `json` or `text`, which "
            "makes no difference then."
        ),
    ] = False


class AudioUsage(msgspec.Struct, frozen=True, tag_field="type", tag="duration"):
    """The usage of a request."""

    seconds: Annotated[float, Meta(description="Length of the recording, seconds.")]


class Transcription(msgspec.Struct, frozen=True):
    """The text of a recording."""

    text: str
    usage: AudioUsage


class TranscriptSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a recording, and what is said in it."""

    id: Annotated[int, Meta(description="Number of the segment, from 0.")]
    seek: Annotated[
        int, Meta(description="Beginning of its window of the recording, hundredths of a second.")
    ]
    start: _Seconds
    end: _Seconds
    text: str
    tokens: Annotated[list[int], Meta(description="Token ids of the text and its two times.")]
    temperature: float
    avg_logprob: Annotated[
        float, Meta(description="Mean log probability of the tokens of its window.")
    ]
    compression_ratio: Annotated[
        float, Meta(description="Size of the text by its compressed size: high if it repeats.")
    ]
    no_speech_prob: Annotated[
        float, Meta(description="Probability that nobody speaks in its window.")
    ]


class VerboseTranscription(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a recording, and its times."""

    task: Literal["transcribe", "translate"]
    language: Annotated[str, Meta(description="Language of the text, ISO 639.")]
    duration: Annotated[float, Meta(description="Length of the recording, seconds.")]
    text: str
    segments: list[TranscriptSegment]
    usage: AudioUsage


class TranscriptDelta(msgspec.Struct, frozen=True, tag_field="type", tag="transcript.text.delta"):
    """The next part of the text."""

    delta: str


class TranscriptUsage(msgspec.Struct, frozen=True, tag_field="type", tag="tokens"):
    """Tokens that a request used."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class TranscriptDone(msgspec.Struct, frozen=True, tag_field="type", tag="transcript.text.done"):
    """The whole text, at its end."""

    text: str
    usage: TranscriptUsage
