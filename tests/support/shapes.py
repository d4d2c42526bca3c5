"""Sizes of real models, from the catalog."""

from packager.models import shape
from packager.models.catalog import CATALOG
from packager.models.shape import Shape

SMALL, MIDDLE, LARGE = "smollm2-135m", "qwen2.5-0.5b", "phi3.5-mini"


def of(name: str) -> Shape:
    """The sizes of a model of the catalog, stored in bfloat16."""
    model = CATALOG[name]
    config = {**model.shape, "dtype": "bfloat16"}
    return shape.shape_of(config, parameters=model.parameters, stored=2.0)
