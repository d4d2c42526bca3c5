"""What edgepack knows by name: `profiles`, `models`, `recipes`."""

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
        console.result_json([one.to_dict() for one in loaded])
    else:
        tables.profiles_text(loaded)


@profiles.command("show")
@click.argument("name", shell_complete=profile_names)
@as_json
def profiles_show(name: str, as_json: bool) -> None:
    """Show one profile with all its values, also those it inherits."""
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
    """List the models that --model knows by name, and what else it takes."""
    from packager.report import tables

    if as_json:
        console.result_json(tables.models_json())
    else:
        tables.models_text()


@click.command()
@as_json
def recipes(as_json: bool) -> None:
    """List the recipes that --recipe takes: how weights are quantized."""
    from packager.report import tables

    if as_json:
        console.result_json(tables.recipes_json())
    else:
        tables.recipes_text()
