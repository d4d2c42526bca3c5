"""The command line of the host: its commands, and the handling of their errors.

Heavy imports stay inside the commands, so that help and completion are instant.
"""

import os
import sys

import click

import device_runtime
from device_runtime.errors import DeviceError
from packager import console
from packager.commands import (
    build,
    bundle,
    diff,
    doctor,
    evaluate,
    export,
    flash,
    fleet,
    keys,
    kit,
    known,
    registry,
)
from packager.errors import PackagerError

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT)
@click.version_option(device_runtime.__version__, prog_name="edgepack")
def cli() -> None:
    """Put a small language model on an edge device: one command here, one file there.

    \b
    Examples:
      edgepack demo                                 build for this machine, run it, query it
      edgepack build --profile raspberry-pi         a bundle for a Raspberry Pi
      edgepack flash BUNDLE.epk /mnt/sdcard         install it on a mounted SD card
      edgepack run BUNDLE.epk --generate "Hello"    try a bundle here
    """


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: eval "$(edgepack completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    console.result(kind(cli, {}, "edgepack", "_EDGEPACK_COMPLETE").source())


for command in (
    *(build.build, build.demo),
    *(bundle.run, bundle.chat, bundle.bench, flash.flash, bundle.inspect, bundle.verify),
    *(diff.diff, export.export, keys.keys, keys.sign),
    *(registry.push, registry.pull),
    *(known.profiles, known.models, known.search, known.recipes),
    *(evaluate.evaluate, kit.kit, doctor.doctor, fleet.fleet),
):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> int:
    """Entry point: the only place that turns errors into messages and exit codes."""
    try:
        return cli.main(arguments, prog_name="edgepack", standalone_mode=False) or 0
    except (PackagerError, DeviceError) as error:
        console.error(str(error), error.hint)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        console.error("interrupted; no partial output was left")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of stdout is gone (`edgepack inspect | head`), so there is nobody to report to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        console.error(f"{error.filename or 'disk error'}: {error.strerror or error}", DISK_HINT)
        sys.exit(9)


DISK_HINT = "Free some space, or set EDGEPACK_CACHE to a folder on a larger disk."
