"""A model's tokenizer, in the library that transformers uses for it.

ONNX Runtime GenAI has a tokenizer of its own, which gives other tokens than the model was trained
with: for Llama 2 in a fifth of odd texts, for others where white space of several kinds meets.
"""

import codecs
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers

from device_runtime.errors import EngineError

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")

_BEFORE = "\x02"
"""A character that no token has beside others."""


class Tokenizer:
    """A tokenizer, read from tokenizer.json.

    Its vocabulary writes the bytes of a token, which may be only a part of a character, in one of
    two encodings:

    - byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM): each byte is a printable character of its own;
    - SentencePiece (Llama 2, Mistral, Gemma, Phi-3): plain text with U+2581 for a space, and
      `<0x0A>` for a byte that is not a whole character.

    Attributes:
        special: ids of the special tokens, which texts omit.
    """

    def __init__(self, folder: Path) -> None:
        """Read the tokenizer of a model folder.

        Raises:
            EngineError: there is none, or it is damaged.
        """
        path = folder / "tokenizer.json"
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise EngineError(
                f"the tokenizer {path} does not load: {error}",
                hint="edgepack-runtime doctor reports what is missing or damaged.",
            ) from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        added = self._tokenizer.get_added_tokens_decoder()
        self.special = frozenset(number for number, token in added.items() if token.special)
        decoders = _decoders(self._tokenizer.decoder)
        self._byte_level = any(part["type"] == "ByteLevel" for part in decoders)
        self._strips = any(
            part["type"] == "Strip" or part.get("prepend_scheme", "never") != "never"
            for part in decoders
        )
        # SentencePiece puts a space before a text, unless there is another text before it.
        self._before = _BEFORE if self._spells(self.encode("a", special=False)) != b"a" else ""

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Encode a text into tokens.

        Args:
            text: the text; special tokens in it count as such.
            special: put the tokens around it that the model expects around plain text.
        """
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def encode_inside(self, text: str) -> list[int] | None:
        """Encode a part of a text, as it stands after something else, where no token is special.

        Returns:
            The tokens; None if the tokenizer has none for just this text: it takes a part of it
            for a special token, or changes its characters.
        """
        before = self.encode(self._before, special=False)
        tokens = self.encode(self._before + text, special=False)[len(before) :]
        exact = self._spells(tokens) == text.encode() and self.special.isdisjoint(tokens)
        return tokens if exact else None

    def decode(self, tokens: list[int]) -> str:
        """Decode tokens into text, without special tokens and incomplete characters."""
        stream = self.stream()
        return "".join(map(stream.push, tokens))

    def stream(self, *, continues: bool = False, shown: Iterable[int] = ()) -> "TextStream":
        """Create a decoder that takes one token at a time.

        Args:
            continues: keep the space with which SentencePiece writes the first word of a text.
            shown: special tokens that are part of the text.
        """
        hidden = self.special.difference(shown)
        return TextStream(self, hidden, strips=self._strips and not continues)

    def id_of(self, text: str) -> int | None:
        """Return the id of the token with this text; None if there is none."""
        number: int | None = self._tokenizer.token_to_id(text)
        return number

    def bytes_of(self, token: int) -> bytes:
        """Return a token's bytes; empty for an id that the tokenizer does not have."""
        text = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        if self._byte_level:
            # A token that was added to the vocabulary is plain text.
            plain = any(letter not in _ALPHABET for letter in text)
            return text.encode() if plain else bytes(_ALPHABET[letter] for letter in text)
        if byte := _BYTE.fullmatch(text):
            return bytes([int(byte[1], 16)])
        return text.replace("\u2581", " ").encode()

    def _spells(self, tokens: list[int]) -> bytes:
        return b"".join(map(self.bytes_of, tokens))


class TextStream:
    """A decoder of one text."""

    def __init__(self, tokenizer: Tokenizer, hidden: frozenset[int], *, strips: bool) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._strips = strips
        self._characters = codecs.getincrementaldecoder("utf-8")("ignore")

    def push(self, token: int) -> str:
        """Take the next token; return the characters that are whole now."""
        if token in self._hidden:
            return ""
        text = self._characters.decode(self._tokenizer.bytes_of(token))
        if text and self._strips:
            self._strips = False
            text = text.removeprefix(" ")
        return text


def _decoders(decoder: Any) -> list[dict[str, Any]]:
    """Describe the steps of a decoder, which tokenizers writes as JSON."""
    if decoder is None:
        return []
    state: dict[str, Any] = json.loads(decoder.__getstate__())
    steps: list[dict[str, Any]] = state.get("decoders", [state])
    return steps


def _alphabet() -> dict[str, int]:
    """Build GPT-2's alphabet: printable bytes map to themselves, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    shown = {chr(byte): byte for byte in printable}
    return shown | {chr(256 + number): byte for number, byte in enumerate(others)}


_ALPHABET = _alphabet()
