"""Options that several commands share, and the resolution of their configuration."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from msgspec import inspect

from device_runtime.bundle.release import Release, open_release, own_release
from device_runtime.config import sources
from device_runtime.config.option import FOLDER, Option
from device_runtime.config.options import OPTIONS
from device_runtime.config.sources import Resolved
from device_runtime.errors import BundleError

Command = TypeVar("Command", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
release = click.option(
    "--release",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=sources.RELEASE_VARIABLE,
    show_envvar=True,
    help="Folder of the release.  [default: the one that contains this program]",
)
config_file = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar=sources.FILE_VARIABLE,
    show_envvar=True,
    help=f"Configuration file.  [default: {sources.FILE}, if it exists]",
)
api_key_file = click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar=sources.API_KEY_VARIABLE,
    show_envvar=True,
    help="File with the API key to use, if the service requires one.",
)
image = click.option(
    "--image",
    type=click.Path(path_type=Path),
    metavar="FILE",
    multiple=True,
    help="Image to send with the first message, for models that see; can be repeated.",
)

_REQUEST_OPTIONS = (
    click.option("--max-tokens", type=click.IntRange(min=1), help="Maximum tokens of an answer."),
    click.option(
        "--temperature",
        type=click.FloatRange(0, 2),
        help="0 picks the most likely token each time.  [default: 0; 1 with another sampling "
        "option]",
    ),
    click.option(
        "--top-p", type=click.FloatRange(0, 1), help="Cumulative probability to sample from."
    ),
    click.option(
        "--top-k",
        type=click.IntRange(min=0),
        help="Number of most likely tokens to sample from; 0 for all.",
    ),
    click.option("--seed", type=int, help="The same seed gives the same answer."),
)


def request_options(command: Command) -> Command:
    """Add to a command the fields of a request for length and sampling, with OpenAI's names.

    Options that are not set arrive as None: `without_none` drops them from the request.
    """
    for option in reversed(_REQUEST_OPTIONS):
        command = option(command)
    return command


def without_none(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that have a value."""
    return {name: value for name, value in options.items() if value is not None}


def configured(*names: str) -> Callable[[Command], Command]:
    """Add to a command the flags of these options of the configuration, or of all.

    The command gets them by name; None, or an empty tuple for a list, means not set.
    """

    def decorate(command: Command) -> Command:
        for name in reversed(names or tuple(OPTIONS)):
            command = _flag(OPTIONS[name])(command)
        return command

    return decorate


def _flag(option: Option) -> Callable[[Command], Command]:
    kind, metavar = _click_type(option.kind)
    if option.metavar == FOLDER:
        kind = click.Path(path_type=Path, file_okay=False)
    text = option.help
    if option.setting:
        text += "  [default: the release's]"
    elif isinstance(option.default, str | float) or type(option.default) is int:
        text += f"  [default: {str(option.default).removesuffix('.0')}]"
    return click.option(
        option.flag,
        option.name,
        type=kind,
        is_flag=kind is click.BOOL,
        multiple=isinstance(option.kind, inspect.VarTupleType),
        default=None,
        metavar=option.metavar or metavar,
        help=text,
        cls=_GroupedOption,
    )


def _click_type(kind: inspect.Type) -> tuple[Any, str | None]:
    """Return click's type for a value, and its placeholder in the help."""
    match kind:
        case inspect.BoolType():
            return click.BOOL, None
        case inspect.IntType(ge=low, le=high):
            return click.IntRange(low, high), "N"
        case inspect.FloatType(ge=low, le=high):
            return click.FloatRange(low, high), "SECONDS"
        case inspect.LiteralType(values=values):
            return click.Choice([str(value) for value in values]), None
        case inspect.CustomType():
            return click.Path(path_type=Path, dir_okay=False), "FILE"
        case _:
            return click.STRING, None


class _GroupedOption(click.Option):
    """An option of the configuration, which `Grouped` lists below its heading."""


class Grouped(click.Command):
    """A command whose help lists the options of the configuration below headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of the configuration by group, then the others."""
        groups: dict[str, list[tuple[str, str]]] = {}
        others = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if isinstance(parameter, _GroupedOption) and parameter.name is not None:
                groups.setdefault(OPTIONS[parameter.name].group, []).append(record)
            else:
                others.append(record)
        for heading, records in (groups | {"Other options": others}).items():
            with formatter.section(heading):
                formatter.write_dl(records)


def open_or_own(folder: Path | None) -> Release:
    """Open the release in a folder, else the one that contains this program.

    Raises:
        BundleError: there is no release, or it is damaged.
    """
    return open_release(folder) if folder is not None else own_release()


def resolve(release: Release | None, file: Path | None, **flags: Any) -> Resolved:
    """Resolve the configuration for a release.

    Raises:
        ServiceError: the configuration is invalid.
    """
    settings = release.manifest.settings if release is not None else None
    return sources.resolve(settings, file=file, flags=flags)


def resolve_anywhere(folder: Path | None, file: Path | None, **flags: Any) -> Resolved:
    """Resolve the configuration even if no release is installed (on another machine, say).

    Raises:
        BundleError: the folder is set but does not contain a release.
        ServiceError: the configuration is invalid.
    """
    try:
        release = open_or_own(folder)
    except BundleError:
        if folder is not None:
            raise
        release = None
    return resolve(release, file, **flags)
