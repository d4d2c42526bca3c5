"""The command line of the host: options become one frozen request, and one call is made.

Heavy imports stay inside the commands, so that help and completion are instant.
"""

import os
import sys
from pathlib import Path
from typing import Any

import click

import device_runtime
from device_runtime.errors import DeviceError
from packager import console
from packager.errors import PackagerError
from packager.models import DEFAULT_MODEL, model_names

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
bundle_argument = click.argument(
    "bundle", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)


def _profile_names(_context: click.Context, _option: click.Parameter, typed: str) -> list[str]:
    from packager.profile import names

    return [name for name in names() if name.startswith(typed)]


def _model_names(_context: click.Context, _option: click.Parameter, typed: str) -> list[str]:
    return [name for name in model_names() if name.startswith(typed)]


def _kit_names(_context: click.Context, _option: click.Parameter, typed: str) -> list[str]:
    from packager.kit import PLATFORMS

    return [name for name in PLATFORMS if name.startswith(typed)]


model_option = click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    shell_complete=_model_names,
    help="Catalog name, hub id (ORG/NAME), Hugging Face folder, GGUF file or ONNX GenAI folder.",
)
kit_argument = click.argument("name", shell_complete=_kit_names)


@click.group(context_settings=CONTEXT)
@click.version_option(device_runtime.__version__, prog_name="edgepack")
def cli() -> None:
    """Put a small language model on an edge device: one command here, one file there.

    \b
    Examples:
      edgepack demo                                 build for this machine, run it, ask it
      edgepack build --profile raspberry-pi         a bundle for a Raspberry Pi
      edgepack flash BUNDLE.epk /mnt/sdcard         install it on a mounted SD card
      edgepack run BUNDLE.epk --generate "Hello"    try a bundle here
    """


def _version(_context: click.Context, _option: click.Parameter, value: str) -> str:
    from device_runtime.manifest import is_version

    if not is_version(value):
        raise click.BadParameter("a version starts with a digit, for example 1.2.0")
    return value


