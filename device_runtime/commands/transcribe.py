"""`edgepack-runtime transcribe`: recordings to text, without a server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from device_runtime.commands.options import as_json, config_file, open_or_own, release, resolve
from device_runtime.errors import RequestError

if TYPE_CHECKING:
    from device_runtime.speech.transcription import TranscriptionChunk

SUBTITLES = ("srt", "vtt")


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@release
@config_file
@click.option(
    "--language", default="", help="Language of the speech, such as en.  [default: heard]"
)
@click.option("--translate", is_flag=True, help="Translate it into English.")
@click.option("--prompt", default="", help="Text before the recording, for names and style.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", *SUBTITLES]),
    default="text",
    show_default=True,
    help="json has times as well, and srt and vtt are subtitles.",
)
@as_json
def transcribe(
    files: tuple[str, ...],
    release: Path | None,
    config_file: Path | None,
    language: str,
    translate: bool,
    prompt: str,
    form: str,
    as_json: bool,
) -> None:
    """Write down what is said in recordings (WAV; - for stdin), as it is understood.

    \b
    Examples:
      edgepack-runtime transcribe meeting.wav
      edgepack-runtime transcribe --format srt --language de film.wav > film.srt
      ffmpeg -i talk.mp3 -ar 16000 -ac 1 -f wav - | edgepack-runtime transcribe -
    """
    from device_runtime.commands.engine import transcriber_of
    from device_runtime.speech.transcription import TranscriptionRequest

    form = "json" if as_json else form
    if form in SUBTITLES and len(files) > 1:
        raise click.UsageError(f"--format {form} is for one file")
    opened = open_or_own(release)
    recordings = [_read(file) for file in files]
    transcriber = transcriber_of(opened, resolve(opened, config_file).config)
    if transcriber is None:
        raise RequestError(
            "this release has no speech model",
            hint="Build the bundle with --speech-model, and install it.",
        )
    for file, recording in zip(files, recordings, strict=True):
        request = TranscriptionRequest(
            audio=recording,
            language=language.lower(),
            task="translate" if translate else "transcribe",
            prompt=prompt,
            timestamps=form != "text",
        )
        chunks = transcriber.transcribe(request, lambda: False)
        if form == "json":
            click.echo(json.dumps({"file": file} | _described(list(chunks))))
        else:
            for text in _texts(form, chunks):
                click.echo(text, nl=False)


def _read(file: str) -> bytes:
    """Read a file.

    Raises:
        RequestError: it cannot be read.
    """
    from device_runtime.speech.recording import MAX_BYTES

    try:
        with click.open_file(file, "rb") as opened:
            # A byte more than is taken: the recording is refused then.
            return bytes(opened.read(MAX_BYTES + 1))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(
            f"cannot read the recording {file}: {reason}", hint="Pass a WAV file."
        ) from None


def _texts(form: str, chunks: "Iterator[TranscriptionChunk]") -> Iterator[str]:
    """Yield the parts of what is printed, each as soon as it is known."""
    from device_runtime.speech.subtitles import Subtitles

    if form == "text":
        yield from (chunk.text for chunk in chunks)
        yield "\n"
        return
    subtitles = Subtitles("srt" if form == "srt" else "vtt")
    yield subtitles.head
    yield from (subtitles.push(chunk.segments) for chunk in chunks)


def _described(chunks: "list[TranscriptionChunk]") -> dict[str, Any]:
    """Return the content of the JSON for a recording."""
    import msgspec

    last = chunks[-1]
    assert last.usage is not None
    return {
        "text": "".join(chunk.text for chunk in chunks),
        "language": last.language,
        "seconds": round(last.seconds, 3),
        "segments": [msgspec.to_builtins(part) for chunk in chunks for part in chunk.segments],
        "prompt_tokens": last.usage.prompt_tokens,
        "completion_tokens": last.usage.completion_tokens,
        "first_token_s": round(last.usage.first_token_s, 3),
        "tokens_per_s": last.usage.tokens_per_s and round(last.usage.tokens_per_s, 1),
    }
