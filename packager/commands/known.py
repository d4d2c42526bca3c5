"""Commands that list profiles, models and recipes, and search for models."""

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
@click.option(
    "--profile",
    "profile_name",
    shell_complete=profile_names,
    help="Estimate size and memory on this device, and tell which models do not fit.",
)
@as_json
def models(profile_name: str | None, as_json: bool) -> None:
    """List the models that have a name, and the other forms that --model accepts."""
    from packager import profile
    from packager.report import models as report

    device = profile.load(profile_name) if profile_name is not None else None
    if as_json:
        console.result_json(report.catalog_json(device))
    else:
        report.catalog_text(device)


@click.command()
@click.argument("text", nargs=-1, required=True)
@click.option(
    "--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="Most models shown."
)
@as_json
def search(text: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Search the hub for models that --model accepts, most downloaded first."""
    from packager.models.search import search as search_hub
    from packager.report import models as report

    models = search_hub(" ".join(text), limit)
    if as_json:
        console.result_json(report.search_json(models))
    else:
        report.search_text(models)


@click.command()
@as_json
def recipes(as_json: bool) -> None:
    """List the quantization recipes for --recipe."""
    from packager.report import tables

    if as_json:
        console.result_json(tables.recipes_json())
    else:
        tables.recipes_text()
