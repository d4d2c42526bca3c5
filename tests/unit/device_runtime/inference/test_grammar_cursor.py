"""Where an answer stands in its grammar: what may come next, and what must."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from device_runtime.errors import EngineError
from device_runtime.inference import grammar_cursor
from device_runtime.inference.engine import Guidance
from device_runtime.inference.grammar_cursor import GrammarCursor, Grammars
from device_runtime.tokenizer import tokenizer as tokenizers

MERGES = [
    *(("h", "e"), ("l", "l"), ("ll", "o"), ("he", "llo"), ("Ġ", "hello"), ("Ã", "©"), ("1", "2")),
]
END, OTHER_END, START = "<|im_end|>", "<|endoftext|>", "<|im_start|>"


class Model:
    """A tokenizer of bytes and some words, and the grammars for it."""

    def __init__(self, folder: Path) -> None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        merged = ["".join(pair) for pair in MERGES]
        vocabulary = {text: number for number, text in enumerate([*alphabet, *merged])}
        own = Tokenizer(models.BPE(vocab=vocabulary, merges=MERGES))
        own.normalizer = normalizers.NFC()
        own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        own.decoder = decoders.ByteLevel()
        own.add_special_tokens([AddedToken(text) for text in (END, OTHER_END, START)])
        own.save(str(folder / "tokenizer.json"))
        self.tokenizer = tokenizers.Tokenizer(folder)
        self.end, self.other_end = self.id(END), self.id(OTHER_END)
        # Models have more logits than tokens.
        self.vocabulary = self.id(START) + 30
        self.grammars = Grammars(
            self.tokenizer, vocabulary=self.vocabulary, end_tokens=(self.end, self.other_end)
        )

    def id(self, text: str) -> int:
        number = self.tokenizer.id_of(text)
        assert number is not None
        return number

    def cursor(self, *rules: str) -> GrammarCursor:
        data = "\n".join(rules) + "\n"
        return self.grammars.compile(Guidance(kind="lark_grammar", data=data))

    def scores(self, *liked: str) -> np.ndarray:
        """Those texts before all others, in this order."""
        scores = np.zeros(self.vocabulary, np.float32)
        for place, text in enumerate(liked):
            scores[self.id(text)] = 100 - place
        return scores

    def write(self, cursor: GrammarCursor, *liked: str) -> bytes:
        """A whole answer."""
        text = b""
        for _ in range(100):
            tokens = cursor.forced() or [cursor.choose(self.scores(*liked))]
            for token in tokens:
                if token in (self.end, self.other_end):
                    return text
                assert token not in self.tokenizer.special
                text += self.tokenizer.bytes_of(token)
        raise AssertionError(text)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(tmp_path_factory.mktemp("tokens"))


def test_certain_text_comes_in_the_tokens_of_the_tokenizer(model: Model) -> None:
    cursor = model.cursor('start: "hello" /[0-9]/ " hello"')
    assert cursor.forced() == [model.id("hello")]
    assert cursor.forced() == []
    assert cursor.choose(model.scores("7")) == model.id("7")
    assert cursor.forced() == [model.id("Ġhello"), model.end]


def test_best_of_the_tokens_that_may_come_is_taken(model: Model) -> None:
    cursor = model.cursor("start: /[0-9]+/")
    assert cursor.choose(model.scores("x", "hello", "12", "1")) == model.id("12")
    assert cursor.choose(model.scores("x", START, "3")) == model.id("3")


def test_answer_that_may_end_can_with_each_end_token(model: Model) -> None:
    for text in (END, OTHER_END):
        cursor = model.cursor("start: /[0-9]+/")
        cursor.choose(model.scores("1"))
        assert cursor.forced() == []
        assert cursor.choose(model.scores(text)) == model.id(text)


def test_answer_that_must_go_on_does_not_end(model: Model) -> None:
    cursor = model.cursor("start: /[0-9]{2}/")
    assert cursor.choose(model.scores(END, OTHER_END, "1")) == model.id("1")
    cursor.choose(model.scores("2"))
    assert cursor.forced() == [model.end]


def test_token_that_alone_fits_is_forced_by_its_number_too(model: Model) -> None:
    cursor = model.cursor(f"start: <[{model.id(START)}]> /[ab]/")
    assert cursor.forced() == [model.id(START)]
    assert cursor.choose(model.scores("b", "a")) == model.id("b")


def test_copy_goes_its_own_way(model: Model) -> None:
    first = model.cursor('start: "hello" | "12"')
    second = first.copy()
    assert model.write(first, "hello") == b"hello"
    assert model.write(second, "12") == b"12"


@pytest.mark.parametrize(
    "text",
    [
        *("<|im_end|>", "a <|im_start|>b", "é", "日本 😀", "\u2028"),
        "e\u0301 and \u212b",  # the tokenizer normalizes both
    ],
)
def test_certain_text_is_written_as_it_is(model: Model, text: str) -> None:
    literal = json.dumps(text, ensure_ascii=False)
    assert model.write(model.cursor(f"start: {literal}")).decode() == text
    assert model.write(model.cursor(f'start: /[0-9]/ {literal} "!"'), "1").decode() == f"1{text}!"


def test_characters_that_begin_with_the_same_byte(model: Model) -> None:
    for liked, text in (("©", "é"), ("¤", "ä")):
        assert model.write(model.cursor('start: "é" | "ä"'), liked).decode() == text


def test_space_before_a_text_is_not_forced(tmp_path: Path) -> None:
    """SentencePiece puts one before each text."""
    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abc", "ab", "▁a"]
    own = Tokenizer(
        models.BPE(
            vocab={text: number for number, text in enumerate(words)},
            merges=[("a", "b"), ("▁", "a")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    own.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    own.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    own.add_special_tokens(["<unk>", "</s>"])
    own.save(str(tmp_path / "tokenizer.json"))
    tokenizer = tokenizers.Tokenizer(tmp_path)
    grammars = Grammars(tokenizer, vocabulary=len(words), end_tokens=(1,))
    cursor = grammars.compile(Guidance(kind="lark_grammar", data='start: "abc a"\n'))
    assert cursor.forced() == [*(words.index(text) for text in ("ab", "c", "▁a")), 1]


def test_schemas_and_regular_expressions(model: Model) -> None:
    schema = json.dumps({"const": "hello"})
    cursor = model.grammars.compile(Guidance(kind="json_schema", data=schema))
    assert json.loads(model.write(cursor)) == "hello"
    cursor = model.grammars.compile(Guidance(kind="regex", data="(12){3}"))
    assert model.write(cursor) == b"121212"


@pytest.mark.parametrize("grammar", ['start: ) "secret"', "start: missing", "secret", ""])
def test_grammar_that_does_not_compile(
    model: Model, grammar: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.ERROR, grammar_cursor.log.name),
        pytest.raises(EngineError, match="rejected the response grammar") as caught,
    ):
        model.cursor(grammar)
    assert "report it" in caught.value.hint
    assert "<state>" not in str(caught.value)
    [line] = [line for line in caplog.records if line.message == "grammar_rejected"]
    assert "secret" not in str(vars(line))


def test_grammar_that_turns_out_too_much_is_an_error_and_no_end(model: Model) -> None:
    cursor = model.cursor("start: /[0-9]{2}/")
    with pytest.raises(EngineError, match="rejected the response grammar"):
        cursor._take([model.id("hello")])
    with pytest.raises(EngineError):
        cursor.forced()
