"""Everything in a bundle has a bound, and is refused beyond it before anything is done with it."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from msgspec import inspect

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.manifest import Blob, Record, Settings
from device_runtime.bundle.reader import open_bundle
from device_runtime.config.options import OPTIONS
from device_runtime.errors import BundleError
from tests.support import bundles
from tests.support.bundles import Draft, draft, tar, with_manifest

SECOND = 1.0


def refused(path: Path, match: str) -> None:
    """Refused in one line, with a hint, by processor time of less than a second."""
    start = time.process_time()
    with pytest.raises(BundleError, match=match) as caught, open_bundle(path) as bundle:
        bundle.verify()
    assert time.process_time() - start < SECOND
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def refused_text(folder: Path, text: bytes, match: str) -> None:
    path = folder / "b.epk"
    path.write_bytes(tar(with_manifest(draft().members(), text)))
    refused(path, match)


def changed(where: str, value: Any) -> bytes:
    """The manifest of a draft with another value: `kit.machine`, `records.0.path`."""
    raw = json.loads(schema.encode(draft().manifest))
    *folders, last = where.split(".")
    place = raw
    for name in folders:
        place = place[int(name) if isinstance(place, list) else name]
    place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(raw).encode()


FACTS = msgspec.to_builtins(draft().manifest.model)
EMBEDDING = {
    "model": FACTS,
    "dimensions": 384,
    "vocabulary": 30522,
    "max_tokens": 256,
    "memory_bytes": 1 << 27,
}

REASONING = {
    "begin": "<think>",
    "end": "</think>",
    "begin_tokens": [1],
    "end_tokens": [2],
    "opened": False,
    "argument": "enable_thinking",
    "on": True,
    "off": False,
}
QUALITY = {
    "kl": 0.1,
    "kl_interval": [0.1, 0.1],
    "top1": 0.9,
    "top1_interval": [0.9, 0.9],
    "perplexity": 9.0,
    "reference_perplexity": 9.0,
    "tokens": 10,
}
TRIED = {"recipe": "r", "model_bytes": 1, "memory_bytes": 1, "quality": None, "exceeded": []}
WHEEL = {"name": "onnxruntime-gpu", "version": "1", "file": "a.whl", "sha256": "0" * 64}
CUDA = {"version": "13", "jetpack": "7", "libraries": [], "gpus": ["8.9"]}
TASK = {"prompt": "p", "right": "1", "reference": "1", "quantized": "1"}
TASKS = {"tasks": 1, "compared": 1, "agreed": 1, "reference_right": 1, "quantized_right": 1}
TOKENIZER = {
    "texts": 9,
    "texts_differing": 1,
    "conversations": 9,
    "conversations_differing": 0,
    "tokens_left_out": 0,
}
ANSWER = {"prompt": "p", "reference": "r", "quantized": "q"}


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("id", "Not An Id"),
        ("id", "a" * 129),
        ("id", "a\n"),
        ("version", "x"),
        ("sequence", -1),
        ("sequence", 2**62),
        ("profile", ""),
        ("profile", "a" * 65),
        ("profile", "\x1b[2J"),
        ("compatible", []),
        ("compatible", ["any thing"]),
        ("compatible", ["a"] * 33),
        ("kit.name", "../kit"),
        ("kit.machine", "x86 64"),
        ("kit.digest", "0" * 63),
        ("kit.min_glibc", "abc"),
        ("kit.min_glibc", "2." + "1" * 5000),
        ("kit.min_glibc", "2.36\n"),
        ("kit.cpu", ["avx2; reboot"]),
        ("kit.cpu", ["a"] * 257),
        ("kit.wheels", [{**WHEEL, "sha256": "abc"}]),
        ("kit.wheels", [{**WHEEL, "name": "../onnxruntime"}]),
        ("kit.wheels", [{**WHEEL, "index": "line\nbreak"}]),
        ("kit.wheels", [WHEEL] * 17),
        ("kit.cuda", {**CUDA, "version": "thirteen"}),
        ("kit.cuda", {**CUDA, "jetpack": ""}),
        ("kit.cuda", {**CUDA, "libraries": ["/lib/x.so"]}),
        ("kit.cuda", {**CUDA, "gpus": ["new"]}),
        ("model.name", "a" * 513),
        ("model.name", "a\x1b[31m"),
        ("model.source", "\u202egpj.exe"),
        ("model.source_sha256", ""),
        ("model.architecture", "a\nb"),
        ("model.parameters", -1),
        ("model.license", "x" * 100_000),
        ("quantization.recipe", "a\nb"),
        ("quantization.precision", "a\x00"),
        ("quantization.execution_provider", "c" * 600),
        ("quantization.options", {str(n): "1" for n in range(65)}),
        ("quantization.options", {"a" * 600: "1"}),
        ("quantization.operators", {str(n): 1 for n in range(1001)}),
        ("quantization.operators", {"MatMul": -1}),
        ("quantization.answers", [ANSWER] * 101),
        ("quantization.answers", [{**ANSWER, "quantized": "a" * 70_000}]),
        ("quantization.quality", {**QUALITY, "top1": 1.5}),
        ("quantization.quality", {**QUALITY, "tokens": -1}),
        ("quantization.quality", {**QUALITY, "kl_interval": [0.1]}),
        ("quantization.quality", {**QUALITY, "kl_tail": 1e301}),
        ("quantization.quality", {**QUALITY, "kl_max": "large"}),
        ("quantization.quality", {**QUALITY, "tasks": {**TASKS, "agreed": -1}}),
        ("quantization.quality", {**QUALITY, "tasks": {"tasks": 1}}),
        ("quantization.tasks", [TASK] * 101),
        ("quantization.tasks", [{**TASK, "quantized": "a" * 70_000}]),
        ("quantization.tried", [TRIED] * 33),
        ("quantization.tried", [{**TRIED, "excused": ["x"] * 33}]),
        ("quantization.tried", [{**TRIED, "excused": ["a\nb"]}]),
        ("quantization.tried", [{**TRIED, "memory_bytes": -1}]),
        ("quantization.tried", [{**TRIED, "exceeded": ["x"] * 33}]),
        ("quantization.tokenizer", {**TOKENIZER, "texts_differing": -1}),
        ("quantization.tokenizer", {"texts": 1}),
        ("context_length", 0),
        ("context_length", 2**62),
        ("memory_bytes", -1),
        ("memory_bytes", 2**60),
        ("settings.listen", "anywhere"),
        ("settings.listen", "0.0.0.0:70000"),
        ("settings.listen", "[80]:80"),
        ("settings.threads", -5),
        ("settings.threads", 1025),
        ("settings.max_tokens", 0),
        ("settings.max_tokens", 2**40),
        ("settings.status_interval_s", 0),
        ("settings.status_interval_s", 1e300),
        ("settings.min_tokens_per_s", -1),
        ("settings.min_tokens_per_s", 1e300),
        ("built_with", {str(n): "1" for n in range(65)}),
        ("built_with", {"edgepack": "1\n2"}),
        ("probe", {"prompt": "a" * 70_000, "tokens": []}),
        ("probe", {"prompt": "a", "tokens": [-1]}),
        ("probe", {"prompt": "a", "tokens": [1] * 5000}),
        ("embedding", {**EMBEDDING, "dimensions": 0}),
        ("embedding", {**EMBEDDING, "dimensions": 2**16 + 1}),
        ("embedding", {**EMBEDDING, "vocabulary": 0}),
        ("embedding", {**EMBEDDING, "vocabulary": 2**31 + 1}),
        ("embedding", {**EMBEDDING, "max_tokens": 0}),
        ("embedding", {**EMBEDDING, "memory_bytes": -1}),
        ("embedding", {**EMBEDDING, "model": None}),
        ("embedding", {**EMBEDDING, "model": {**FACTS, "name": "a\x1b[2J"}}),
        ("reasoning", {**REASONING, "begin": ""}),
        ("reasoning", {**REASONING, "end": "a\x1b[2J"}),
        ("reasoning", {**REASONING, "begin_tokens": []}),
        ("reasoning", {**REASONING, "end_tokens": [1] * 65}),
        ("reasoning", {**REASONING, "argument": "a %}{% b"}),
        ("reasoning", {**REASONING, "on": "'high'"}),
        ("reasoning", {**REASONING, "off": 2**40}),
        ("trust", {"add": ["x" * 3000]}),
        ("trust", {"add": ["x"] * 17}),
        ("trust", {"revoke": ["nobody"]}),
        ("trust", {"revoke": ["0" * 64] * 17}),
        ("sbom.size", -1),
        ("sbom.compression", "zstd"),
        ("records.0.mode", 0o4755),
        ("records.0.size", 2**33),
        ("records.0.sha256", ""),
        ("records.0.sha256", "g" * 64),
        ("records.0.blob.sha256", "../" + "0" * 61),
        ("records.0.blob.size", -1),
        ("records.2.mode", 0o644),
    ],
)
def test_value_out_of_bounds(tmp_path: Path, where: str, value: Any) -> None:
    refused_text(tmp_path, changed(where, value), "manifest is not valid")


@pytest.mark.parametrize(
    "path",
    [
        "manifest.json",
        "manifest.sig",
        "sbom.cdx.json",
        "runtime",
        "models/a",
        "model/" + "é" * 255,
        "model/" + "/".join(["a" * 100] * 6),
        "model/" + "a/" * 32 + "b",
        "model/a\u202eb",
        "model/a\u200bb",
    ],
)
def test_path_that_no_release_has(tmp_path: Path, path: str) -> None:
    """What verifies can be installed: names of the release itself, and names that no disk takes."""
    refused_text(tmp_path, changed("records.0.path", path), "manifest is not valid")


def test_half_of_a_character_as_a_path(tmp_path: Path) -> None:
    for half in (rb"\ud800", rb"\udfff"):
        text = schema.encode(draft().manifest).replace(b'"runtime/edgepack-runtime"', b'"' + half)
        refused_text(tmp_path, text, "manifest is not valid")


def test_more_folders_than_a_runtime_has(tmp_path: Path) -> None:
    """A manifest of 4 MB could make 1.7 million folders."""
    links = [
        Record(
            path=f"runtime/{number}/" + "d/" * 28 + "l", component="runtime", mode=0o777, link="x"
        )
        for number in range(6000)
    ]
    path = draft().with_records(*links).write(tmp_path / "b.epk")
    refused(path, "more than 5000 folders")


def test_more_bytes_than_any_device_has(tmp_path: Path) -> None:
    size = 8**11 - 1
    big = [
        Record(
            path=f"model/{number}",
            component="model",
            mode=0o644,
            size=size,
            sha256="0" * 64,
            blob=Blob(sha256="0" * 64, size=size),
        )
        for number in range(40)
    ]
    good = draft()
    encoded = schema.encode(good.with_records(*big).manifest)
    refused_text(tmp_path, encoded, "the release is larger than")


NESTED = {
    "lists": b"[" * 400_000,
    "closed lists": b"[" * 400_000 + b"]" * 400_000,
    "objects": b'{"a":' * 400_000,
    "both": b'[{"a":' * 400_000,
    "in a field": b'{"new":' + b"[" * 400_000 + b"]" * 400_000 + b"}",
    "a little": b"[" * 33 + b"]" * 33,
    "brackets in an endless text": b'"' + b'\\"[' * 1_300_000,
    "many texts": b'""' * 2_000_000,
    "many": b"[" + b"[]," * 1_300_000 + b"[]]",
    "many objects": b"[" + b"{}," * 1_300_000 + b"{}]",
}


@pytest.mark.parametrize("text", NESTED.values(), ids=NESTED.keys())
def test_json_without_a_bottom(tmp_path: Path, text: bytes) -> None:
    refused_text(tmp_path, text, "manifest is not valid")


def test_brackets_in_a_text_are_not_levels(tmp_path: Path) -> None:
    text = changed("model.name", '[[\\"' + "{" * 200 + "\\")
    path = tmp_path / "b.epk"
    path.write_bytes(tar(with_manifest(draft().members(), text)))
    with open_bundle(path) as bundle:
        bundle.verify()


def test_name_twice_in_an_object(tmp_path: Path) -> None:
    """Of two values, one reader takes the first and another the last."""
    text = schema.encode(draft().manifest)
    twice = text.replace(b'"sequence": 1', b'"sequence": 9, "sequence": 1')
    refused_text(tmp_path, twice, "'sequence' is there twice")
    hidden = text.replace(b'"sequence": 1', b'"sequence": 9, "sequ\\u0065nce": 1')
    refused_text(tmp_path, hidden, "'sequence' is there twice")
    deep = text.replace(b'"threads": 1', b'"threads": 1, "threads": 2')
    refused_text(tmp_path, deep, "'threads' is there twice")


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1" * 5000])
def test_number_that_is_none(tmp_path: Path, number: bytes) -> None:
    text = schema.encode(draft().manifest)
    known = text.replace(b'"status_interval_s": 10.0', b'"status_interval_s": ' + number)
    refused_text(tmp_path, known, "manifest is not valid")


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1" * 5000])
def test_number_that_is_none_in_an_unknown_field(tmp_path: Path, number: bytes) -> None:
    text = b'{"new": ' + number + b"," + schema.encode(draft().manifest).lstrip(b"{\n")
    refused_text(tmp_path, text, "manifest is not valid")


@pytest.mark.parametrize("signature", [b"garbage", b"\0", b"{}", b"[" * 400_000])
def test_signature_that_is_none(tmp_path: Path, signature: bytes) -> None:
    """The rules of a true one are in `test_signature.py`."""
    members = draft().members()
    members[2] = (members[2][0], signature)
    path = tmp_path / "b.epk"
    path.write_bytes(tar(members))
    refused(path, "the signature is")


def with_blob(stored: bytes, content: bytes, size: int | None = None) -> Draft:
    """A draft with one more file, compressed."""
    good = draft()
    blob = Blob(sha256=bundles.digest(stored), size=len(stored), compression="zstd")
    good.blobs[blob.sha256] = stored
    return good.with_records(
        Record(
            path="model/more",
            component="model",
            mode=0o644,
            size=len(content) if size is None else size,
            sha256=bundles.digest(content),
            blob=blob,
        )
    )


def test_frame_that_says_another_size_than_the_manifest(tmp_path: Path) -> None:
    content = b"content" * 1000
    other = zstandard.compress(content + b"more")
    refused(with_blob(other, content).write(tmp_path / "b.epk"), "model/more is damaged")
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(content)
    refused(with_blob(silent, content).write(tmp_path / "c.epk"), "model/more is damaged")


def test_frame_that_needs_more_memory_than_a_device_has(tmp_path: Path) -> None:
    content = os.urandom(100) * 600
    parameters = zstandard.ZstdCompressionParameters(window_log=27, compression_level=1)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=len(content))
    stored = writer.compress(content) + writer.flush()
    frame = bytearray(stored)
    # Not a single segment: the window is in the header, whatever the length of the content.
    frame[4:5] = bytes([frame[4] & ~0x20, (27 - 10) << 3])
    assert zstandard.get_frame_parameters(bytes(frame)).window_size == 1 << 27
    refused(with_blob(bytes(frame), content).write(tmp_path / "b.epk"), "model/more is damaged")


def test_frame_with_a_dictionary(tmp_path: Path) -> None:
    content = b"content" * 1000
    samples: list[bytes | bytearray | memoryview[int]] = [
        os.urandom(50) * 4 + str(number).encode() for number in range(1000)
    ]
    trained = zstandard.train_dictionary(2000, samples)
    stored = zstandard.ZstdCompressor(dict_data=trained).compress(content)
    refused(with_blob(stored, content).write(tmp_path / "b.epk"), "model/more is damaged")


def test_bomb_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    bomb = zstandard.compress(bytes(1 << 24))
    path = with_blob(bomb, b"", size=1 << 30).write(tmp_path / "b.epk")
    refused(path, f"'model/more' is {1 << 30} bytes from a blob of {len(bomb)}")


def fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [fifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_not_a_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "b.epk"
    make(path)
    refused(path, "not a file")


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_settings_have_the_bounds_of_the_options_that_they_set(name: str) -> None:
    def bounds(kind: inspect.Type) -> tuple[Any, Any]:
        return getattr(kind, "ge", None), getattr(kind, "le", None)

    kind = inspect.type_info(Settings)
    assert isinstance(kind, inspect.StructType)
    field = next(field for field in kind.fields if field.name == name)
    for option in OPTIONS.values():
        if option.setting == name:
            assert bounds(field.type) == bounds(option.kind)
