"""The part of a manifest that names a model and its source."""

from device_runtime.bundle.fields import Count, Line, Sha256
from device_runtime.bundle.quantization import Struct


class ModelFacts(Struct, frozen=True, kw_only=True):
    """A model in a bundle.

    Attributes:
        name: name of the model, from the user or the catalog.
        source: origin of the model, without a path of the host.
        source_sha256: digest of the source's files.
        architecture: architecture as the source names it, `LlamaForCausalLM`.
        parameters: number of weights; 0 if not known.
        license: SPDX expression; empty if not known.
    """

    name: Line
    source: Line
    source_sha256: Sha256
    architecture: Line
    parameters: Count
    license: Line
