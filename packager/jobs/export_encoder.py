"""Export an embedding model: the encoder of a Hugging Face folder and its pooling, as one graph.

A text goes through it alone, without padding: `input_ids` int64 [1, tokens] in, `embedding` float32
[1, dimensions] out. Weights are stored in half precision and computed with in fp32: half the size,
and the cosine with transformers stays above 0.99999 (MiniLM). ONNX Runtime's 8 bits, measured on
MiniLM with ten texts, are too coarse: the smallest cosine is 0.983 with weights and activations in
8 bits by channel, 0.9989 with MatMulNBits (blocks of 32, accuracy level 4).
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from packager.jobs.job import Job, JobRefusedError, Work

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

Pooling = Literal["mean", "cls", "lasttoken"]
"""Ways from the states of all tokens to one vector; names are those of sentence-transformers."""

GRAPH = "model.onnx"

LEAST_COSINE = 0.9999
"""Cosine between the graph's vectors and those of transformers below which it is refused."""

_OPSET = 17
_TRACED = 7  # tokens of the text that is traced; any number gives the same graph
_LARGE = 1024  # elements of a weight that is worth half precision
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


class ExportEncoder(Job[Exported], frozen=True, kw_only=True):
    """Write the graph and the tokenizer of an embedding model.

    Attributes:
        source: Hugging Face folder.
        pooling: how the states of the tokens become one vector.
        normalize: scale the vector to length 1.
        max_tokens: longest text, tokens.
    """

    source: Path
    pooling: Pooling
    normalize: bool
    max_tokens: int

    def run(self, work: Work) -> Exported:
        """Write the files, and compare the graph with transformers.

        Raises:
            JobRefusedError: the graph computes other vectors than transformers.
        """
        import torch
        from transformers import AutoModel, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.source).backend_tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.save(str(work.target / "tokenizer.json"))
        encoder = AutoModel.from_pretrained(
            self.source, dtype=torch.float32, attn_implementation="eager"
        )
        model = _whole(encoder, self.pooling, self.normalize)
        vocabulary = encoder.get_input_embeddings().num_embeddings
        # Beyond 2 GB, the exporter writes a file for each weight beside the graph.
        with tempfile.TemporaryDirectory(dir=work.target) as folder:
            floats = Path(folder, GRAPH)
            _export(model, floats, vocabulary)
            _store_in_half(floats, work.target / GRAPH)
        cosine = _compare(model, work.target / GRAPH, vocabulary, self.max_tokens)
        if not cosine >= LEAST_COSINE:
            raise JobRefusedError(
                f"the exported graph computes other vectors than transformers: cosine {cosine:.5f}"
            )
        return Exported(
            dimensions=encoder.config.hidden_size,
            vocabulary=vocabulary,
            cosine=cosine,
        )


def _whole(encoder: Any, pooling: Pooling, normalize: bool) -> Any:
    """Put pooling and normalization behind an encoder; return a torch module."""
    import torch

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            states = self.encoder(input_ids=input_ids).last_hidden_state
            if pooling == "mean":
                vector = states.mean(1)
            else:
                vector = states[:, 0] if pooling == "cls" else states[:, -1]
            return torch.nn.functional.normalize(vector, dim=-1) if normalize else vector

    return Whole().eval()


def _export(model: Any, path: Path, vocabulary: int) -> None:
    """Write a torch module as a graph, with weights in fp32."""
    import torch

    with warnings.catch_warnings(), torch.no_grad():
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


def _store_in_half(path: Path, target: Path) -> None:
    """Store the large weights of a graph in half precision, with a Cast to fp32.

    ONNX Runtime casts weights once, while it loads the graph; of an embedding table, the rows that
    a text needs are cast.
    """
    import numpy as np
    import onnx_ir as ir

    model = ir.load(path)
    graph = model.graph
    for value in list(graph.initializers.values()):
        weight = value.const_value
        if weight is None or weight.dtype != ir.DataType.FLOAT or weight.size < _LARGE:
            continue
        array = weight.numpy()
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if np.isfinite(half).all():
            _cast(graph, value, half)
    ir.save(model, target)


def _cast(graph: ir.Graph, value: ir.Value, half: np.ndarray) -> None:
    """Replace a weight by one in half precision with a Cast, behind the Gather of a table."""
    import onnx_ir as ir

    name = str(value.name)
    users = list(value.uses())
    tensor = ir.tensor(half, name=f"{name}.half")
    stored = ir.Value(
        name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(stored)
    gathers = [node for node, index in users if node.op_type == "Gather" and index == 0]
    if len(gathers) == len(users) == 1:
        (gather,) = gathers
        rows = gather.outputs[0]
        rows.type = None
        gather.replace_input_with(0, stored)
        after = list(rows.uses())
        cast = ir.node("Cast", [rows], {"to": ir.DataType.FLOAT}, name=f"{name}/Cast")
        graph.insert_after(gather, cast)
    else:
        after = users
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{name}/Cast")
        graph.insert_before(graph[0], cast)
    cast.outputs[0].name = f"{name}/Cast/output_0"
    for node, index in after:
        node.replace_input_with(index, cast.outputs[0])
    del graph.initializers[name]


def _compare(model: Any, graph: Path, vocabulary: int, max_tokens: int) -> float:
    """Return the smallest cosine between vectors of the graph and of transformers."""
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
    return min(cosines)
