"""What is told of a tokenizer before anything is built, and the corpus it is tried on."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_runtime.bundle.quantization import TokenizerComparison
from device_runtime.tokenizer.tokenizer import Tokenizer
from packager.genai import odd_texts, tokenizer_files
from packager.jobs.compare_tokenizers import CompareTokenizers
from packager.jobs.job import JobRefusedError, Work

ROWS = 288
"""Of the tiny model's embedding; its tokenizer has 259 tokens."""
EQUAL = TokenizerComparison(
    texts=odd_texts.TEXTS,
    texts_differing=0,
    conversations=odd_texts.CONVERSATIONS,
    conversations_differing=0,
    tokens_left_out=0,
)


def compare(folder: Path) -> Any:
    return CompareTokenizers(folder=folder, trust_remote_code=False).run(Work())


@pytest.fixture
def larger(tiny_hf: Path, tmp_path: Path) -> Path:
    """The tiny model with two tokens more than its embedding has rows."""
    folder = Path(shutil.copytree(tiny_hf, tmp_path / "larger"))
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    like = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"] += [
        {**like, "content": f"<|{number}|>", "id": number} for number in range(259, ROWS + 2)
    ]
    path.write_text(json.dumps(tokenizer))
    return folder


def test_corpus_is_fixed_and_has_what_is_odd() -> None:
    texts = odd_texts.texts(["<s>", "</s>"])
    assert len(set(texts)) == len(texts) == odd_texts.TEXTS
    assert texts == odd_texts.texts(["<s>", "</s>"])
    everything = "".join(texts)
    for part in (
        "\0",
        "\r\n",
        "\u00a0",
        "e\u0301",
        "\u200d",
        "<s>",
        "世界",
        "עברית",
        "▁▁",
        "\n    \n",
    ):
        assert part in everything
    chats = odd_texts.conversations([])
    assert len(chats) == odd_texts.CONVERSATIONS
    roles = {turn["role"] for chat in chats for turn in chat["messages"]}
    assert roles == {"system", "user", "assistant", "tool"}
    assert any("tools" in chat for chat in chats)
    assert any(turn["content"] == "" for chat in chats for turn in chat["messages"])


def test_nothing_differs(tiny_hf: Path) -> None:
    compared = compare(tiny_hf)
    assert compared.counts == EQUAL
    assert (compared.example, compared.left_out) == ("", ())


def test_difference_is_counted_with_an_example(
    tiny_hf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Tokenizer.encode

    def encode(self: Tokenizer, text: str, *, special: bool) -> list[int]:
        return real(self, text.replace("世", ""), special=special)

    monkeypatch.setattr(Tokenizer, "encode", encode)
    compared = compare(tiny_hf)
    assert 0 < compared.counts.texts_differing < 200
    assert "世" in compared.example


def test_tokens_without_a_row_are_left_out(larger: Path) -> None:
    compared = compare(larger)
    assert compared.left_out == ("<|288|>", "<|289|>")
    assert compared.counts == msgspec.structs.replace(EQUAL, tokens_left_out=2)
    assert tokenizer_files.leave_out(larger, ROWS) == ("<|288|>", "<|289|>")
    tokenizer = Tokenizer(larger)
    assert tokenizer.encode("<|287|>", special=False) == [287]
    assert max(tokenizer.encode("<|289|>", special=False)) < 259


def by_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("<|289|>{{ messages[0].content }}")


def by_name(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "<|289|>"}))


@pytest.mark.parametrize("need", [by_template, by_name])
def test_token_without_a_row_that_is_needed_is_refused(larger: Path, need: Any) -> None:
    need(larger)
    with pytest.raises(JobRefusedError, match=r"needs the tokens <\|289\|>, .* \(it has 288\)"):
        compare(larger)
