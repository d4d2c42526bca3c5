"""`edgepack-runtime generate`: one answer, without a server."""

import json
import os
import time
from pathlib import Path

import click

from device_runtime.commands.options import (
    as_json,
    config_file,
    open_or_own,
    release,
    resolve,
)


@click.command()
@click.argument("prompt")
@release
@config_file
@click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens of the answer.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    default=0.0,
    show_default=True,
    help="0 takes the most likely token each time.",
)
@click.option("--top-p", type=click.FloatRange(0, 1), default=1.0, show_default=True)
@click.option("--top-k", type=click.IntRange(min=0), default=0, help="0 for all tokens.")
@click.option("--seed", type=int, help="Same seed, same answer.")
@click.option("--raw", is_flag=True, help="Continue the text; do not use the chat template.")
@as_json
def generate(
    prompt: str,
    release: Path | None,
    config_file: Path | None,
    max_tokens: int | None,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int | None,
    raw: bool,
    as_json: bool,
) -> None:
    """Answer one PROMPT and end; the text is printed as it comes.

    \b
    Examples:
      edgepack-runtime generate "What is the capital of France?"
      edgepack-runtime generate --raw --max-tokens 20 "Once upon a time"
    """
    from device_runtime.engine import GenerationRequest, Message
    from device_runtime.genai_engine import GenAIEngine

    opened = open_or_own(release)
    config = resolve(opened, config_file).config
    request = GenerationRequest(
        prompt=prompt if raw else (Message(role="user", content=prompt),),
        max_tokens=max_tokens or config.max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
    )
    engine = GenAIEngine(
        opened.model_folder,
        context_length=opened.manifest.context_length,
        threads=config.threads,
    )
    text = ""
    first_at = 0.0
    for chunk in engine.generate(request, lambda: False):
        text += chunk.text
        if not as_json:
            click.echo(chunk.text, nl=False)
        elif chunk.tokens and not first_at:
            first_at = _since_process_start()
    if not as_json:
        click.echo()
        return
    assert chunk.usage is not None
    assert chunk.finish_reason is not None
    result = {
        "text": text,
        "finish_reason": chunk.finish_reason.value,
        "prompt_tokens": chunk.usage.prompt_tokens,
        "completion_tokens": chunk.usage.completion_tokens,
        "start_to_first_token_s": round(first_at, 3),
        "first_token_s": round(chunk.usage.first_token_s, 3),
        "tokens_per_s": chunk.usage.tokens_per_s and round(chunk.usage.tokens_per_s, 1),
    }
    click.echo(json.dumps(result))


def _since_process_start() -> float:
    """Seconds since the kernel started this process, loading of the program included."""
    # Field 22 of stat (man 5 proc), counted after the name, which may hold anything.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
