"""Decoders and what follows the pooling (dense layers, normalization): the vectors that a device
computes from texts, compared with transformers and the modules of the folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_runtime.errors import RequestError
from device_runtime.inference.embedding import EmbeddingRequest
from device_runtime.inference.engine import PromptTooLongError
from device_runtime.inference.onnx_embedder import OnnxEmbedder
from packager.errors import ModelSourceError
from packager.models import embedding
from packager.models.catalog import DECODERS
from tests.support import tiny_encoder

LONGEST = 128
TEXTS = [
    "x",
    "How do I reset my password?",
    "The quarterly revenue of the company rose by 12.5 percent.",
    "Wie geht es dir heute? Über Öl und Äpfel.",
    "東京は日本の首都です。",
    "Привет, мир! Как дела?",
    "مرحبا بالعالم",
    "def add(a, b):\n\treturn a + b  # sums",
    "😀 fun \u200b and\0zero <|im_end|>",
    "Rome and its emperors. " * 5 + "12345678",
]
QWEN = {"architecture": "Qwen3ForCausalLM", "pooling": "lasttoken"}
GEMMA: dict[str, Any] = {
    "architecture": "Gemma3TextModel",
    "dense": ((96, "linear.Identity"), (24, "linear.Identity")),
}
LABSE: dict[str, Any] = {"pooling": "cls_token", "dense": ((32, "activation.Tanh"),)}

pytestmark = pytest.mark.usefixtures("own_cache", "jobs_here")


def made(tmp_path: Path, **model: Any) -> tuple[Path, OnnxEmbedder]:
    """A model of sentence-transformers, and the same on a device."""
    sizes = {"max_seq_length": LONGEST, "max_position_embeddings": LONGEST}
    folder = tiny_encoder.make(tmp_path / "m", **sizes | model)
    exported = embedding.export(embedding.resolve(str(folder)), context_length=4096)
    embedder = OnnxEmbedder(
        exported.folder,
        dimensions=exported.facts.dimensions,
        vocabulary=exported.facts.vocabulary,
        max_tokens=exported.facts.max_tokens,
        memory_bytes=1,
        threads=1,
    )
    return folder, embedder


def vectors(embedder: OnnxEmbedder, inputs: list[Any], dimensions: int | None = None) -> Any:
    request = EmbeddingRequest(inputs=tuple(inputs), dimensions=dimensions)
    chunks = embedder.embed(request, lambda: False)
    return np.stack([np.frombuffer(chunk.vector, "<f4") for chunk in chunks if chunk.vector])


POOLINGS: dict[str, Callable[[Any, Any], Any]] = {
    "cls_token": lambda states, ones: states[0],
    "max_tokens": lambda states, ones: states.max(0).values,
    "mean_tokens": lambda states, ones: states.mean(0),
    "mean_sqrt_len_tokens": lambda states, ones: states.sum(0) / ones.sum().sqrt(),
    "weightedmean_tokens": lambda states, ones: (
        (states * ones.cumsum(0)[:, None]).sum(0) / ones.cumsum(0).sum()
    ),
    "lasttoken": lambda states, ones: states[-1],
}


def expected(folder: Path, texts: list[str]) -> Any:
    """The vectors of transformers and the modules, for all texts in one padded batch."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    batch = AutoTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=False, return_tensors="pt"
    )
    with torch.no_grad():
        all_states = AutoModel.from_pretrained(folder, dtype=torch.float32)(**batch)[0]
    modes = json.loads((folder / "1_Pooling/config.json").read_text())
    rows = []
    for states, mask in zip(all_states, batch.attention_mask, strict=True):
        states = states[mask.bool()]
        ones = torch.ones(len(states))
        rows.append(
            torch.cat([POOLINGS[m](states, ones) for m in POOLINGS if modes[f"pooling_mode_{m}"]])
        )
    result = torch.stack(rows)
    for module in json.loads((folder / "modules.json").read_text())[2:]:
        if module["type"].endswith("Normalize"):
            result = result / result.norm(dim=-1, keepdim=True)
            continue
        weights = load_file(folder / module["path"] / "model.safetensors")
        result = result @ weights["linear.weight"].T + weights.get("linear.bias", 0)
        config = json.loads((folder / module["path"] / "config.json").read_text())
        if config["activation_function"].endswith("Tanh"):
            result = result.tanh()
    return result.numpy()


