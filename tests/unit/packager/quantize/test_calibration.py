"""The choice of the linear layers that get 8 bits."""

from packager.quantize.calibration import most_sensitive
from packager.weights.stored import LinearError

SIZES = {
    "self_attn.q_proj": 400,
    "self_attn.k_proj": 100,
    "self_attn.v_proj": 100,
    "mlp.down_proj": 400,
}


def _errors(layers: int) -> list[LinearError]:
    return [
        LinearError(layer=layer, name=name, relative=0, nearest=0, absolute=0, parameters=size)
        for layer in range(layers)
        for name, size in SIZES.items()
    ]


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
