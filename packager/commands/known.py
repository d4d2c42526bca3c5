"""Commands that list profiles, models and recipes."""

import click

from packager import console
from packager.commands.options import as_json, profile_names


@click.group(invoke_without_command=True)
@click.pass_context
@as_json
def profiles(context: click.Context, as_json: bool) -> None:
    """List the device profiles; `profiles show NAME` shows one."""
    if context.invoked_subcommand is not None:
        return
    from packager import profile
    from packager.report import tables

    loaded = [profile.load(name) for name in profile.names()]
    if as_json:
        console.result_json([values.to_dict() for values in loaded])
    else:
        tables.profiles_text(loaded)


@profiles.command("show")
@click.argument("name", shell_complete=profile_names)
@as_json
def profiles_show(name: str, as_json: bool) -> None:
    """Show a profile with all its values, including inherited ones."""
    from packager import profile
    from packager.report import tables

    loaded = profile.load(name)
    if as_json:
        console.result_json(loaded.to_dict())
    else:
        tables.profile_text(loaded)


@click.command()
@as_json
def models(as_json: bool) -> None:
    """List the models of the catalog, and the other forms that --model accepts."""
    from packager.report import tables

    if as_json:
        console.result_json(tables.models_json())
    else:
        tables.models_text()


@click.command()
@as_json
def recipes(as_json: bool) -> None:
    """List the quantization recipes for --recipe."""
    from packager.report import tables

    if as_json:
        console.result_json(tables.recipes_json())
    else:
        tables.recipes_text()
