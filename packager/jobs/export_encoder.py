"""Export an embedding model: the encoder or decoder of a Hugging Face folder and what follows it
(pooling, dense layers, normalization), as one graph.

A text goes through it alone, without padding: `input_ids` int64 [1, tokens] in, `embedding` float32
[1, dimensions] out. Weights are stored in half precision and computed with in fp32: half the size,
and the cosine with transformers stays above 0.99999 (MiniLM). ONNX Runtime's 8 bits, measured on
MiniLM with ten texts, are too coarse: the smallest cosine is 0.983 with weights and activations in
8 bits by channel, 0.9989 with MatMulNBits (blocks of 32, accuracy level 4).
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from packager.genai.half_weights import store_in_half
from packager.jobs.job import Job, JobRefusedError, Work

if TYPE_CHECKING:
    import torch

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
"""Ways from the states of all tokens to one vector; names are those of sentence-transformers."""

Activation = Literal["Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"]
"""Functions behind a dense layer, as torch.nn names them."""

GRAPH = "model.onnx"

LEAST_COSINE = 0.9999
"""Cosine between the graph's vectors and those of transformers below which it is refused."""

_OPSET = 17
_TRACED = 7  # tokens of the text that is traced; any number gives the same graph
_CHECKED = (1, 2, 19, 100, 10_000)  # lengths of the compared texts, tokens, up to the model's limit


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """An exported embedding model.

    Attributes:
        dimensions: length of its vectors.
        vocabulary: number of tokens that it knows.
        cosine: smallest cosine between its vectors and those of transformers.
    """

    dimensions: int
    vocabulary: int
    cosine: float


class Dense(msgspec.Struct, frozen=True, kw_only=True):
    """A linear layer behind the pooling.

    Attributes:
        folder: name of the folder of its weights.
        activation: function applied to its output.
    """

    folder: str
    activation: Activation


Step = Dense | Literal["normalize"]
"""A step behind the pooling; `normalize` scales the vector to length 1."""


class ExportEncoder(Job[Exported], frozen=True, kw_only=True):
    """Write the graph and the tokenizer of an embedding model.

    Attributes:
        source: Hugging Face folder.
        poolings: how the states of the tokens become one vector; those of several are joined.
        steps: what follows.
        max_tokens: longest text, tokens.
    """

    source: Path
    poolings: tuple[Pooling, ...]
    steps: tuple[Step, ...]
    max_tokens: int

    def run(self, work: Work) -> Exported:
        """Write the files, and compare the graph with transformers.

        Raises:
            JobRefusedError: the weights of a dense layer do not fit, or the graph computes other
                vectors than transformers.
        """
        import onnx_ir as ir
        import torch
        from transformers import AutoModel, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.source).backend_tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.save(str(work.target / "tokenizer.json"))
        encoder = AutoModel.from_pretrained(
            self.source, dtype=torch.float32, attn_implementation="eager"
        )
        model = _whole(encoder, self)
        vocabulary = encoder.get_input_embeddings().num_embeddings
        # Beyond 2 GB, the exporter writes a file for each weight beside the graph.
        with tempfile.TemporaryDirectory(dir=work.target) as folder:
            floats = Path(folder, GRAPH)
            _export(model, floats, vocabulary)
            graph = ir.load(floats)
            store_in_half(graph)
            ir.save(graph, work.target / GRAPH)
        cosine, dimensions = _compare(model, work.target / GRAPH, vocabulary, self.max_tokens)
        if not cosine >= LEAST_COSINE:
            raise JobRefusedError(
                f"the exported graph computes other vectors than transformers: cosine {cosine:.5f}"
            )
        return Exported(dimensions=dimensions, vocabulary=vocabulary, cosine=cosine)


