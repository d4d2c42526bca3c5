"""Build an ONNX GenAI folder: a job for the memory it takes.

The model builder makes the graph; where there are `Weights`, the pass `nbits` takes the place of
the builder's own quantizers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from packager.genai import corrections, nbits, tokenizer_files
from packager.genai.linears import layer_and_name
from packager.jobs.job import Job, Work
from packager.recipes import nodes
from packager.weights import blocks, kquant

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor

    from packager.genai.calibrated import CalibratedWeights


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the pass that quantizes.

    Attributes:
        algorithm: as in a recipe.
        body_bits: of the decoder layers' MatMuls.
        head_bits: of the language modelling head.
        embedding_bits: of the embedding.
        block_size: inputs that share a scale.
        symmetric: no zero points.
        accuracy_level: of each MatMulNBits.
        sensitive: `LAYER.NAME` of the linear layers that get 8 bits, `3.mlp.down_proj`.
        calibrated: folder that `calibrate` filled; None for the other algorithms.
    """

    algorithm: Literal["nearest", "kquant", "gptq"]
    body_bits: int
    head_bits: int
    embedding_bits: int
    block_size: int
    symmetric: bool
    accuracy_level: int
    sensitive: tuple[str, ...] = ()
    calibrated: Path | None = None


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of a build.

    Attributes:
        warnings: for the user.
    """

    warnings: tuple[str, ...]


class BuildOnnx(Job[Built], frozen=True, kw_only=True):
    """Build a model. Progress: layers.

    Attributes:
        source: Hugging Face folder.
        precision: as the builder names it.
        execution_provider: as the builder names it.
        options: the builder's extra options.
        weights: how to quantize; None leaves it to the builder.
    """

    source: Path
    precision: str
    execution_provider: str
    options: dict[str, str]
    weights: Weights | None = None

    def run(self, work: Work) -> Built:
        """Run the builder, with the pass in the place of its quantizers."""
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
                _stand_in(builder, options, self.weights)
            corrections.correct(builder, options["hf_details"]["hf_config"])
            with _counted_layers(builder, work.advance):
                builder.create_model(*place, **options)
        tokenizer_files.adapt(work.target)
        trust = self.options.get("hf_remote") == "true"
        differences = tokenizer_files.differences(self.source, work.target, trust_remote_code=trust)
        warnings = (f"for {name}, {reason}" for name, reason in differences.items())
        return Built(warnings=tuple(warnings))


def _stand_in(builder: Any, options: dict[str, Any], weights: Weights) -> None:
    """Put the pass in the place of the builder's quantizers."""
    tied = (
        bool(getattr(options["hf_details"]["hf_config"], "tie_word_embeddings", False))
        and weights.head_bits == weights.embedding_bits
    )
    calibrated = None
    if weights.calibrated is not None:
        from packager.genai.calibrated import CalibratedWeights

        calibrated = CalibratedWeights(weights.calibrated)
    # The embedding stays a float Gather until the pass comes to it.
    options["shared_embeddings"] = False

    def to_nbits(self: Any) -> ir.Model:
        nbits.quantize_graph(
            self.model,
            lambda name, weight: quantize(weights, calibrated, name, weight),
            tied=tied,
            accuracy_level=weights.accuracy_level,
        )
        model: ir.Model = self.model
        return model

    builder.Model.to_nbits = to_nbits


@contextmanager
def _counted_layers(builder: Any, advance: Callable[[int], None]) -> Iterator[None]:
    """Report each layer that the builder comes to: it has every module judged by `is_layer`."""
    originals = {kind: vars(kind)["is_layer"] for kind in (builder.Model, builder.ChatGLMModel)}

    def counting(judge: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
        def is_layer(self: Any, module: Any) -> bool:
            layer = judge(self, module)
            if layer:
                advance(1)
            return layer

        return is_layer

    try:
        for kind, original in originals.items():
            kind.is_layer = counting(original)
        yield
    finally:
        for kind, original in originals.items():
            kind.is_layer = original


def quantize(
    weights: Weights, calibrated: CalibratedWeights | None, node: str, weight: Tensor
) -> blocks.Blocks | None:
    """Quantize one weight `[out, in]`; None leaves it as it is."""
    bits = {nodes.HEAD: weights.head_bits, nodes.EMBEDDING: weights.embedding_bits}.get(
        node, weights.body_bits
    )
    size = weights.block_size
    if node == nodes.EMBEDDING:
        # GatherBlockQuantized takes whole blocks only.
        size = next((each for each in (size, 32, 16) if weight.shape[1] % each == 0), 0)
        if size == 0:
            return None
    linears = calibrated.linears(node) if calibrated else _names(node)
    if any(linear in weights.sensitive for linear in linears):
        bits = 8
    found = calibrated.find(node, weight) if calibrated and bits < 8 else None
    if found is not None:
        return found
    if bits == 8:
        # Zero points would gain nothing here that can be measured, and cost speed.
        return blocks.nearest(weight, bits=bits, block_size=size, symmetric=True)
    if weights.algorithm == "nearest":
        return blocks.nearest(weight, bits=bits, block_size=size, symmetric=weights.symmetric)
    return kquant.fit(weight, bits=bits, block_size=size)


def _names(node: str) -> list[str]:
    place = layer_and_name(node)
    return [f"{place[0]}.{place[1]}"] if place else []
