"""The command line `edgepack-runtime`: its commands, and the exit codes of their errors."""

import importlib
import os
import sys

import click

import device_runtime
from device_runtime import logs
from device_runtime.errors import DeviceError, ResourceError

PROGRAM = "edgepack-runtime"
INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells: 128 + SIGINT."""

_MODULES = {
    "serve": ("serve", "worker"),
    "gpus": ("gpus",),
    "generate": ("generate",),
    "chat": ("chat",),
    "transcribe": ("transcribe",),
    "bench": ("bench",),
    "tune": ("tune",),
    "status": ("status",),
    "release": ("verify", "doctor"),
    "config": ("config",),
    "api_key": ("api-key",),
    "updates": ("install", "releases", "rollback", "gc", "purge", "guard", "updater"),
    "receive": ("receive",),
}
"""Modules in `device_runtime.commands`, and the commands in each."""
_COMMANDS = {command: module for module, commands in _MODULES.items() for command in commands}


class Commands(click.Group):
    """A group whose commands are imported when they are run: the others cost time at the start."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names of all commands."""
        return sorted({*super().list_commands(ctx), *_COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; return None for an unknown name."""
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"device_runtime.commands.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
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
