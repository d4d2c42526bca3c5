"""What a GGUF file does not say of its tokenizer, and its family's tokenizer.json does."""

import json
from pathlib import Path
from typing import Any

import pytest

from packager.jobs import gguf_tokenizer


def completed(folder: Path, cut: str, *, kind: str = "gpt2", architecture: str = "llama") -> Any:
    names = ("<s>", "<|endoftext|>", "<|user|>", "</s>")
    content = {
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel"},
        "added_tokens": [{"content": name, "rstrip": False} for name in names],
        "model": {"vocab": {"<s>": 0, "<|user|>": 1, "</s>": 2}, "ignore_merges": False},
    }
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content))
    gguf_tokenizer.complete(folder, architecture=architecture, kind=kind, cut=cut)
    return json.loads(path.read_text())


@pytest.mark.parametrize("cut", ["qwen2", "qwen35", "deepseek-r1-qwen"])
def test_qwen_normalizes(tmp_path: Path, cut: str) -> None:
    assert completed(tmp_path, cut)["normalizer"] == {"type": "NFC"}


@pytest.mark.parametrize("cut", ["llama-bpe", "tekken", "lfm2", "gpt-4o"])
def test_words_that_are_tokens_are_taken_whole(tmp_path: Path, cut: str) -> None:
    tokenizer = completed(tmp_path, cut)
    assert tokenizer["model"]["ignore_merges"] is True
    assert tokenizer["normalizer"] is None


@pytest.mark.parametrize("cut", ["smollm", "starcoder"])
def test_digits_stand_alone(tmp_path: Path, cut: str) -> None:
    digits, words = completed(tmp_path, cut)["pre_tokenizer"]["pretokenizers"]
    assert digits == {"type": "Digits", "individual_digits": True}
    assert (words["type"], words["use_regex"]) == ("ByteLevel", True)


def test_token_that_the_file_does_not_have_is_dropped(tmp_path: Path) -> None:
    names = [token["content"] for token in completed(tmp_path, "gpt-2")["added_tokens"]]
    assert names == ["<s>", "<|user|>", "</s>"]


def test_markup_of_phi_3_swallows_white_space(tmp_path: Path) -> None:
    tokenizer = completed(tmp_path, "default", kind="llama", architecture="phi3")
    strips = {token["content"]: token["rstrip"] for token in tokenizer["added_tokens"]}
    assert strips == {"<s>": False, "<|endoftext|>": False, "<|user|>": True, "</s>": True}


def test_which_ways_are_known() -> None:
    for cut in ("llama-bpe", "qwen2", "smollm", "gpt-2", "tekken"):
        assert gguf_tokenizer.is_known("gpt2", cut)
    for cut in ("", "default", "deepseek-coder", "brand-new"):
        assert not gguf_tokenizer.is_known("gpt2", cut)
        assert gguf_tokenizer.is_known("llama", cut)
    assert gguf_tokenizer.begins_with_bos("llama-bpe")
    assert not gguf_tokenizer.begins_with_bos("qwen2")
