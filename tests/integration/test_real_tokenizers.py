"""Tokenizers and templates of real models: on the device, all texts are what transformers reads."""

import pytest

from device_runtime.tokenizer.tokenizer import Tokenizer
from packager.genai import odd_texts
from packager.jobs.compare_tokenizers import CompareTokenizers
from packager.jobs.job import Work
from tests.support import real_tokenizers

pytestmark = [pytest.mark.slow, pytest.mark.requires("npm")]

LINES = "def f():\n    a = 1\n    \n    return a\n"


@pytest.mark.parametrize("model", real_tokenizers.MODELS)
def test_odd_texts_and_conversations_are_read_as_transformers_reads_them(model: str) -> None:
    job = CompareTokenizers(folder=real_tokenizers.fetch(model), trust_remote_code=False)
    compared = job.run(Work())
    counts = compared.counts
    assert (counts.texts, counts.texts_differing) == (odd_texts.TEXTS, 0)
    assert counts.conversations_differing == 0
    assert (compared.example, compared.left_out) == ("", ())


@pytest.mark.parametrize("model", ["qwen3", "llama3", "llama3_1", "deepseek_v3"])
def test_blank_line_with_spaces_is_one_token(model: str) -> None:
    tokenizer = Tokenizer(real_tokenizers.fetch(model))
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode(LINES, special=False)]
    assert "\n    \n" in pieces
    assert "".join(pieces) == LINES


def test_runs_of_spaces_of_gemma_are_spaces() -> None:
    tokenizer = Tokenizer(real_tokenizers.fetch("gemma3"))
    for token in range(138, 168):
        text = tokenizer.decode([token])
        assert text == " " * len(text)
        assert tokenizer.bytes_of(token) == text.encode()
