"""The part of a manifest that describes how texts become vectors."""

from device_runtime.bundle.fields import Bytes, ContextLength, Dimensions, Vocabulary
from device_runtime.bundle.model_facts import ModelFacts
from device_runtime.bundle.quantization import Struct

HIDDEN_STATES = "hidden_states"
"""Output of a graph with the last hidden states, float32 [batch, tokens, width]."""


class Embedding(Struct, frozen=True, kw_only=True):
    """An embedding model beside the model that answers, or that model itself.

    Attributes:
        model: the model.
        dimensions: length of its vectors.
        vocabulary: number of tokens that it knows.
        max_tokens: longest text, tokens.
        memory_bytes: estimate of the resident memory that it adds, bytes.
        hidden_states: whether the vectors are means of the hidden states of the model that answers,
            which its graph gives as `HIDDEN_STATES`; then there are no files of an embedding model.
    """

    model: ModelFacts
    dimensions: Dimensions
    vocabulary: Vocabulary
    max_tokens: ContextLength
    memory_bytes: Bytes
    hidden_states: bool = False
