"""Attention in both directions within a picture, against the formula."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from packager.errors import QuantizeError
from packager.vision.both_ways import see_both_ways

Floats = npt.NDArray[np.float32]

HEADS, SIZE = 2, 8
IMAGE = 5
WINDOW = 4
PICTURES = [1, IMAGE, IMAGE, IMAGE, 2, 3, IMAGE, IMAGE, 4]
"""A picture at tokens 1 to 3, another at 6 and 7."""
TABLE: Floats = np.random.default_rng(0).normal(size=(8, HEADS * SIZE)).astype(np.float32)


def decoder(window: int, *, packed: bool = False) -> onnx.ModelProto:
    """Make one layer of attention over `inputs_embeds`, which are queries, keys and values."""
    shape: list[str | int | None] = ["batch_size", "sequence_length", HEADS * SIZE]
    past: list[str | int | None] = ["batch_size", HEADS, "past", SIZE]
    floats = [("inputs_embeds", shape), *((f"past.{name}", past) for name in ("key", "value"))]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in floats]
    mask = helper.make_tensor_value_info(
        "attention_mask", TensorProto.INT64, ["batch_size", "total"]
    )
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in ("states", "present.key", "present.value")
    ]
    constants = {"one": np.array([1]), "place": np.array(1)}
    nodes = [
        helper.make_node("ReduceSum", ["attention_mask", "one"], ["sum"], keepdims=0),
        helper.make_node("Sub", ["sum", "one"], ["last"]),
        helper.make_node("Cast", ["last"], ["lengths"], to=TensorProto.INT32),
        helper.make_node("Shape", ["attention_mask"], ["shape"]),
        helper.make_node("Gather", ["shape", "place"], ["long_total"]),
        helper.make_node("Cast", ["long_total"], ["total"], to=TensorProto.INT32),
        helper.make_node(
            "GroupQueryAttention",
            [
                "inputs_embeds",
                *(["", ""] if packed else ["inputs_embeds"] * 2),
                *("past.key", "past.value", "lengths", "total"),
            ],
            ["states", "present.key", "present.value"],
            name="attention",
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=HEADS,
            local_window_size=window,
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "decoder",
        [*inputs, mask],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(model: onnx.ModelProto, ids: list[int], **past: Floats) -> list[Any]:
    """Run tokens through a decoder, after others or as the first."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    before = past["key"].shape[2] if past else 0
    nothing = np.zeros((1, HEADS, 0, SIZE), np.float32)
    given = {
        "input_ids": np.array([ids]),
        "inputs_embeds": TABLE[ids][None],
        "attention_mask": np.ones((1, before + len(ids)), np.int64),
        "past.key": past.get("key", nothing),
        "past.value": past.get("value", nothing),
    }
    names = {value.name for value in session.get_inputs()}
    return list(session.run(None, {name: given[name] for name in given if name in names}))


def attended(ids: list[int], seen: npt.NDArray[np.bool_]) -> Floats:
    """Compute attention by its formula, for a matrix of what each token sees."""
    heads = TABLE[ids].reshape(len(ids), HEADS, SIZE).transpose(1, 0, 2)
    scores = np.where(seen, heads @ heads.transpose(0, 2, 1) / SIZE**0.5, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    states = weights / weights.sum(-1, keepdims=True) @ heads
    return np.asarray(states.transpose(1, 0, 2).reshape(len(ids), HEADS * SIZE), np.float32)


@pytest.mark.parametrize("window", [-1, WINDOW])
def test_tokens_of_a_picture_see_each_other(window: int) -> None:
    model = decoder(window)
    _, *cache = run(model, PICTURES)
    see_both_ways(model, IMAGE, TensorProto.FLOAT)
    states, *same_cache = run(model, PICTURES)
    places = np.arange(len(PICTURES))
    seen = places <= places[:, None]
    for picture in (slice(1, 4), slice(6, 8)):
        seen[picture, picture] = True
    if window > 0:
        seen &= places > places[:, None] - window
    assert np.allclose(states[0], attended(PICTURES, seen), atol=1e-6)
    assert not np.allclose(states[0], attended(PICTURES, np.tril(seen)), atol=1e-2)
    assert all(np.array_equal(*pair) for pair in zip(cache, same_cache, strict=True))


@pytest.mark.parametrize("window", [-1, WINDOW])
def test_text_and_what_follows_a_prompt_see_what_is_before(window: int) -> None:
    model = decoder(window)
    expected = run(model, [1, 2, 3, 4]), run(model, [7])
    _, key, value = run(model, PICTURES)
    later = run(model, [IMAGE, 6], key=key, value=value)
    see_both_ways(model, IMAGE, TensorProto.FLOAT)
    actual = run(model, [1, 2, 3, 4]), run(model, [7])
    for before, after in zip(expected, actual, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(before, after, strict=True))
    same = run(model, [IMAGE, 6], key=key, value=value)
    assert all(np.array_equal(*pair) for pair in zip(later, same, strict=True))


def test_attention_of_another_form_is_refused() -> None:
    with pytest.raises(QuantizeError, match="attention is of an unknown form"):
        see_both_ways(decoder(-1, packed=True), IMAGE, TensorProto.FLOAT)
