"""`edgepack-runtime generate`: one answer, without a server."""

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import click

from device_runtime.commands.options import (
    as_json,
    config_file,
    image,
    open_or_own,
    release,
    request_options,
    resolve,
    without_none,
)
from device_runtime.errors import RequestError


@click.command()
@click.argument("prompt")
@release
@config_file
@request_options
@image
@click.option(
    "--raw",
    is_flag=True,
    help="Continue the text, without the chat template. A model that has none always does.",
)
@as_json
def generate(
    prompt: str,
    release: Path | None,
    config_file: Path | None,
    image: tuple[Path, ...],
    raw: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Answer one PROMPT and exit; the text is printed as it is generated, thoughts on stderr.

    \b
    Examples:
      edgepack-runtime generate "Name the capital of France."
      edgepack-runtime generate --image photo.jpg "What is in this picture?"
      edgepack-runtime generate --raw --max-tokens 20 "Once upon a time"
    """
    from device_runtime.commands.engine import EngineLoader
    from device_runtime.commands.tuned import tuned

    opened = open_or_own(release)
    config, setting = tuned(opened, resolve(opened, config_file))
    if setting is not None:
        setting.pin()
    loader = EngineLoader(opened, config)

    from device_runtime.api.chat_requests import parse_chat
    from device_runtime.api.completion_requests import parse_completion
    from device_runtime.api.requests import own_request
    from device_runtime.api.served_model import ServedModel
    from device_runtime.chat.display import AnswerDisplay, beside
    from device_runtime.chat.images import content, image_part
    from device_runtime.tokenizer.files import chat_templates

    images = [image_part(file) for file in image]
    served = ServedModel.of_release(opened, config)
    fields = without_none(options)
    if raw or not chat_templates(opened.model_folder):
        if images:
            raise RequestError(
                "an image requires the model's chat template", hint="Omit --raw or --image."
            )
        request = own_request(parse_completion, fields | {"prompt": prompt}, served)
    else:
        messages = [{"role": "user", "content": content(prompt, images)}]
        request = own_request(parse_chat, fields | {"messages": messages}, served)
    engine = loader.engine()
    text = thoughts = ""
    first_at = 0.0
    display = AnswerDisplay(partial(click.echo, nl=False), partial(beside, nl=False))
    for chunk in engine.generate(request, lambda: False):
        thoughts += chunk.thoughts
        text += chunk.text
        if not as_json:
            display.add(chunk.thoughts, chunk.text)
        elif chunk.tokens and not first_at:
            first_at = _since_process_start()
    if not as_json:
        click.echo()
        return
    assert chunk.usage is not None
    assert chunk.finish_reason is not None
    result = {
        "text": text,
        "thoughts": thoughts,
        "finish_reason": chunk.finish_reason.value,
        "prompt_tokens": chunk.usage.prompt_tokens,
        "completion_tokens": chunk.usage.completion_tokens,
        "start_to_first_token_s": round(first_at, 3),
        "first_token_s": round(chunk.usage.first_token_s, 3),
        "tokens_per_s": chunk.usage.tokens_per_s and round(chunk.usage.tokens_per_s, 1),
    }
    click.echo(json.dumps(result))


def _since_process_start() -> float:
    """Return the seconds since the start of this process, loading of the program included."""
    # Field 22 of stat (man 5 proc), counted from behind the name, which may contain anything.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
