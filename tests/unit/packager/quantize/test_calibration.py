"""The choice of the linear layers that get 8 bits."""

import pytest

from packager.quantize.calibration import most_sensitive
from packager.weights.stored import LinearError

SIZES = {
    "self_attn.q_proj": 400,
    "self_attn.k_proj": 100,
    "self_attn.v_proj": 100,
    "mlp.down_proj": 400,
}


def _error(layer: int, name: str, size: int) -> LinearError:
    return LinearError(layer=layer, name=name, relative=0, nearest=0, absolute=0, parameters=size)


def _errors(layers: int) -> list[LinearError]:
    return [_error(layer, name, size) for layer in range(layers) for name, size in SIZES.items()]


def test_values_are_chosen_without_the_queries_that_share_their_node() -> None:
    costs = {(0, name): 0.01 for name in SIZES} | {(0, "self_attn.v_proj"): 0.05}
    assert most_sensitive(_errors(1), costs, 0.1) == ("0.self_attn.v_proj",)


def test_the_budget_is_kept_and_used() -> None:
    errors = _errors(8)
    costs = {(error.layer, error.name): float(1 + error.layer) for error in errors}
    sizes = {f"{error.layer}.{error.name}": error.parameters for error in errors}
    for share in (0.05, 0.1, 0.33, 0.5, 0.99):
        taken = sum(sizes[name] for name in most_sensitive(errors, costs, share))
        assert share * sum(sizes.values()) - max(SIZES.values()) < taken
        assert taken <= share * sum(sizes.values())


def test_the_cost_of_a_weight_counts_and_not_that_of_its_layer() -> None:
    costs = {(0, name): 0.01 for name in SIZES} | {(0, "mlp.down_proj"): 0.03}
    chosen = most_sensitive(_errors(1), costs, 0.2)
    assert chosen == ("0.self_attn.k_proj", "0.self_attn.v_proj")


@pytest.mark.parametrize(
    ("head_cost", "size", "expected"),
    [
        # It costs less per weight than the down projection, but does not fit after it.
        (0.05, 450, ("0.self_attn.v_proj", "lm_head")),
        (0.02, 450, ("0.mlp.down_proj", "0.self_attn.k_proj", "0.self_attn.v_proj")),
        (0.05, 5000, ("0.mlp.down_proj", "0.self_attn.q_proj", "0.self_attn.v_proj")),
    ],
)
def test_the_head_is_chosen_if_that_removes_more(
    head_cost: float, size: int, expected: tuple[str, ...]
) -> None:
    costs = {(0, name): 0.001 for name in SIZES}
    costs |= {(0, "mlp.down_proj"): 0.04, (0, "self_attn.v_proj"): 0.05, (-1, "lm_head"): head_cost}
    costs[0, "self_attn.q_proj"] = 0.005
    errors = [*_errors(1), _error(-1, "lm_head", size)]
    share = 600 / 1450 if size == 450 else 999 / 6000
    assert most_sensitive(errors, costs, share) == expected
