"""Inspect a built model's graph, load it and generate with it. A job because loading a broken model
can crash the process."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from device_runtime.bundle.reasoning import Reasoning
from device_runtime.tokenizer.tokenizer import Tokenizer
from packager.jobs import generation, probe, reasoning
from packager.jobs.job import Job, Work
from packager.jobs.probe import Continuation

LARGE = 1 << 16
"""Elements from which on a weight must be quantized, so that its kernel is fast on the target."""


class QuantizedWeight(msgspec.Struct, frozen=True, kw_only=True):
    """A quantized weight, as a graph stores it.

    Attributes:
        node: name of the node that uses the weight.
        operator: operator type of that node.
        bits: bits of a code.
        block_size: inputs that share a scale.
        accuracy_level: accuracy level of a MatMulNBits; 0 if unspecified.
        zeros: element type of the zero points; empty without zero points.
    """

    node: str
    operator: str
    bits: int
    block_size: int
    accuracy_level: int
    zeros: str


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of a graph.

    Attributes:
        operators: number of nodes of each operator type.
        quantized: quantized weights.
        large_floats: names of nodes with large float weights.
        cache_bytes: size of the KV cache of one token.
        state_bytes: size of the states of layers that have one instead of a KV cache.
        all_logits: the graph computes the logits of all tokens that it gets, not only the last.
        execution_provider: execution provider the graph was built for, lower case.
    """

    operators: dict[str, int]
    quantized: tuple[QuantizedWeight, ...]
    large_floats: tuple[str, ...]
    cache_bytes: int = 0
    state_bytes: int = 0
    all_logits: bool = True
    execution_provider: str


class Checked(Graph, frozen=True, kw_only=True):
    """Summary of a graph, with the model's answer if this machine can run it.

    Attributes:
        answer: answer to the prompt; None if the model was not run.
        probe: continuation on which all processors agree; None if the model was not run, or has
            none.
        reasoning: how the model thinks; None if it does not.
    """

    answer: str | None
    probe: Continuation | None
    reasoning: Reasoning | None = None


class Check(Job[Checked], frozen=True, kw_only=True):
    """Inspect a graph, generate an answer and find a probe.

    Attributes:
        prompt: prompt to answer; None if this machine lacks the graph's execution provider.
        max_tokens: maximum length of the answer.
    """

    prompt: str | None
    max_tokens: int

    def run(self, work: Work) -> Checked:
        """Check the model in the target, an ONNX GenAI folder.

        Raises:
            JobRefusedError: the model's outputs are not numbers, or all the same.
        """
        graph = msgspec.structs.asdict(inspect_graph(work.target))
        thoughts = reasoning.find(work.target)
        if self.prompt is None:
            return Checked(**graph, answer=None, probe=None, reasoning=thoughts)
        model = generation.load(work.target)
        tokenizer = Tokenizer(work.target)
        answer = generation.respond(model, tokenizer, work.target, self.prompt, self.max_tokens)
        return Checked(
            **graph,
            answer=answer,
            probe=probe.find(model, tokenizer, work.target),
            reasoning=thoughts,
        )


def inspect_graph(folder: Path) -> Graph:
    """Summarize a graph: operators, quantized weights, large float weights."""
    import onnx

    config = json.loads((folder / "genai_config.json").read_text())
    decoder = config["model"]["decoder"]
    graph = onnx.load(str(folder / decoder["filename"]), load_external_data=False).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    providers = decoder["session_options"]["provider_options"]
    cache_bytes, state_bytes = _remembered(graph, decoder["head_size"])
    return Graph(
        operators=dict(sorted(Counter(node.op_type for node in graph.node).items())),
        quantized=tuple(
            _quantized(node, weights)
            for node in graph.node
            if node.op_type in ("MatMulNBits", "GatherBlockQuantized")
        ),
        large_floats=tuple(
            node.name
            for node in graph.node
            if node.op_type in ("MatMul", "Gather", "Gemm")
            for name in node.input
            if name in weights and math.prod(weights[name].dims) >= LARGE
        ),
        cache_bytes=cache_bytes,
        state_bytes=state_bytes,
        all_logits=_all_logits(graph, decoder.get("outputs", {}).get("logits", "logits")),
        execution_provider=next(iter(providers[0])).lower() if providers else "cpu",
    )


def _remembered(graph: Any, head_size: int) -> tuple[int, int]:
    """Return the sizes of the KV cache of a token and of the states, from the graph's inputs."""
    import onnx

    cache = state = 0
    for value in graph.input:
        if not value.name.startswith("past"):
            continue
        tensor = value.type.tensor_type
        size = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
        names = [dimension.dim_param for dimension in tensor.shape.dim]
        for dimension in tensor.shape.dim:
            # Sizes that depend on the request have names: batch and length, here 1 each.
            size *= head_size if dimension.dim_param == "kv_cache_dim" else dimension.dim_value or 1
        if any("length" in name for name in names):
            cache += size
        else:
            state += size
    return cache, state


def _all_logits(graph: Any, name: str) -> bool:
    outputs = {value.name: value.type.tensor_type.shape.dim for value in graph.output}
    return name not in outputs or outputs[name][1].dim_value != 1


def _quantized(node: Any, weights: dict[str, Any]) -> QuantizedWeight:
    """Describe a quantized weight."""
    import onnx

    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    zeros = weights.get(node.input[3]) if len(node.input) > 3 else None
    return QuantizedWeight(
        node=node.name,
        operator=node.op_type,
        bits=attributes.get("bits", 4),
        block_size=attributes["block_size"],
        accuracy_level=attributes.get("accuracy_level", 0),
        zeros=onnx.TensorProto.DataType.Name(zeros.data_type) if zeros is not None else "",
    )
