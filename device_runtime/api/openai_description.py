"""The part of the API's document that is about OpenAI's chat, embeddings and audio."""

from collections.abc import Sequence
from typing import Any

import msgspec

from device_runtime.api import response_types as objects
from device_runtime.api.chat_types import CHAT_WITHOUT_EFFECT, TURN_WITHOUT_EFFECT, ChatBody
from device_runtime.api.completion_types import COMPLETION_WITHOUT_EFFECT, CompletionBody
from device_runtime.api.description import (
    FORM,
    GENERATING,
    JSON,
    answer,
    close,
    json_answer,
    name_models,
    operation,
    ref,
    streamed,
    with_body,
)
from device_runtime.api.embedding_types import EmbeddingBody, EmbeddingList
from device_runtime.api.request_types import IGNORED, STREAM_OPTIONS_WITHOUT_EFFECT
from device_runtime.api.transcription_types import (
    WITHOUT_EFFECT,
    TranscriptDelta,
    TranscriptDone,
    Transcription,
    TranscriptionBody,
    TranslationBody,
    VerboseTranscription,
)
from device_runtime.api.transcripts import MEDIA_TYPES

STRUCTS: tuple[type[msgspec.Struct], ...] = (
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    EmbeddingList,
    TranscriptionBody,
    TranslationBody,
    Transcription,
    VerboseTranscription,
    TranscriptDelta,
    TranscriptDone,
    objects.ChatCompletion,
    objects.ChatCompletionChunk,
    objects.Completion,
    objects.Error,
)
_DONE = "[DONE]"
_RECORDING = "@recording.wav"
_BINARY = {"type": "string", "format": "binary", "minLength": 1}
_CHAT_EXAMPLES = {
    "question": {"messages": [{"role": "user", "content": "Name the capital of France."}]},
    "streamed": {
        "messages": [
            {"role": "system", "content": "You are brief."},
            {"role": "user", "content": "Tell me about rivers."},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "max_tokens": 64,
    },
    "json": {
        "messages": [{"role": "user", "content": "Paris, as JSON."}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "city",
                "schema": {
                    "type": "object",
                    "properties": {"city": {"type": "string", "maxLength": 30}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
            },
        },
    },
}


def paths() -> dict[str, Any]:
    """Describe the endpoints."""
    return {
        "/v1/chat/completions": {
            "post": with_body(
                operation(
                    "createChatCompletion",
                    "Answer a conversation",
                    streamed("ChatCompletion", ["ChatCompletionChunk", "Error"], end=_DONE),
                    GENERATING,
                ),
                "ChatBody",
                _CHAT_EXAMPLES,
            )
        },
        "/v1/completions": {
            "post": with_body(
                operation(
                    "createCompletion",
                    "Continue raw text",
                    streamed("Completion", ["Completion", "Error"], end=_DONE),
                    GENERATING,
                ),
                "CompletionBody",
                {"text": {"prompt": "Once upon a time", "max_tokens": 20}},
            )
        },
        "/v1/embeddings": {
            "post": with_body(
                operation(
                    "createEmbedding",
                    "Return the vectors of texts, from the bundle's embedding model",
                    {200: json_answer("EmbeddingList")},
                    GENERATING,
                ),
                "EmbeddingBody",
                {"text": {"input": "The food was delicious."}},
            )
        },
        **_audio_paths(),
    }


def _audio_paths() -> dict[str, Any]:
    pieces = ["TranscriptDelta", "TranscriptDone", "Error"]
    return {
        "/v1/audio/transcriptions": {
            "post": with_body(
                operation(
                    "createTranscription",
                    "Write down what is said in a recording, with the bundle's speech model",
                    _transcripts(streamed("Transcription", pieces, end=_DONE)),
                    GENERATING,
                ),
                "TranscriptionBody",
                {
                    "text": {"file": _RECORDING},
                    "subtitles": {"file": _RECORDING, "language": "en", "response_format": "srt"},
                },
                media_type=FORM,
            )
        },
        "/v1/audio/translations": {
            "post": with_body(
                operation(
                    "createTranslation",
                    "Translate what is said in a recording into English",
                    _transcripts({200: json_answer("Transcription")}),
                    GENERATING,
                ),
                "TranslationBody",
                {"text": {"file": _RECORDING}},
                media_type=FORM,
            )
        },
    }


def _transcripts(answers: dict[int, Any]) -> dict[int, Any]:
    """Add the other forms of a transcript to the first one."""
    described = answers[200]
    content = {kind: part["schema"] for kind, part in described["content"].items()}
    content[JSON] = {"anyOf": [content[JSON], ref("VerboseTranscription")]}
    content |= {kind: {"type": "string"} for kind in MEDIA_TYPES.values()}
    return {200: answer(described["description"], content)}


def complete(schemas: dict[str, Any], models: Sequence[str]) -> None:
    """Add to the schemas what their structs do not say.

    Args:
        schemas: all schemas, by name.
        models: the names that a request's `model` can have.
    """
    close(schemas["ChatBody"], CHAT_WITHOUT_EFFECT, ignored=IGNORED)
    close(schemas["CompletionBody"], COMPLETION_WITHOUT_EFFECT, ignored=IGNORED)
    close(schemas["Turn"], TURN_WITHOUT_EFFECT)
    close(schemas["StreamOptions"], STREAM_OPTIONS_WITHOUT_EFFECT)
    close(schemas["EmbeddingBody"], {}, ignored=IGNORED)
    for body in ("TranscriptionBody", "TranslationBody"):
        close(schemas[body], WITHOUT_EFFECT, ignored=IGNORED)
        _describe_form(schemas[body]["properties"])
    for body in ("ChatBody", "CompletionBody"):
        name_models(schemas[body], models, required=False)


def _describe_form(fields: dict[str, Any]) -> None:
    """Change the schemas of a body's fields to those of a form: files, and no null."""
    fields["file"] = _BINARY | {"description": fields["file"]["description"]}
    for name, values in WITHOUT_EFFECT.items():
        fields[name]["enum"] = [*values]
