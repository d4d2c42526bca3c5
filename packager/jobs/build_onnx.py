"""Build an ONNX GenAI folder. A job because of its memory use.

The model builder creates the graph; if `Weights` are given, the pass `nbits` replaces the builder's
own quantizers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from packager.genai import corrections, nbits, rotary_tables, runtime_config, tokenizer_files
from packager.genai.linears import layer_and_name
from packager.jobs.job import Job, Work
from packager.recipes import nodes
from packager.weights import blocks, kquant

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor

    from packager.genai.calibrated import CalibratedWeights
    from packager.weights.blocks import Blocks


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the quantization pass.

    Attributes:
        algorithm: quantization algorithm, as in a recipe.
        body_bits: bits of the decoder layers' MatMuls.
        head_bits: bits of the language modelling head.
        embedding_bits: bits of the embedding.
        block_size: inputs that share a scale.
        symmetric: quantize without zero points.
        accuracy_level: accuracy level of each MatMulNBits.
        sensitive: linear layers that get 8 bits, as `LAYER.NAME` (`3.mlp.down_proj`), or `lm_head`.
        calibrated: output folder of `calibrate`; None for the other algorithms.
    """

    algorithm: Literal["nearest", "own", "kquant", "gptq", "gguf"]
    body_bits: int
    head_bits: int
    embedding_bits: int
    block_size: int
    symmetric: bool
    accuracy_level: int
    sensitive: tuple[str, ...] = ()
    calibrated: Path | None = None


class BuildOnnx(Job[None], frozen=True, kw_only=True):
    """Build a model. Progress unit: layers, each once read and, in the pass, once quantized.

    Attributes:
        source: Hugging Face folder.
        precision: precision, as the builder names it.
        execution_provider: execution provider, as the builder names it.
        options: the builder's extra options.
        weights: settings of the pass; None leaves quantization to the builder.
        positions: longest prompt and answer, tokens; None for the model's own limit.
    """

    source: Path
    precision: str
    execution_provider: str
    options: dict[str, str]
    weights: Weights | None = None
    positions: int | None = None

    def run(self, work: Work) -> None:
        """Run the builder, with the pass instead of its quantizers."""
        from onnxruntime_genai.models import builder

        pairs = [f"{name}={value}" for name, value in sorted(self.options.items())]
        with tempfile.TemporaryDirectory(prefix=".builder-", dir=work.target.parent) as scratch:
            place = (
                "",
                str(self.source),
                str(work.target),
                self.precision,
                self.execution_provider,
                scratch,
            )
            options = builder.parse_extra_options(*place, pairs)
            if self.weights is not None:
                _install_pass(builder, options, self.weights, work.advance)
            config = options["hf_details"]["hf_config"]
            corrections.correct(builder, config)
            positions = self.positions
            if positions is not None:
                # The runtime opens the cache of a window whole.
                positions = max(positions, getattr(config, "sliding_window", None) or 0)
                rotary_tables.shorten(builder, positions)
            with _counted_layers(builder, work.advance):
                builder.create_model(*place, **options)
        runtime_config.adapt(work.target, positions)
        rows = config.get_text_config().vocab_size
        tokenizer_files.leave_out(work.target, rows)


def _install_pass(
    builder: Any, options: dict[str, Any], weights: Weights, advance: Callable[[int], None]
) -> None:
    """Replace the builder's quantizers with the pass."""
    tied = (
        bool(getattr(options["hf_details"]["hf_config"], "tie_word_embeddings", False))
        and weights.head_bits == weights.embedding_bits
    )
    calibrated = None
    if weights.calibrated is not None:
        from packager.genai.calibrated import CalibratedWeights

        calibrated = CalibratedWeights(weights.calibrated)
    # The embedding stays a float Gather until the pass reaches it.
    options["shared_embeddings"] = False

    layers: set[int] = set()

    def quantized(node: str, weight: Tensor) -> list[Blocks] | None:
        place = layer_and_name(node)
        if place and place[0] not in layers:
            layers.add(place[0])
            advance(1)
        return quantize(weights, calibrated, node, weight)

    def to_nbits(self: Any) -> ir.Model:
        nbits.quantize_graph(
            self.model,
            quantized,
            tied=tied,
            accuracy_level=weights.accuracy_level,
        )
        model: ir.Model = self.model
        return model

    builder.Model.to_nbits = to_nbits


@contextmanager
def _counted_layers(builder: Any, advance: Callable[[int], None]) -> Iterator[None]:
    """Report each layer that the builder reaches: it calls `is_layer` on every module."""
    originals = {model: vars(model)["is_layer"] for model in (builder.Model, builder.ChatGLMModel)}

    def counting(judge: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
        def is_layer(self: Any, module: Any) -> bool:
            layer = judge(self, module)
            if layer:
                advance(1)
            return layer

        return is_layer

    try:
        for model, original in originals.items():
            model.is_layer = counting(original)
        yield
    finally:
        for model, original in originals.items():
            model.is_layer = original


def quantize(
    weights: Weights, calibrated: CalibratedWeights | None, node: str, weight: Tensor
) -> list[Blocks] | None:
    """Quantize a weight `[out, in]`, in parts along `out`; None leaves it in float."""
    bits = {nodes.HEAD: weights.head_bits, nodes.EMBEDDING: weights.embedding_bits}.get(
        node, weights.body_bits
    )
    size = weights.block_size
    if node == nodes.EMBEDDING:
        # GatherBlockQuantized supports whole blocks only.
        size = next((width for width in (size, 32, 16) if weight.shape[1] % width == 0), 0)
        if size == 0:
            return None
    if calibrated and (bits < 8 or weights.algorithm == "gguf"):
        parts = calibrated.find(node, weight, weights.sensitive)
        if parts is not None:
            return parts
    if bits == 8 or _name(node) in weights.sensitive:
        return [blocks.eight_bits(weight, block_size=size)]
    if weights.algorithm in ("nearest", "own"):
        own, symmetric = weights.algorithm == "own", weights.symmetric
        return [blocks.nearest(weight, bits=bits, block_size=size, symmetric=symmetric, own=own)]
    return [kquant.fit(weight, bits=bits, block_size=size)]


def _name(node: str) -> str | None:
    place = layer_and_name(node)
    return f"{place[0]}.{place[1]}" if place else None
