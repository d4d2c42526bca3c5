"""The bytes of tokens, from both alphabets of tokenizer.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from device_runtime.inference.tokenizer_file import TokenBytes


def table(folder: Path, content: dict[str, Any]) -> TokenBytes:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content))
    return TokenBytes(path)


def test_byte_level(tmp_path: Path) -> None:
    found = table(
        tmp_path,
        {
            "model": {"vocab": {"Ġhello": 0, "Ã": 1, "©": 2, "Ċ": 3}},
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]},
            "added_tokens": [{"id": 4, "content": "<|im_end|>"}],
        },
    )
    assert [found[token] for token in range(6)] == [
        b" hello",
        b"\xc3",
        b"\xa9",
        b"\n",
        b"<|im_end|>",
        b"",
    ]


@pytest.mark.parametrize("listed", [False, True])
def test_sentence_piece(tmp_path: Path, listed: bool) -> None:
    tokens = ["▁the", "<0xE2>", "é"]
    vocab: Any = dict(zip(tokens, range(3), strict=True))
    if listed:
        vocab = [[token, -1.5] for token in tokens]
    found = table(tmp_path, {"model": {"vocab": vocab}, "decoder": {"type": "Fuse"}})
    assert [found[token] for token in range(3)] == [b" the", b"\xe2", "é".encode()]


def test_every_byte_of_the_byte_level_alphabet(tiny_hf: Path) -> None:
    """The tiny model's vocabulary is three special tokens and the 256 bytes."""
    found = TokenBytes(tiny_hf / "tokenizer.json")
    assert sorted(found[token] for token in range(3, 259)) == [bytes([n]) for n in range(256)]


def test_tokenizer_without_such_a_file(tmp_path: Path) -> None:
    assert TokenBytes(tmp_path / "tokenizer.json")[5] == b""
