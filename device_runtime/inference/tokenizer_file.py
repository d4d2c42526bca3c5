"""What is read from tokenizer.json, the file of Hugging Face tokenizers; some families have none.

Its vocabulary writes the bytes of a token, which may be only a part of a character, in one of two
alphabets:

- byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM): each byte is a printable character of its own;
- SentencePiece (Llama 2, Mistral, Gemma, Phi-3): plain text with U+2581 for a space, and `<0x0A>`
  for a byte that is no whole character.
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
    """All but the vocabulary, which takes long to read."""

    normalizer: _Normalizer | None = None
    added_tokens: tuple[_AddedToken, ...] = ()


class _Whole(msgspec.Struct):
    model: _Model = msgspec.field(default_factory=_Model)
    decoder: _Part | None = None
    added_tokens: tuple[_AddedToken, ...] = ()


_FORMS = ("NFC", "NFD", "NFKC", "NFKD")

S = TypeVar("S", _Small, _Whole)


def normal_form(tokenizer: Path) -> Literal["NFC", "NFD", "NFKC", "NFKD"] | None:
    """The Unicode form that a tokenizer wants its text in; ONNX Runtime GenAI leaves that to us."""
    found = _read(tokenizer, _Small).normalizer
    for each in (found, *found.normalizers) if found is not None else ():
        if each.type in _FORMS:
            return cast(Literal["NFC", "NFD", "NFKC", "NFKD"], each.type)
    return None


def special_tokens(tokenizer: Path) -> dict[str, int]:
    """Text and number of the tokens that are left out when an answer is decoded."""
    found = _read(tokenizer, _Small).added_tokens
    return {token.content: token.id for token in found if token.special}


class TokenBytes:
    """Looks up tokens of one tokenizer; reads its file at the first question."""

    def __init__(self, tokenizer: Path) -> None:
        """Args: tokenizer: the model's tokenizer.json."""
        self._path = tokenizer
        self._table: dict[int, bytes] | None = None

    def __getitem__(self, token: int) -> bytes:
        """The token's bytes; empty for a number that the tokenizer does not have."""
        if self._table is None:
            self._table = _table(self._path)
        return self._table.get(token, b"")


def _read(path: Path, kind: type[S]) -> S:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return kind()


def _table(path: Path) -> dict[int, bytes]:
    found = _read(path, _Whole)
    vocabulary = found.model.vocab
    if isinstance(vocabulary, list):
        vocabulary = {text: number for number, (text, _) in enumerate(vocabulary)}
    decoders = (found.decoder, *found.decoder.decoders) if found.decoder is not None else ()
    byte_level = any(part.type == "ByteLevel" for part in decoders)
    bytes_of = _byte_level if byte_level else _sentence_piece
    table = {number: bytes_of(text) for text, number in vocabulary.items()}
    return table | {token.id: token.content.encode() for token in found.added_tokens}


def _byte_level(text: str) -> bytes:
    return b"".join(_ALPHABET.get(letter) or letter.encode() for letter in text)


def _sentence_piece(text: str) -> bytes:
    if byte := _BYTE.fullmatch(text):
        return bytes([int(byte[1], 16)])
    return text.replace("\u2581", " ").encode()


def _alphabet() -> dict[str, bytes]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others begin at U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    shown = {chr(byte): bytes([byte]) for byte in printable}
    return shown | {chr(256 + number): bytes([byte]) for number, byte in enumerate(others)}


_ALPHABET = _alphabet()
