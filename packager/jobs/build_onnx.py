"""Build an ONNX GenAI folder. Runs as a child process, for the memory it takes:

    python -m packager.jobs.build_onnx JOB

JOB is a `Job` as JSON. The model builder makes the graph; where there are `Weights`, the pass
`nbits` takes the place of the builder's own quantizers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from packager.genai import corrections, nbits, tokenizer_files
from packager.genai.linears import layer_and_name
from packager.recipes import nodes
from packager.recipes.recipes import Algorithm
from packager.weights import blocks, kquant

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor

    from packager.genai.calibrated import CalibratedWeights


WARNING = "edgepack warning: "
"""How a line begins that is for the user."""


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """How the pass quantizes.

    Attributes:
        algorithm: `nearest`, `kquant` or `gptq`.
        body_bits: of the decoder layers' MatMuls.
        head_bits: of the language modelling head.
        embedding_bits: of the embedding.
        block_size: inputs that share a scale.
        symmetric: no zero points.
        accuracy_level: of each MatMulNBits.
        sensitive: `LAYER.NAME` of the linear layers that get 8 bits, `3.mlp.down_proj`.
        calibrated: folder that `calibrate` filled; None for the other algorithms.
    """

    algorithm: Algorithm
    body_bits: int
    head_bits: int
    embedding_bits: int
    block_size: int
    symmetric: bool
    accuracy_level: int
    sensitive: tuple[str, ...] = ()
    calibrated: str | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to build.

    Attributes:
        source: Hugging Face folder.
        target: folder to fill.
        work: scratch folder of the builder.
        precision: as the builder names it.
        execution_provider: as the builder names it.
        options: the builder's extra options.
        weights: how to quantize; None leaves it to the builder.
    """

    source: str
    target: str
    work: str
    precision: str
    execution_provider: str
    options: dict[str, str]
    weights: Weights | None = None


def build(job: Job) -> None:
    """Run the builder, with the pass in the place of its quantizers."""
    from onnxruntime_genai.models import builder

    pairs = [f"{name}={value}" for name, value in sorted(job.options.items())]
    place = ("", job.source, job.target, job.precision, job.execution_provider, job.work)
    options = builder.parse_extra_options(*place, pairs)
    if job.weights is not None:
        weights = job.weights
        tied = (
            bool(getattr(options["hf_details"]["hf_config"], "tie_word_embeddings", False))
            and weights.head_bits == weights.embedding_bits
        )
        calibrated = None
        if weights.calibrated is not None:
            from packager.genai.calibrated import CalibratedWeights

            calibrated = CalibratedWeights(Path(weights.calibrated))
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
    corrections.correct(builder, options["hf_details"]["hf_config"])
    builder.create_model(*place, **options)
    trust = job.options.get("hf_remote") == "true"
    tokenizer_files.adapt(Path(job.target))
    wrong = tokenizer_files.differences(Path(job.source), Path(job.target), trust_remote_code=trust)
    for conversation, reason in wrong.items():
        print(f"{WARNING}for {conversation}, {reason}")  # noqa: T201


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


if __name__ == "__main__":
    build(msgspec.json.decode(sys.argv[1], type=Job))
