"""`edgepack-runtime chat`: a conversation in the terminal."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from device_runtime.chat.display import beside
from device_runtime.commands.options import (
    Grouped,
    api_key_file,
    config_file,
    configured,
    image,
    open_or_own,
    release,
    request_options,
    resolve,
    resolve_anywhere,
    without_none,
)
from device_runtime.errors import DeviceError

if TYPE_CHECKING:
    from device_runtime.chat.models import ChatModel
    from device_runtime.config.options import RuntimeConfig


@click.command(cls=Grouped)
@configured("listen", "tls_certificate")
@api_key_file
@click.option(
    "--alone", is_flag=True, help="Load the model in this process even if a service is running."
)
@click.option("--system", default="", metavar="TEXT", help="System prompt.")
@image
@click.option("--model", help="MODEL:ADAPTER, if the release has adapters.")
@request_options
@release
@config_file
def chat(
    alone: bool,
    system: str,
    image: tuple[Path, ...],
    release: Path | None,
    config_file: Path | None,
    api_key_file: Path | None,
    listen: str | None,
    tls_certificate: Path | None,
    **options: Any,
) -> None:
    """Chat with the running service or, if there is none, with a model loaded for the chat.

    In a terminal, /help lists the commands. Otherwise each line of standard input is a message.

    \b
    Examples:
      edgepack-runtime chat
      edgepack-runtime chat --alone --system "Be brief." --temperature 0.7
      edgepack-runtime chat --image photo.jpg
      echo "Name the capital of France." | edgepack-runtime chat
    """
    from device_runtime.chat.conversation import Chat, Conversation
    from device_runtime.chat.images import image_part

    if alone and listen is not None:
        raise click.UsageError("--alone cannot be combined with --listen")
    conversation = Conversation(system, map(image_part, image))
    model: ChatModel | None = None
    if not alone:
        flags = {"listen": listen, "tls_certificate": tls_certificate}
        config = resolve_anywhere(release, config_file, **flags).config
        model = _service(config, api_key_file, required=listen is not None)
    if model is None:
        model = _own(release, config_file)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    session = Chat(
        model,
        conversation,
        without_none(options),
        show=lambda text: click.echo(text, nl=False),
        think=lambda text: beside(text, nl=False) if interactive else None,
        note=beside if interactive else lambda text: None,
    )
    try:
        if interactive:
            _converse(session.take)
        else:
            for line in sys.stdin.buffer:
                if not session.take(line.decode(errors="replace").rstrip("\n")):
                    break
    finally:
        model.close()


def _service(
    config: "RuntimeConfig", api_key_file: Path | None, *, required: bool
) -> "ChatModel | None":
    """Connect to the service at the configured address; None if none is running."""
    from device_runtime.chat.client import NoServiceError, endpoint
    from device_runtime.chat.models import ServiceModel

    if config.listen.endswith(":0") and not required:
        return None
    target = endpoint(config, api_key_file)
    model = ServiceModel(target)
    try:
        beside(f"{model.name()}, served on {target.url}")
    except NoServiceError:
        if required:
            raise
        return None
    return model


def _own(release: Path | None, config_file: Path | None) -> "ChatModel":
    """Load the release's model in this process."""
    from device_runtime.api.served_model import ServedModel
    from device_runtime.chat.models import OwnModel
    from device_runtime.commands.engine import load_engine
    from device_runtime.commands.tuned import tuned

    opened = open_or_own(release)
    config, setting = tuned(opened, resolve(opened, config_file))
    if setting is not None:
        setting.pin()
    beside(f"{opened.manifest.model.name}, loaded for this chat")
    served = ServedModel.of_release(opened, config)
    return OwnModel(load_engine(opened, config), served)


def _converse(take: Callable[[str], bool]) -> None:
    """Chat until the user leaves; errors are shown, and the chat continues."""
    beside("/help lists the commands.")
    for line in _lines():
        try:
            if not take(line):
                return
        except DeviceError as error:
            click.echo(f"error: {error}", err=True)
            if error.hint:
                click.echo(f"hint: {error.hint}", err=True)


def _lines() -> Iterator[str]:
    """Yield the user's lines until Ctrl-D."""
    read = _editor() or (lambda: input("> "))
    while True:
        try:
            yield read()
        except KeyboardInterrupt:
            beside("Press Ctrl-D or type /exit to leave.")
        except EOFError:
            return


def _editor() -> Callable[[], str] | None:
    """Return a function that has the user edit a line; None where the editor cannot be loaded.

    It needs expat, whose copy in a kit needs a newer C library than all else does.
    """
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    except ImportError as error:
        beside(f"Lines are read without an editor: {error}")
        return None

    from device_runtime.chat.conversation import COMMANDS

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    # The history stays in memory, because questions are private.
    session: PromptSession[str] = PromptSession(
        completer=WordCompleter(COMMANDS, sentence=True),
        complete_while_typing=False,
        key_bindings=keys,
    )
    return lambda: session.prompt("> ", prompt_continuation="  ")