def _whole(encoder: Any, job: ExportEncoder) -> Any:
    """Put the pooling and the steps of a job behind an encoder; return a torch module.

    Raises:
        JobRefusedError: the weights of a dense layer do not fit.
    """
    import torch

    class Normalize(torch.nn.Module):
        def forward(self, vector: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(vector, dim=-1)

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.steps = torch.nn.Sequential()
            width = encoder.config.hidden_size * len(job.poolings)
            for step in job.steps:
                if step == "normalize":
                    self.steps.append(Normalize())
                else:
                    linear = _linear(job.source / step.folder, width)
                    self.steps.append(linear).append(getattr(torch.nn, step.activation)())
                    width = linear.out_features

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            # Without a mask, decoders look for several texts in a row, which cannot be traced.
            states = self.encoder(
                input_ids=input_ids, attention_mask=torch.ones_like(input_ids)
            ).last_hidden_state
            vector: torch.Tensor = self.steps(
                torch.cat([_pooled(states, pooling) for pooling in job.poolings], -1)
            )
            return vector

    return Whole().eval()


def _pooled(states: Any, pooling: Pooling) -> Any:
    """Make one vector [1, width] of the states of all tokens [1, tokens, width]."""
    import torch

    match pooling:
        case "cls":
            return states[:, 0]
        case "lasttoken":
            return states[:, -1]
        case "max":
            return states.amax(1)
        case "mean":
            return states.mean(1)
        case "mean_sqrt_len_tokens":
            return states.sum(1) / states.shape[1] ** 0.5
        case "weightedmean":
            weights = torch.arange(1, states.shape[1] + 1, dtype=states.dtype)[None, :, None]
            return (states * weights).sum(1) / weights.sum(1)


def _linear(folder: Path, width: int) -> torch.nn.Linear:
    """Load a dense layer for vectors of a width.

    Raises:
        JobRefusedError: its weights do not fit.
    """
    import torch
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    weight, bias = (tensors.pop(f"linear.{name}", None) for name in ("weight", "bias"))
    if weight is None or weight.shape[1:] != (width,) or tensors:
        raise JobRefusedError(
            f"the weights in {folder.name} are not those of a dense layer for vectors of length "
            f"{width}"
        )
    linear = torch.nn.Linear(width, len(weight), bias=bias is not None)
    linear.weight.data = weight.float()
    if bias is not None:
        linear.bias.data = bias.float()
    return linear


def _export(model: Any, path: Path, vocabulary: int) -> None:
    """Write a torch module as a graph, with weights in fp32."""
    import torch

    with warnings.catch_warnings(), torch.no_grad(), _traceable_masks():
        # The exporter of torch.export needs a package more, for the same graph.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.arange(_TRACED)[None] % vocabulary,),
            str(path),
            input_names=["input_ids"],
            output_names=["embedding"],
            dynamic_axes={"input_ids": {1: "tokens"}},
            opset_version=_OPSET,
            dynamo=False,
        )


@contextlib.contextmanager
def _traceable_masks() -> Iterator[None]:
    """Let transformers compute masks in a way that can be traced: of positions alone, without vmap.

    A text without padding needs no mask of its own.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask

    def mask(*, use_vmap: bool = False, attention_mask: Any = None, **more: Any) -> Any:
        return eager_mask(**more)

    ALL_MASK_ATTENTION_FUNCTIONS["eager"] = mask
    try:
        yield
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS["eager"]


def _compare(model: Any, graph: Path, vocabulary: int, max_tokens: int) -> tuple[float, int]:
    """Compare vectors of the graph and of transformers: the smallest cosine, and their length."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    random = torch.Generator().manual_seed(0)
    cosines = []
    for length in dict.fromkeys(min(length, max_tokens) for length in _CHECKED):
        tokens = torch.randint(vocabulary, (1, length), generator=random)
        with torch.no_grad():
            expected = model(tokens)
        (actual,) = session.run(None, {"input_ids": tokens.numpy()})
        cosines.append(float(torch.cosine_similarity(expected, torch.from_numpy(actual))))
    return min(cosines), actual.shape[1]
