"""The endpoints that write recordings down: `/v1/audio/transcriptions` and `translations`."""

from collections.abc import AsyncGenerator, Callable
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from device_runtime.api.errors import ApiError
from device_runtime.api.fields import check_fields, convert
from device_runtime.api.forms import decode_form
from device_runtime.api.generation import Generation
from device_runtime.api.outcomes import ApiEndpoint
from device_runtime.api.request_types import IGNORED
from device_runtime.api.served_model import ServedModel
from device_runtime.api.streaming import EVENTS, Chunks, deliver
from device_runtime.api.transcription_types import (
    WITHOUT_EFFECT,
    TranscriptFormat,
    TranscriptionBody,
    TranslationBody,
)
from device_runtime.api.transcripts import Transcript
from device_runtime.bundle.speech import Speech
from device_runtime.speech.transcription import TranscriptionChunk, TranscriptionRequest
from device_runtime.status.report import Outcome

B = TypeVar("B", bound=TranslationBody)

_WITH_TIMES = ("srt", "verbose_json", "vtt")


class Transcriber(Protocol):
    """A source of transcripts: the supervisor, or a fake."""

    def transcribe(self, request: TranscriptionRequest) -> AsyncGenerator[TranscriptionChunk]:
        """See `Supervisor.transcribe`."""
        ...


class ParsedTranscription(msgspec.Struct, frozen=True, kw_only=True):
    """A request with a recording, checked and translated.

    Attributes:
        request: the request to the speech model.
        format: form of the answer.
        stream: whether it is streamed.
    """

    request: TranscriptionRequest
    format: TranscriptFormat
    stream: bool = False


class Transcriptions:
    """Answers requests with recordings.

    Args:
        transcriber: source of the transcripts.
        generation: the endpoints beside it, with which it shares counters.
        max_body_bytes: maximum size of a form.
    """

    def __init__(
        self, transcriber: Transcriber, generation: Generation, max_body_bytes: int
    ) -> None:
        self._transcriber = transcriber
        self._generation = generation
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """Return the routes of the endpoints."""
        return [
            self._route("transcriptions", ApiEndpoint.TRANSCRIPTIONS, parse_transcription),
            self._route("translations", ApiEndpoint.TRANSLATIONS, parse_translation),
        ]

    def _route(
        self,
        name: str,
        label: ApiEndpoint,
        parse: Callable[[dict[str, Any], ServedModel], ParsedTranscription],
    ) -> Route:
        async def handle(request: Request) -> Response:
            observed = self._generation.observed(request, label, "file")
            try:
                # A device that cannot use a recording does not read it.
                speech_model(self._generation.served)
                body = await self._generation.body(request, self._max_body_bytes)
                fields = decode_form(request.headers.get("content-type", ""), body)
                parsed = parse(fields, self._generation.served)
            except ApiError:
                observed.end(Outcome.REJECTED)
                raise
            del body, fields  # They may be large, and the answer may take minutes.
            chunks = Chunks(observed.chunks(self._transcriber.transcribe(parsed.request)))
            transcript = Transcript(parsed.format, parsed.request.task)
            streamed = await deliver(request, chunks, transcript, EVENTS if parsed.stream else None)
            return streamed or transcript.response()

        return Route(f"/v1/audio/{name}", handle, methods=["POST"])


def parse_transcription(fields: dict[str, Any], served: ServedModel) -> ParsedTranscription:
    """Parse a form with a recording to write down in its own language.

    Raises:
        ApiError: a field is invalid, or the model does not exist; the error names the field.
    """
    times = fields.get("timestamp_granularities", [])
    if not isinstance(times, list):
        # A list of one, by a client that does not write [] behind its name as OpenAI's do.
        times = [times]
    if "word" in times:
        raise _invalid("timestamp_granularities", "word is not supported; segment is")
    body = _body(fields | {"timestamp_granularities": times}, TranscriptionBody)
    model = speech_model(served, body.model)
    if body.language and body.language not in model.languages:
        known = ", ".join(model.languages)
        raise _invalid(
            "language", f"{body.language!r} is not a language of {model.model.name}: {known}"
        )
    if body.timestamp_granularities and body.response_format != "verbose_json":
        raise _invalid("timestamp_granularities", "requires response_format verbose_json")
    if body.stream and body.response_format in _WITH_TIMES:
        raise _invalid("stream", f"{body.response_format} cannot be streamed; json and text can")
    return _parsed(body, "transcribe", language=body.language, stream=body.stream)


def parse_translation(fields: dict[str, Any], served: ServedModel) -> ParsedTranscription:
    """Parse a form with a recording to translate into English; see `parse_transcription`."""
    body = _body(fields, TranslationBody)
    model = speech_model(served, body.model)
    if model.languages == ("en",):
        raise _invalid("model", f"{model.model.name} knows English alone, and cannot translate")
    return _parsed(body, "translate")


def speech_model(served: ServedModel, model: str = "") -> Speech:
    """Return the speech model, if a request means it.

    Args:
        served: the models of the device.
        model: name in the request; empty for the speech model.

    Raises:
        ApiError: the speech model does not exist, or has another name.
    """
    if served.speech is None:
        raise _not_there(
            "this device has no speech model. Build its bundle with edgepack build "
            "--speech-model MODEL"
        )
    name = served.speech.model.name
    if model in ("", name):
        return served.speech
    if model in served.all_models:
        raise _invalid("model", f"{model!r} does not take recordings; {name!r} does")
    raise _not_there(f"the model {model!r} does not exist; the speech model is {name!r}")


def _body(fields: dict[str, Any], kind: type[B]) -> B:
    check_fields(fields, kind, WITHOUT_EFFECT, ignored=IGNORED)
    file = fields.get("file")
    if isinstance(file, str | list):
        raise _invalid("file", "must be one file, in a part of the form that has a filename")
    if file == b"":
        raise _invalid("file", "must not be empty")
    return convert(fields, kind, strict=False)


def _parsed(
    body: TranslationBody,
    task: Literal["transcribe", "translate"],
    *,
    language: str = "",
    stream: bool = False,
) -> ParsedTranscription:
    request = TranscriptionRequest(
        audio=body.file,
        language=language,
        task=task,
        prompt=body.prompt,
        temperature=body.temperature,
        timestamps=body.response_format in _WITH_TIMES,
    )
    return ParsedTranscription(request=request, format=body.response_format, stream=stream)


def _invalid(param: str, reason: str) -> ApiError:
    return ApiError(f"{param}: {reason}", param=param, code="invalid_value")


def _not_there(message: str) -> ApiError:
    return ApiError(message, status=404, param="model", code="model_not_found")
