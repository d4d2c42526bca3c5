"""Forecast of a catalog model on a device: its size and memory, before anything is fetched."""

from dataclasses import dataclass, replace

from packager import plan
from packager.genai.folder import image_bytes, serving_bytes
from packager.models import shape
from packager.models.catalog import CatalogModel
from packager.profile import DeviceProfile
from packager.quantize.gate import exceeded_sizes, recipes
from packager.recipes.recipes import KEEP, OWN_GRID, RECIPES, Recipe
from packager.weights import gguf_codes

USUAL_TYPE = "Q4_K"
"""Tensor type that is assumed for a GGUF file."""

VISION_BITS = 8.5
"""Bits of a weight of a vision part with `int8`, the first that a build tries, scales included."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A model on a device, estimated from its shape.

    Attributes:
        recipe: recipe that the estimate is for.
        context_length: maximum of prompt and answer together, tokens.
        model_bytes: size of graph and weights.
        memory_bytes: resident memory while serving, bytes.
        exceeded: limits of the profile that it exceeds, one phrase each; empty if it fits.
    """

    recipe: str
    context_length: int
    model_bytes: int
    memory_bytes: int
    exceeded: tuple[str, ...]


def forecast(model: CatalogModel, profile: DeviceProfile) -> Forecast:
    """Estimate the size and the memory of a catalog model on a device."""
    recipe = expected_recipe(profile)
    of = shape.shape_of(model.shape, parameters=model.parameters, stored=2.0)
    # The codes of a file are as many bits as its types have; this is the usual one.
    codes = int(model.parameters * gguf_codes.stored_bits(USUAL_TYPE) / 8)
    of = replace(of.with_context(profile.context_length), codes=codes)
    tokens = min(model.context, profile.context_length)
    size = plan.model_bytes(of, recipe, profile.block_size)
    # Only on the CPU is the cache in fp32.
    element = 4 if profile.execution_provider == "cpu" else 2
    cache_bytes = 2 * of.layers * of.keys * element
    if model.vision is not None:
        size += int(model.vision.parameters * VISION_BITS / 8)
    memory = serving_bytes(size, cache_bytes=cache_bytes, tokens=tokens, vocabulary=of.vocabulary)
    if model.vision is not None:
        memory += image_bytes(
            patches=model.vision.patches,
            hidden=model.vision.hidden,
            intermediate=model.vision.intermediate,
            tokens=model.vision.image_tokens,
            width=8 * of.hidden + 4 * of.intermediate,
        )
    return Forecast(
        recipe=recipe.name,
        context_length=tokens,
        model_bytes=size,
        memory_bytes=memory,
        exceeded=exceeded_sizes(profile, size, memory),
    )


def expected_recipe(profile: DeviceProfile) -> Recipe:
    """Return the recipe that a build for a device most likely ends with.

    Only measuring tells which recipe passes the gate. The last one of 4 bits keeps most, and models
    of all sizes that were measured passed with it or an earlier, smaller one.
    """
    if profile.recipe in (KEEP, OWN_GRID):
        return RECIPES[profile.recipe]
    candidates = recipes(profile.recipe, profile)
    narrow = [recipe for recipe in candidates if recipe.algorithm and recipe.body_bits == 4]
    return narrow[-1] if narrow else candidates[0]
