"""Export a speech model (Whisper): encoder and decoder as ONNX Runtime GenAI runs them.

The model builder writes the graphs; the pass `nbits` quantizes the weights of their linear layers,
and the decoder's embedding and head, which are one matrix, to 8 bits. The builder's own quantizers
keep that matrix twice, once as floats: of Whisper base, in 8 bits, 207 MB instead of 83.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.genai import nbits
from packager.jobs.build_onnx import Weights, quantize
from packager.jobs.job import Job, Work
from packager.recipes import nodes

if TYPE_CHECKING:
    import onnx_ir as ir

GENERATION = "generation_config.json"
"""File with the tokens that steer a speech model."""

FEATURES = "preprocessor_config.json"
"""File with the shape of its spectrograms."""

_EMBEDDING = "/model/preprocessing/Gather_1"
"""The embedding's node, as the model builder names it in the decoder of Whisper."""


class ExportSpeech(Job[None], frozen=True, kw_only=True):
    """Write the ONNX GenAI folder of a speech model, for the CPU.

    Attributes:
        source: Hugging Face folder.
        generation: content of the folder's `GENERATION`.
        features: content of the folder's `FEATURES`.
        weights: settings of the pass; None leaves the weights in fp32.
    """

    source: Path
    generation: dict[str, Any]
    features: dict[str, Any]
    weights: Weights | None = None

    def run(self, work: Work) -> None:
        """Run the builder, with the pass instead of its quantizers."""
        from onnxruntime_genai.models import builder

        precision = "fp32" if self.weights is None else f"int{self.weights.body_bits}"
        with tempfile.TemporaryDirectory(prefix=".builder-", dir=work.target.parent) as scratch:
            place = ("", str(self.source), str(work.target), precision, "cpu", scratch)
            options = builder.parse_extra_options(*place, ["hf_token=false"])
            # An Attention has its three weights in one, which the pass does not reach: of Whisper
            # large, 600 MB of floats. Without a bias, it ends the process of ONNX Runtime.
            whisper = sys.modules[builder.WhisperModel.__module__]
            whisper.WhisperEncoder.is_packed_attn_supported = lambda _: False
            if self.weights is not None:
                _install_pass(builder, options, self.weights)
            builder.create_model(*place, **options)
        for name, content in ((GENERATION, self.generation), (FEATURES, self.features)):
            text = json.dumps(content, indent=2) + "\n"
            (work.target / name).write_text(text, newline="\n")


def _install_pass(builder: Any, options: dict[str, Any], weights: Weights) -> None:
    """Replace the builder's quantizers with the pass."""
    options["shared_embeddings"] = False

    def to_nbits(self: Any) -> ir.Model:
        model: ir.Model = self.model
        for node in model.graph:
            if node.name == _EMBEDDING:
                node.name = nodes.EMBEDDING
        nbits.quantize_graph(
            model,
            functools.partial(quantize, weights, None),
            tied=True,
            accuracy_level=weights.accuracy_level,
        )
        return model

    builder.Model.to_nbits = to_nbits
