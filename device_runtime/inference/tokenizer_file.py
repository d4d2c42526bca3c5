"""Facts from tokenizer.json, the file of Hugging Face tokenizers; some families have none.

Its vocabulary writes the bytes of a token, which may be only a part of a character, in one of two
encodings:

- byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM): each byte is a printable character of its own;
- SentencePiece (Llama 2, Mistral, Gemma, Phi-3): plain text with U+2581 for a space, and `<0x0A>`
  for a byte that is not a whole character.
"""

import re
from pathlib import Path
from typing import Literal, TypeVar, cast

import msgspec

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class _Part(msgspec.Struct):
    type: str = ""
    decoders: tuple["_Part", ...] = ()


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]] = {}


class _AddedToken(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _Normalizer(msgspec.Struct):
    type: str = ""
    normalizers: tuple["_Normalizer", ...] = ()


class _Small(msgspec.Struct):
    """All but the vocabulary, which is slow to parse."""

    normalizer: _Normalizer | None = None
    added_tokens: tuple[_AddedToken, ...] = ()


class _Whole(msgspec.Struct):
    model: _Model = msgspec.field(default_factory=_Model)
    decoder: _Part | None = None
    added_tokens: tuple[_AddedToken, ...] = ()


_FORMS = ("NFC", "NFD", "NFKC", "NFKD")

S = TypeVar("S", _Small, _Whole)


def normal_form(tokenizer: Path) -> Literal["NFC", "NFD", "NFKC", "NFKD"] | None:
    """Read the tokenizer's Unicode normalization form, which ONNX Runtime GenAI does not apply."""
    outer = _read(tokenizer, _Small).normalizer
    for normalizer in (outer, *outer.normalizers) if outer is not None else ():
        if normalizer.type in _FORMS:
            return cast(Literal["NFC", "NFD", "NFKC", "NFKD"], normalizer.type)
    return None


def special_tokens(tokenizer: Path) -> dict[str, int]:
    """Read text and id of the special tokens, which decoding omits."""
    tokens = _read(tokenizer, _Small).added_tokens
    return {token.content: token.id for token in tokens if token.special}


class TokenBytes:
    """The bytes of a tokenizer's tokens; its file is read at the first lookup.

    Args:
        tokenizer: path of the model's tokenizer.json.
    """

    def __init__(self, tokenizer: Path) -> None:
        self._path = tokenizer
        self._table: dict[int, bytes] | None = None

    def __getitem__(self, token: int) -> bytes:
        """Return a token's bytes; empty for an id that the tokenizer does not have."""
        if self._table is None:
            self._table = _table(self._path)
        return self._table.get(token, b"")


def _read(path: Path, kind: type[S]) -> S:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return kind()


def _table(path: Path) -> dict[int, bytes]:
    tokenizer = _read(path, _Whole)
    vocabulary = tokenizer.model.vocab
    if isinstance(vocabulary, list):
        vocabulary = {text: number for number, (text, _) in enumerate(vocabulary)}
    outer = tokenizer.decoder
    decoders = (outer, *outer.decoders) if outer is not None else ()
    byte_level = any(part.type == "ByteLevel" for part in decoders)
    bytes_of = _byte_level if byte_level else _sentence_piece
    table = {number: bytes_of(text) for text, number in vocabulary.items()}
    return table | {token.id: token.content.encode() for token in tokenizer.added_tokens}


def _byte_level(text: str) -> bytes:
    return b"".join(_ALPHABET.get(letter) or letter.encode() for letter in text)


def _sentence_piece(text: str) -> bytes:
    if byte := _BYTE.fullmatch(text):
        return bytes([int(byte[1], 16)])
    return text.replace("\u2581", " ").encode()


def _alphabet() -> dict[str, bytes]:
    """Build GPT-2's alphabet: printable bytes map to themselves, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    shown = {chr(byte): bytes([byte]) for byte in printable}
    return shown | {chr(256 + number): bytes([byte]) for number, byte in enumerate(others)}


_ALPHABET = _alphabet()
