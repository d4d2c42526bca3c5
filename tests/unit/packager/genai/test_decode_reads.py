"""Bytes that a decode step reads, from graphs written by hand and from one of the builder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from device_runtime.bundle.reads import Reads
from packager.genai import decode_reads

FLOATS = 100
SIZE = 4 * FLOATS


def _folder(path: Path, nodes: list[onnx.NodeProto], weights: list[str]) -> Path:
    """A model whose weights have 10 x 10 floats each."""
    array = np.zeros((10, 10), np.float32)
    tensors = [numpy_helper.from_array(array, name) for name in weights]
    graph = helper.make_graph(nodes, "g", [], [], tensors)
    path.mkdir()
    onnx.save(helper.make_model(graph), str(path / "model.onnx"))
    config = {"model": {"decoder": {"filename": "model.onnx"}}}
    (path / "genai_config.json").write_text(json.dumps(config))
    return path


def _node(kind: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), ["y"], **attributes)


def _of(folder: Path) -> Reads:
    return decode_reads.of(folder, cache_bytes=60, state_bytes=7)


def test_rows_of_an_embedding_do_not_count(tmp_path: Path) -> None:
    nodes = [_node("Gather", "embedding", "input_ids"), _node("MatMul", "x", "weight")]
    folder = _folder(tmp_path / "m", nodes, ["embedding", "weight", "unused"])
    assert _of(folder) == Reads(weights=SIZE + 7, cache=60)


def test_embedding_that_is_the_head_too_counts_once(tmp_path: Path) -> None:
    nodes = [
        _node("GatherBlockQuantized", "shared", "input_ids", "scales"),
        _node("MatMulNBits", "x", "shared", "scales"),
    ]
    assert _of(_folder(tmp_path / "m", nodes, ["shared", "scales"])).weights == 2 * SIZE + 7


def test_rows_of_rotary_tables_do_not_count(tmp_path: Path) -> None:
    inputs = ("q", "k", "v", "past.key", "past.value", "lengths", "length", "cos", "sin")
    nodes = [
        _node("GroupQueryAttention", *inputs),
        _node("RotaryEmbedding", "x", "p", "cos", "sin"),
    ]
    assert _of(_folder(tmp_path / "m", nodes, ["cos", "sin"])).weights == 7


def test_layers_with_a_window_are_told_apart(tmp_path: Path) -> None:
    nodes = [_node("GroupQueryAttention", "q", local_window_size=size) for size in (512, 512, -1)]
    reads = _of(_folder(tmp_path / "m", nodes, []))
    assert reads == Reads(weights=7, cache=20, windowed_cache=40, window=512)


def test_of_a_mixture_the_experts_of_one_token_count(tmp_path: Path) -> None:
    nodes = [_node("QMoE", "x", "router", "experts", "scales", k=2)]
    reads = _of(_folder(tmp_path / "m", nodes, ["experts", "scales"]))
    assert reads.weights == 2 * SIZE * 2 // 10 + 7


def test_weights_in_branches_count(tmp_path: Path) -> None:
    branch = helper.make_graph([_node("MatMul", "x", "weight")], "b", [], [])
    nodes = [helper.make_node("If", ["long"], ["y"], then_branch=branch, else_branch=branch)]
    assert _of(_folder(tmp_path / "m", nodes, ["weight"])).weights == SIZE + 7


def test_model_of_the_builder(tiny_onnx: Path) -> None:
    reads = _of(tiny_onnx)
    stored = (tiny_onnx / "model.onnx.data").stat().st_size
    assert 0.2 * stored < reads.weights < stored
