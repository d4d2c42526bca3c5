"""Tokens to text: bytes, streams, special tokens, spaces."""

import json
from pathlib import Path
from typing import Any

import pytest

from device_runtime.errors import EngineError
from device_runtime.tokenizer.tokenizer import Tokenizer

SENTENCE_PIECE = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ],
}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}


def tokenizer(
    folder: Path, tokens: list[str], decoder: dict[str, Any], added: dict[str, bool] | None = None
) -> Tokenizer:
    """One with a vocabulary; added tokens come after it, each special or not."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content = {
        "version": "1.0",
        "truncation": {
            "direction": "Right",
            "max_length": 3,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": None,
        "added_tokens": [
            {"id": len(tokens) + number, "content": text, "special": special, **flags}
            for number, (text, special) in enumerate((added or {}).items())
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [],
            "byte_fallback": True,
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return Tokenizer(folder)


def test_bytes_of_a_byte_level_vocabulary(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, ["Ġhello", "Ã", "©", "Ċ"], BYTE_LEVEL, {"<|im_end|>": True})
    assert [made.bytes_of(token) for token in range(6)] == [
        b" hello",
        b"\xc3",
        b"\xa9",
        b"\n",
        b"<|im_end|>",
        b"",
    ]
    assert made.decode([0, 1, 2, 4, 3]) == " helloé\n"


def test_every_byte_of_the_byte_level_alphabet(tiny_hf: Path) -> None:
    """The tiny model's vocabulary is three special tokens and the 256 bytes."""
    made = Tokenizer(tiny_hf)
    assert sorted(made.bytes_of(token) for token in range(3, 259)) == [
        bytes([n]) for n in range(256)
    ]


def test_added_runs_of_spaces_are_spaces_everywhere(tmp_path: Path) -> None:
    """As Gemma 3 has them: in its vocabulary, and added to it."""
    made = tokenizer(tmp_path, ["▁the", "a"], SENTENCE_PIECE, {"▁▁": False, "▁▁▁": False})
    assert made.decode([1, 3, 0]) == "a    the"
    assert [made.bytes_of(token) for token in (2, 3)] == [b"  ", b"   "]


def test_stream_withholds_a_character_until_it_is_whole(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, ["<0xE2>", "<0x82>", "<0xAC>", "a", "\ufffd"], SENTENCE_PIECE)
    stream = made.stream()
    assert [stream.push(token) for token in (3, 0, 1, 2, 3)] == ["a", "", "", "€", "a"]
    # A wrong byte is left out; the token of U+FFFD itself is text.
    assert [stream.push(token) for token in (1, 3, 4, 3, 0)] == ["", "a", "\ufffd", "a", ""]


def test_first_space_of_an_answer_is_stripped_and_of_a_continued_text_kept(tmp_path: Path) -> None:
    steps = {**SENTENCE_PIECE, "decoders": [*SENTENCE_PIECE["decoders"], STRIP]}
    made = tokenizer(tmp_path, ["▁the"], steps, {"</s>": True})
    assert made.decode([1, 0, 0]) == "the the"
    stream = made.stream(continues=True)
    assert stream.push(0) + stream.push(0) == " the the"


def test_text_is_normalized_and_never_cut(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, ["é", "a"], SENTENCE_PIECE)
    assert made.encode("ae\u0301aaa", special=True) == [1, 0, 1, 1, 1]


def test_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"tokenizer\.json does not load"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(EngineError, match=r"tokenizer\.json does not load"):
        Tokenizer(tmp_path)
