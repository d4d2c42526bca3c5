"""The embedding model on the device: a tiny graph in the library of ONNX Runtime that a kit has."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tokenizers
from onnx import TensorProto, helper, numpy_helper

from device_runtime import memory
from device_runtime.errors import DeviceError, EngineError, RequestError
from device_runtime.inference.embedding import EmbeddingRequest
from device_runtime.inference.engine import NoMemoryNowError, PromptTooLongError, Usage
from device_runtime.inference.onnx_embedder import EmbeddingGraph, OnnxEmbedder

WORDS = {"a": 0, "b": 1, "c": 2, "huge": 3, "\0": 4, "beyond": 5}
TABLE = np.array([[3, 4, 0], [0, 0, 2], [1, 1, 1], [3e38, 3e38, 3e38], [5, 0, 0]], np.float32)
"""A row for each word but the last, which the tokenizer knows and the model does not."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose vector of a text is the sum of its words' rows."""
    folder = tmp_path_factory.mktemp("embedding")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["embedding"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, 3])],
        [
            numpy_helper.from_array(TABLE, "table"),
            numpy_helper.from_array(np.array([1]), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="c"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(" ", "removed")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def embedder(folder: Path, **changes: int) -> OnnxEmbedder:
    settings = {"dimensions": 3, "vocabulary": 5, "max_tokens": 4, "memory_bytes": 1, "threads": 1}
    return OnnxEmbedder(folder, **(settings | changes))


def vectors(
    embedder: OnnxEmbedder, *inputs: str | tuple[int, ...], dimensions: int | None = None
) -> list[list[float]]:
    request = EmbeddingRequest(inputs=inputs, dimensions=dimensions)
    first, *chunks, last = embedder.embed(request, lambda: False)
    assert first.is_empty
    assert last.usage is not None
    return [np.frombuffer(chunk.vector, "<f4").tolist() for chunk in chunks]


def test_each_text_has_its_vector_in_order(folder: Path) -> None:
    assert vectors(embedder(folder), "a b", "b", (0, 0), "a b c b") == [
        [3, 4, 2],
        [0, 0, 2],
        [6, 8, 0],
        [4, 5, 5],
    ]


def test_usage_counts_all_tokens(folder: Path) -> None:
    request = EmbeddingRequest(inputs=("a b", (1,)))
    *_, last = embedder(folder).embed(request, lambda: False)
    assert isinstance(last.usage, Usage)
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 0)


def test_cut_vectors_are_scaled_to_length_1(folder: Path) -> None:
    assert vectors(embedder(folder), "a b", dimensions=2) == [pytest.approx([0.6, 0.8])]


def test_zero_character_reaches_the_model(folder: Path) -> None:
    assert vectors(embedder(folder), "b \0 b") == [[5, 0, 4]]


def test_cancelled_request_ends_before_the_next_text(folder: Path) -> None:
    answers: Iterator[bool] = iter([False, True])
    request = EmbeddingRequest(inputs=("a", "b", "c"))
    chunks = list(embedder(folder).embed(request, lambda: next(answers)))
    assert [bool(chunk.vector) for chunk in chunks] == [False, True, False]


def failure(embedder: OnnxEmbedder, *inputs: str | tuple[int, ...], **more: int) -> DeviceError:
    with pytest.raises(DeviceError) as caught:
        vectors(embedder, *inputs, **more)
    return caught.value


def test_text_beyond_the_context_is_refused_with_all_others(folder: Path) -> None:
    error = failure(embedder(folder), "a", "a b c a b")
    assert isinstance(error, PromptTooLongError)
    assert "maximum context length is 4 tokens" in str(error)
    assert "5 tokens" in str(error)


@pytest.mark.parametrize("text", ["beyond", (5,), (2, 2**31 - 1)])
def test_token_that_the_model_lacks_is_refused(folder: Path, text: str | tuple[int, ...]) -> None:
    error = failure(embedder(folder), text)
    assert isinstance(error, RequestError)
    assert "the model has no token" in str(error)


def test_text_without_tokens_is_refused(folder: Path) -> None:
    error = failure(embedder(folder), " ")
    assert isinstance(error, RequestError)
    assert "no tokens" in str(error)


def test_values_that_are_not_finite_are_an_error(folder: Path) -> None:
    error = failure(embedder(folder), "huge huge")
    assert isinstance(error, EngineError)
    assert "not finite" in str(error)


def test_vector_of_zeros_is_not_scaled(folder: Path) -> None:
    with np.errstate(invalid="ignore"):
        error = failure(embedder(folder), "b", dimensions=2)
    assert "not finite" in str(error)


def test_model_that_does_not_fit_now_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 20 << 20)
    error = failure(embedder(folder, memory_bytes=21 << 20), "a")
    assert isinstance(error, NoMemoryNowError)
    assert "needs 21 MiB of memory, 20 MiB are free" in str(error)


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_graph_that_does_not_load_is_an_error(folder: Path, tmp_path: Path, damage: str) -> None:
    if damage == "damaged":
        (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:50])
    error = failure(embedder(tmp_path), "a")
    assert isinstance(error, EngineError)
    assert "the embedding model does not load" in str(error)
    assert error.hint


def test_graph_of_another_width_is_an_error(folder: Path) -> None:
    error = failure(embedder(folder, dimensions=4), "a")
    assert isinstance(error, EngineError)
    assert "invalid dimensions" in str(error)


def test_failing_run_is_an_error_and_the_next_works(folder: Path) -> None:
    graph = EmbeddingGraph(folder / "model.onnx", width=3, threads=1)
    with pytest.raises(RuntimeError, match="out of data bound"):
        graph.run([9])
    assert graph.run([0]).tolist() == [3, 4, 0]
