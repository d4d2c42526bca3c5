"""Recipes: what they may ask for, and which layers are usually sensitive."""

from typing import Literal

import pytest

from packager.errors import QuantizeError
from packager.recipes.recipes import RECIPES, Algorithm, Recipe, usually_sensitive


@pytest.mark.parametrize(
    ("algorithm", "sensitive"),
    [
        ("kquant", 0.2),
        ("nearest", 0.2),
        ("gptq", "usual"),
        ("gptq", 1.5),
        ("gptq", -0.1),
        (None, "usual"),
        (None, 0.2),
    ],
)
def test_sensitive_layers_that_the_algorithm_cannot_choose_are_refused(
    algorithm: Algorithm | None, sensitive: float | Literal["usual"]
) -> None:
    with pytest.raises(QuantizeError, match="recipe mine: sensitive must not be") as caught:
        Recipe(
            name="mine",
            description="-",
            precision="int4",
            algorithm=algorithm,
            sensitive=sensitive,
        )
    assert caught.value.hint


def test_the_model_builder_is_not_given_a_recipe_with_sensitive_layers() -> None:
    mixed = Recipe(
        name="mine",
        description="-",
        precision="int4",
        algorithm="nearest",
        symmetric=True,
        sensitive="usual",
    )
    assert not mixed.plain
    assert RECIPES["int4-rtn"].plain


def test_usually_sensitive_are_the_ends_of_the_decoder_and_every_third_layer_between() -> None:
    layers = {int(name.partition(".")[0]) for name in usually_sensitive(32)}
    assert layers == {*range(4), 6, 9, 12, 15, 18, 21, 24, 27, *range(28, 32)}
