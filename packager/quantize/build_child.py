"""Build an ONNX GenAI folder. Runs as a child process, for the memory it takes:

    python -m packager.quantize.build_child JOB

JOB is a `Job` as JSON. The model builder makes the graph; where the recipe quantizes, the pass
`nbits` takes the place of the builder's own quantizers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from packager.quantize import blocks, nbits

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """How the pass quantizes.

    Attributes:
        body_bits: of the decoder layers' MatMuls.
        head_bits: of the head and the embedding.
        block_size: inputs that share a scale.
        symmetric: no zero points.
        accuracy_level: of each MatMulNBits.
        sensitive: nodes of the body that get 8 bits whatever `body_bits` says.
        calibrated: folder of weights that were quantized with calibration; None for none.
    """

    body_bits: int
    head_bits: int
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
        tied = bool(getattr(options["hf_details"]["hf_config"], "tie_word_embeddings", False))
        # The embedding stays a float Gather until the pass comes to it.
        options["shared_embeddings"] = False

        def to_nbits(self: Any) -> ir.Model:
            nbits.quantize_graph(
                self.model,
                _quantizer(weights),
                tied=tied,
                symmetric=weights.symmetric,
                accuracy_level=weights.accuracy_level,
            )
            model: ir.Model = self.model
            return model

        builder.Model.to_nbits = to_nbits
    builder.create_model(*place, **options)


def _quantizer(weights: Weights) -> nbits.Quantizer:
    def quantize(name: str, weight: Tensor) -> blocks.Blocks | None:
        outer = name in (nbits.HEAD, nbits.EMBEDDING)
        bits = weights.head_bits if outer else weights.body_bits
        if name in weights.sensitive:
            bits = 8
        return blocks.nearest(
            weight, bits=bits, block_size=weights.block_size, symmetric=weights.symmetric
        )

    return quantize


if __name__ == "__main__":
    build(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job))
