"""Options and arguments that several commands share, and their shell completion."""

from pathlib import Path

import click

from packager.models.catalog import DEFAULT_MODEL, model_names

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
bundle_argument = click.argument(
    "bundle", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)


def profile_names(_context: click.Context, _option: click.Parameter, typed: str) -> list[str]:
    """Completion: shipped profiles."""
    from packager.profile import names

    return [name for name in names() if name.startswith(typed)]


def _model_names(_context: click.Context, _option: click.Parameter, typed: str) -> list[str]:
    return [name for name in model_names() if name.startswith(typed)]


def _kit_names(_context: click.Context, _option: click.Parameter, typed: str) -> list[str]:
    from packager.kit import PLATFORMS

    return [name for name in PLATFORMS if name.startswith(typed)]


def recipe_names(_context: click.Context, _option: click.Parameter, typed: str) -> list[str]:
    """Completion: recipes."""
    from packager.recipes.recipes import AUTO, RECIPES

    return [name for name in (AUTO, *RECIPES) if name.startswith(typed)]


model_option = click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    shell_complete=_model_names,
    help="Catalog name, hub id (ORG/NAME), Hugging Face folder, GGUF file or ONNX GenAI folder.",
)
kit_argument = click.argument("name", shell_complete=_kit_names)
profile_option = click.option(
    "--profile",
    "profile_name",
    required=True,
    shell_complete=profile_names,
    help="Device profile: a name (edgepack profiles) or the path of your own .toml file.",
)
trust_option = click.option(
    "--trust-remote-code", is_flag=True, help="Run Python code that comes with the model. Beware."
)
eval_text_option = click.option(
    "--eval-text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure on this text (UTF-8) instead of text that the model itself writes.",
)
calibration_text_option = click.option(
    "--calibration-text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Calibrate with this text (UTF-8) instead of text that the model itself writes.",
)
