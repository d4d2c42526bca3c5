"""`edgepack-runtime chat`: a conversation in the terminal."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from device_runtime.commands.options import (
    Grouped,
    api_key_file,
    config_file,
    configured,
    given,
    open_or_own,
    release,
    request_options,
    resolve,
    resolve_anywhere,
)
from device_runtime.errors import DeviceError

if TYPE_CHECKING:
    from device_runtime.chat.models import ChatModel
    from device_runtime.config.options import RuntimeConfig


@click.command(cls=Grouped)
@configured("listen", "tls_certificate")
@api_key_file
@click.option("--alone", is_flag=True, help="Load the model here, whatever service runs.")
@click.option("--system", default="", metavar="TEXT", help="System prompt.")
@click.option("--model", help="MODEL:ADAPTER, where the release has adapters.")
@request_options
@release
@config_file
def chat(
    alone: bool,
    system: str,
    release: Path | None,
    config_file: Path | None,
    api_key_file: Path | None,
    listen: str | None,
    tls_certificate: Path | None,
    **options: Any,
) -> None:
    """Chat with the service that runs here, or without one with a model loaded for it.

    In a terminal, /help tells what else there is. Otherwise each line of standard input is a
    message.

    \b
    Examples:
      edgepack-runtime chat
      edgepack-runtime chat --alone --system "You are brief." --temperature 0.7
      echo "What is the capital of France?" | edgepack-runtime chat
    """
    from device_runtime.chat.conversation import Chat, Conversation

    if alone and listen is not None:
        raise click.UsageError("--alone talks to no service: leave --listen out")
    model: ChatModel | None = None
    if not alone:
        flags = {"listen": listen, "tls_certificate": tls_certificate}
        config = resolve_anywhere(release, config_file, **flags).config
        model = _service(config, api_key_file, must_be_there=listen is not None)
    if model is None:
        model = _own(release, config_file)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    talk = Chat(
        model,
        Conversation(system),
        given(options),
        show=lambda text: click.echo(text, nl=False),
        note=_note if interactive else lambda text: None,
    )
    try:
        if interactive:
            _converse(talk.take)
        else:
            for line in sys.stdin.buffer:
                if not talk.take(line.decode(errors="replace").rstrip("\n")):
                    break
    finally:
        model.close()


def _service(
    config: "RuntimeConfig", api_key_file: Path | None, *, must_be_there: bool
) -> "ChatModel | None":
    """The service that answers where the configuration says; None if none does."""
    from device_runtime.chat.client import NoServiceError, endpoint
    from device_runtime.chat.models import ServiceModel

    if config.listen.endswith(":0") and not must_be_there:
        return None
    where = endpoint(config, api_key_file)
    model = ServiceModel(where)
    try:
        _note(f"{model.name()}, served on {where.url}")
    except NoServiceError:
        if must_be_there:
            raise
        return None
    return model


def _own(release: Path | None, config_file: Path | None) -> "ChatModel":
    """The release's model, loaded here."""
    from device_runtime.api.served_model import ServedModel
    from device_runtime.chat.models import OwnModel
    from device_runtime.commands.engine import load_engine

    opened = open_or_own(release)
    config = resolve(opened, config_file).config
    _note(f"{opened.manifest.model.name}, loaded for this chat")
    served = ServedModel.of_release(opened, config)
    return OwnModel(load_engine(opened, config), served)


def _converse(take: Callable[[str], bool]) -> None:
    """Until the user leaves; what goes wrong is told, and the chat goes on."""
    _note("/help tells what there is.")
    for line in _lines():
        try:
            if not take(line):
                return
        except DeviceError as error:
            click.echo(f"error: {error}", err=True)
            if error.hint:
                click.echo(f"hint: {error.hint}", err=True)


def _lines() -> Iterator[str]:
    """What the user writes; Ctrl-D ends it."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    from device_runtime.chat.conversation import COMMANDS

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    # Its history is kept in memory: what was asked is nobody else's business.
    session: PromptSession[str] = PromptSession(
        completer=WordCompleter(COMMANDS, sentence=True),
        complete_while_typing=False,
        key_bindings=keys,
    )
    while True:
        try:
            yield session.prompt("> ", prompt_continuation="  ")
        except KeyboardInterrupt:
            _note("Ctrl-D or /exit leaves.")
        except EOFError:
            return


def _note(text: str) -> None:
    """A line beside the conversation, on stderr."""
    plain = "NO_COLOR" in os.environ or not sys.stderr.isatty()
    click.echo(text if plain else click.style(text, dim=True), err=True)