def cosines(first: Any, second: Any) -> Any:
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return (first * second).sum(-1) / lengths


@pytest.mark.parametrize(
    "model",
    [
        *({"architecture": architecture, "pooling": "lasttoken"} for architecture in DECODERS),
        *({"architecture": "Qwen3Model", "pooling": mode} for mode in tiny_encoder.MODES),
        GEMMA,
        LABSE,
        GEMMA | {"normalize": False},
        QWEN | {"is_causal": False},
        QWEN
        | {
            "use_sliding_window": True,
            "sliding_window": 16,
            "layer_types": ["full_attention", "sliding_attention"],
        },
    ],
    ids=str,
)
def test_texts_have_the_vectors_of_transformers_and_the_modules(
    tmp_path: Path, model: dict[str, Any]
) -> None:
    folder, embedder = made(tmp_path, **model)
    actual, reference = vectors(embedder, TEXTS), expected(folder, TEXTS)
    assert actual.shape == reference.shape
    assert cosines(actual, reference).min() > 0.9999
    np.testing.assert_allclose(
        np.linalg.norm(actual, axis=-1), np.linalg.norm(reference, axis=-1), rtol=0.01
    )
    alone = np.concatenate([vectors(embedder, [text]) for text in TEXTS])
    np.testing.assert_array_equal(alone, actual)


def test_dense_layers_make_the_dimensions(tmp_path: Path) -> None:
    _, embedder = made(tmp_path, **GEMMA)
    (whole,) = vectors(embedder, ["x"])
    (cut,) = vectors(embedder, ["x"], dimensions=8)
    assert (len(whole), len(cut)) == (24, 8)
    np.testing.assert_allclose(cut, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)


def test_poolings_are_joined_in_the_order_of_sentence_transformers(tmp_path: Path) -> None:
    folder, _ = made(tmp_path)
    tiny_encoder.change(folder, "1_Pooling/config.json", pooling_mode_cls_token=True)
    exported = embedding.export(embedding.resolve(str(folder)), context_length=4096)
    assert exported.facts.dimensions == 64
    legacy = embedding.read(folder, "x").poolings
    tiny_encoder.write(folder, "1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]})
    assert embedding.read(folder, "x").poolings == legacy == ("cls", "mean")


@pytest.mark.parametrize("model", [QWEN, GEMMA], ids=str)
def test_one_token_and_the_longest_text_have_vectors(tmp_path: Path, model: Any) -> None:
    folder, embedder = made(tmp_path, **model)
    around = len(embedder_tokens(folder, ""))
    longest = "e" * (LONGEST - around)
    assert np.isfinite(vectors(embedder, [(7,), longest])).all()
    (actual,) = vectors(embedder, [longest])
    (reference,) = expected(folder, [longest])
    assert cosines(actual, reference) > 0.9999
    with pytest.raises(PromptTooLongError, match=f"is {LONGEST} tokens.* has {LONGEST + 1} tokens"):
        vectors(embedder, [longest + "e"])


def embedder_tokens(folder: Path, text: str) -> list[int]:
    from transformers import AutoTokenizer

    ids: list[int] = AutoTokenizer.from_pretrained(folder)(text).input_ids
    return ids


def test_token_beyond_the_table_is_refused(tmp_path: Path) -> None:
    _, embedder = made(tmp_path, **QWEN)
    with pytest.raises(RequestError, match="the model has no token 100000"):
        vectors(embedder, [(100000,)])


def test_changed_dense_layer_is_exported_again(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder, _ = made(tmp_path, **GEMMA)
    first = embedding.resolve(str(folder)).digest
    save_file({"linear.weight": torch.ones(24, 96)}, folder / "3_Dense/model.safetensors")
    assert embedding.resolve(str(folder)).digest != first


@pytest.mark.parametrize(
    "names", [{"linear.weight": (24, 95)}, {"weight": (24, 96)}, {"linear.weight": (24,)}], ids=str
)
def test_dense_layer_with_other_weights_is_refused(tmp_path: Path, names: Any) -> None:
    import torch
    from safetensors.torch import save_file

    folder = tiny_encoder.make(tmp_path / "m", **GEMMA)
    tensors = {name: torch.ones(shape) for name, shape in names.items()}
    save_file(tensors, folder / "3_Dense/model.safetensors")
    with pytest.raises(ModelSourceError, match="3_Dense are not those of a dense layer"):
        embedding.export(embedding.resolve(str(folder)), context_length=4096)
