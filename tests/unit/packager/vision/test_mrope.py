"""Rotation by three positions a token, against the formula."""

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from packager.errors import QuantizeError
from packager.vision.mrope import POSITIONS, take_three_positions

Floats = npt.NDArray[np.float32]

HEADS, SHARED, SIZE = 4, 2, 16
"""Heads of queries, those of keys and values, and numbers of a head."""
SECTIONS = (2, 3, 3)
TOKENS = 6
WIDTHS = (HEADS * SIZE, SHARED * SIZE, SHARED * SIZE)
STATES: Floats = np.random.default_rng(0).normal(size=(1, TOKENS, sum(WIDTHS))).astype(np.float32)
ANGLES: Floats = (np.arange(32)[:, None] * 100.0 ** (-np.arange(SIZE // 2) / (SIZE // 2))).astype(
    np.float32
)


def decoder(*, rotary: bool, packed: bool) -> onnx.ModelProto:
    """Make one layer of attention over `inputs_embeds`: queries, keys and values one after the
    other."""
    past: list[str | int | None] = ["batch_size", SHARED, "past", SIZE]
    shape: list[str | int | None] = ["batch_size", "sequence_length", sum(WIDTHS)]
    floats = {"inputs_embeds": shape, "past.key": past, "past.value": past}
    names = ["queries", "keys", "values"]
    constants = {"lengths": np.array([TOKENS - 1], np.int32), "total": np.array(TOKENS, np.int32)}
    constants |= {"widths": np.array(WIDTHS), "cos": np.cos(ANGLES), "sin": np.sin(ANGLES)}
    attention = helper.make_node(
        "GroupQueryAttention",
        [
            *(["inputs_embeds", "", ""] if packed else names),
            *("past.key", "past.value", "lengths", "total"),
            *(["cos", "sin"] if rotary else []),
        ],
        ["states", "present.key", "present.value"],
        name="attention",
        domain="com.microsoft",
        num_heads=HEADS,
        kv_num_heads=SHARED,
        do_rotary=int(rotary),
    )
    split = helper.make_node("Split", ["inputs_embeds", "widths"], names, axis=-1)
    graph = helper.make_graph(
        [split, attention],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in floats.items()],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in ("states", "present.key", "present.value")
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def run(model: onnx.ModelProto, states: Floats, **more: npt.NDArray[np.int64]) -> list[Floats]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    empty = np.zeros((1, SHARED, 0, SIZE), np.float32)
    given = {"inputs_embeds": states, "past.key": empty, "past.value": empty, **more}
    return [np.asarray(value) for value in session.run(None, given)]


def rotated(states: Floats, positions: npt.NDArray[np.int64]) -> Floats:
    """Rotate queries and keys: the numbers n and n + SIZE / 2 of a head are a pair."""
    heads = states.reshape(TOKENS, -1, SIZE).copy()
    kind = np.repeat(np.arange(3), SECTIONS)
    angles = ANGLES[positions[kind, 0].T, np.arange(SIZE // 2)][:, None]
    first, second = np.split(heads[:, : HEADS + SHARED], 2, axis=-1)
    turned = (
        first * np.cos(angles) - second * np.sin(angles),
        second * np.cos(angles) + first * np.sin(angles),
    )
    heads[:, : HEADS + SHARED] = np.concatenate(turned, -1)
    return heads.reshape(states.shape)


@pytest.mark.parametrize("packed", [True, False])
def test_parts_of_a_head_are_rotated_by_different_positions(packed: bool) -> None:
    positions = np.array([[[0, 1, 1, 1, 1, 4]], [[0, 1, 1, 2, 2, 4]], [[0, 1, 2, 1, 2, 4]]])
    model = decoder(rotary=True, packed=packed)
    take_three_positions(model, SECTIONS)
    actual = run(model, STATES, **{POSITIONS: positions})
    expected = run(decoder(rotary=False, packed=packed), rotated(STATES, positions))
    for value, other in zip(actual, expected, strict=True):
        assert np.abs(value - other).max() < 1e-5


@pytest.mark.parametrize("packed", [True, False])
def test_text_gives_the_same_as_before(packed: bool) -> None:
    before = run(decoder(rotary=True, packed=packed), STATES)
    model = decoder(rotary=True, packed=packed)
    take_three_positions(model, SECTIONS)
    after = run(model, STATES, **{POSITIONS: np.tile(np.arange(TOKENS), (3, 1, 1))})
    for value, other in zip(after, before, strict=True):
        assert np.abs(value - other).max() < 1e-6


@pytest.mark.parametrize(("rotary", "sections"), [(False, SECTIONS), (True, (2, 2, 2))])
def test_other_rotations_are_refused(rotary: bool, sections: tuple[int, ...]) -> None:
    with pytest.raises(QuantizeError, match="unknown form"):
        take_three_positions(decoder(rotary=rotary, packed=True), sections)
