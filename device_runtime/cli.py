"""The command line `edgepack-runtime`: its commands, and the exit codes of their errors."""

import os
import sys

import click

import device_runtime
from device_runtime import logs
from device_runtime.commands.api_key import api_key
from device_runtime.commands.bench import bench
from device_runtime.commands.chat import chat
from device_runtime.commands.config import config
from device_runtime.commands.generate import generate
from device_runtime.commands.gpus import gpus
from device_runtime.commands.receive import receive
from device_runtime.commands.release import doctor, verify
from device_runtime.commands.serve import serve, worker
from device_runtime.commands.status import status
from device_runtime.commands.transcribe import transcribe
from device_runtime.commands.updates import (
    gc,
    guard,
    install,
    purge,
    releases,
    rollback,
    updater,
)
from device_runtime.errors import DeviceError, ResourceError

PROGRAM = "edgepack-runtime"
INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells: 128 + SIGINT."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(device_runtime.__version__, prog_name=PROGRAM)
def cli() -> None:
    """Serve a language model from an installed edgepack release.

    \b
    Examples:
      edgepack-runtime serve
      edgepack-runtime generate "Name the capital of France."
      edgepack-runtime chat
      edgepack-runtime status

    The configuration is /etc/edgepack/runtime.toml; edgepack-runtime config show prints it.
    """


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: eval "$(edgepack-runtime completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, PROGRAM, "_EDGEPACK_RUNTIME_COMPLETE").source())


for command in (
    *(
        serve,
        worker,
        gpus,
        generate,
        chat,
        transcribe,
        bench,
        status,
        verify,
        doctor,
        config,
        api_key,
    ),
    *(install, receive, releases, rollback, gc, purge, guard, updater),
):
    cli.add_command(command)


def main() -> int:
    """Run the command line, and return the exit code."""
    logs.set_up("text")
    try:
        return cli.main(standalone_mode=False, prog_name=PROGRAM) or 0
    except DeviceError as error:
        click.echo(f"error: {error}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        return error.exit_code
    except MemoryError:
        click.echo("error: not enough memory to run", err=True)
        click.echo("hint: Stop other programs, or raise the limits of this one.", err=True)
        return ResourceError.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has closed it (`config show | head`): nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