@cli.command()
@click.option(
    "--profile",
    "profile_name",
    required=True,
    shell_complete=_profile_names,
    help="Device profile: a name (edgepack profiles) or the path of your own .toml file.",
)
@model_option
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The bundle to write."
)
@click.option("--model-only", is_flag=True, help="Leave the runtime out.")
@click.option(
    "--bundle-version",
    default="1.0.0",
    callback=_version,
    show_default=True,
    help="Version of the bundle, for people.",
)
@click.option(
    "--sequence",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Version of the bundle, for machines: let it grow with each release.",
)
@click.option(
    "--trust-remote-code", is_flag=True, help="Run Python code that comes with the model. Beware."
)
@as_json
def build(
    profile_name: str,
    model: str,
    output: Path | None,
    model_only: bool,
    bundle_version: str,
    sequence: int,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """Quantize a model for a device and join it with its runtime into one bundle.

    \b
    Examples:
      edgepack build --profile raspberry-pi
      edgepack build --profile jetson-orin --model-only -o jetson.epk
      edgepack build --profile ./mine.toml --model ./my-finetune
    """
    from packager import build as recipe
    from packager import profile, report

    result = recipe.build(
        recipe.BuildRequest(
            profile=profile.load(profile_name),
            model=model,
            output=output,
            model_only=model_only,
            version=bundle_version,
            sequence=sequence,
            trust_remote_code=trust_remote_code,
        )
    )
    if as_json:
        console.result_json(report.build_json(result))
    else:
        report.build_text(result)


@cli.command()
@model_option
@click.option("--mqtt", metavar="URL", help="Use this broker instead of starting one.")
@as_json
def demo(model: str, mqtt: str | None, as_json: bool) -> None:
    """Build for this machine, run it, ask it something, show its MQTT status, stop everything."""
    from packager import demo as show

    result = show.demo(model, mqtt, (lambda _: None) if as_json else console.result_piece)
    if as_json:
        console.result_json(result)


@cli.command()
@bundle_argument
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the HTTP server on loopback.")
@click.option("--mqtt", metavar="URL", help="Report to this broker: mqtt://HOST:PORT")
@click.option("--generate", metavar="TEXT", help="Print one answer and end, without a server.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Length of that answer, tokens.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer, or the URL, as JSON.")
def run(
    bundle: Path,
    port: int | None,
    mqtt: str | None,
    generate: str | None,
    max_tokens: int | None,
    as_json: bool,
) -> None:
    """Run a bundle on this machine, with the runtime that is inside it.

    \b
    Examples:
      edgepack run BUNDLE.epk --port 8080
      edgepack run BUNDLE.epk --generate "What is the capital of France?" --max-tokens 16
    """
    from packager import launch

    if generate is None and max_tokens is not None:
        raise click.UsageError("--max-tokens goes with --generate")
    if generate is not None and (port is not None or mqtt is not None):
        raise click.UsageError("--generate starts no server: leave --port and --mqtt out")
    release = launch.unpacked(bundle)
    arguments = ["serve"] if generate is None else ["generate"]
    if as_json:
        arguments.append("--json")
    if port is not None:
        arguments += ["--listen", f"127.0.0.1:{port}"]
    if mqtt is not None:
        arguments += ["--mqtt", mqtt]
    if max_tokens is not None:
        arguments += ["--max-tokens", str(max_tokens)]
    if generate is not None:
        arguments += ["--", generate]
    launch.replace_process(release, arguments)


@cli.command()
@bundle_argument
@click.argument("target")
@as_json
def flash(bundle: Path, target: str, as_json: bool) -> None:
    """Install a bundle on TARGET: a mounted root file system, for instance an SD card's.

    \b
    Example:
      edgepack flash BUNDLE.epk /mnt/sdcard
    """
    from packager.flash import flash as put

    release = put(bundle, target)
    if as_json:
        console.result_json({"target": target, "release": release.digest})
    else:
        console.result(f"{target} has release {release.digest[:12]} ({release.manifest.id})")


@cli.command()
@bundle_argument
@as_json
def inspect(bundle: Path, as_json: bool) -> None:
    """Show what is in a bundle, without reading its data."""
    import msgspec

    from device_runtime.bundle import open_bundle
    from packager import report

    with open_bundle(bundle) as opened:
        if as_json:
            manifest = msgspec.to_builtins(opened.manifest)
            console.result_json({"digest": opened.digest, "manifest": manifest})
        else:
            report.inspect_text(bundle, opened)


@cli.command()
@bundle_argument
@as_json
def verify(bundle: Path, as_json: bool) -> None:
    """Check every byte of a bundle, with the device's own verifier."""
    from device_runtime.bundle import open_bundle

    with open_bundle(bundle) as opened:
        total = sum(blob.size for blob in opened.manifest.blobs.values())
        with console.progress("Verifying", total) as advance:
            opened.verify(advance)
    if as_json:
        console.result_json({"ok": True, "digest": opened.digest, "signed": bool(opened.signature)})
    else:
        console.result(f"{bundle} is whole: {opened.digest}")


@cli.group(invoke_without_command=True)
@click.pass_context
@as_json
def profiles(context: click.Context, as_json: bool) -> None:
    """List the device profiles; `profiles show NAME` shows one."""
    if context.invoked_subcommand is not None:
        return
    from packager import profile, report

    loaded = [profile.load(name) for name in profile.names()]
    if as_json:
        console.result_json([one.to_dict() for one in loaded])
    else:
        report.profiles_text(loaded)


@profiles.command("show")
@click.argument("name", shell_complete=_profile_names)
@as_json
def profiles_show(name: str, as_json: bool) -> None:
    """Show one profile with all its values, also those it inherits."""
    from packager import profile, report

    loaded = profile.load(name)
    if as_json:
        console.result_json(loaded.to_dict())
    else:
        report.profile_text(loaded)


@cli.command()
@as_json
def models(as_json: bool) -> None:
    """List the models that --model knows by name, and what else it takes."""
    from packager import report

    if as_json:
        console.result_json(report.models_json())
    else:
        report.models_text()


@cli.group()
def kit() -> None:
    """Make, list and move frozen runtimes."""


@kit.command("build")
@kit_argument
@as_json
def kit_build(name: str, as_json: bool) -> None:
    """Freeze the runtime for a platform (cached).

    \b
    Example:
      edgepack kit build linux-aarch64-cpu
    """
    from packager import kit as kits
    from packager import report

    with console.step(f"Getting the runtime {name}"):
        made = kits.ensure(name)
    if as_json:
        console.result_json(report.kit_json(made))
    else:
        report.kits_text([made])


@kit.command("list")
@as_json
def kit_list(as_json: bool) -> None:
    """List the kits in the cache."""
    from packager import kit as kits
    from packager import report

    found = kits.installed()
    if as_json:
        console.result_json([report.kit_json(one) for one in found])
    else:
        report.kits_text(found)


@kit.command("export")
@kit_argument
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def kit_export(name: str, file: Path) -> None:
    """Write a kit into FILE, to be imported on a machine that cannot make it."""
    from packager import kit as kits

    kits.export(name, file)
    console.result(f"wrote {file}")


@kit.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def kit_import(file: Path) -> None:
    """Take a kit from FILE into the cache. Only from people you trust: it is a program."""
    from packager import kit as kits

    made = kits.import_(file)
    console.result(f"imported {made.facts.name}")


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: eval "$(edgepack completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    console.result(kind(cli, {}, "edgepack", "_EDGEPACK_COMPLETE").source())


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: the only place that turns errors into messages and exit codes."""
    try:
        return cli.main(arguments, prog_name="edgepack", standalone_mode=False)
    except (PackagerError, DeviceError) as error:
        console.error(str(error), error.hint)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        console.error("interrupted; nothing half-made was left behind")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of stdout has gone (`edgepack inspect | head`); nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        console.error(f"{error.filename or 'the disk'}: {error.strerror or error}", DISK_HINT)
        sys.exit(9)


DISK_HINT = "Free some space, or set EDGEPACK_CACHE to a folder on a larger disk."
