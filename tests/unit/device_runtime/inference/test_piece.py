"""Pieces of an answer: the first at once, then one every so often, nothing lost."""

from device_runtime.inference.engine import GenerationChunk, TokenLogprob
from device_runtime.inference.piece import PIECE_S, Piece


def test_tokens_in_quick_succession_share_a_chunk() -> None:
    now = 100.0
    piece = Piece(clock=lambda: now)
    chunks = []
    for number in range(1, 11):
        now += PIECE_S / 4 * 1.01
        piece.add("", str(number % 10))
        chunks.append(piece.next_chunk(2, number))
    said = [chunk for chunk in chunks if not chunk.is_empty]
    assert [(chunk.text, chunk.tokens, chunk.index) for chunk in said] == [
        ("1", 1, 2),
        ("2345", 5, 2),
        ("6789", 9, 2),
    ]
    assert piece.text == "0"


def test_slow_tokens_have_a_chunk_each() -> None:
    now = 100.0
    piece = Piece(clock=lambda: now)
    for text in ("a", "b", "c"):
        now += PIECE_S
        piece.add(text, "")
        assert piece.next_chunk(0, 1) == GenerationChunk(thoughts=text, tokens=1)


def test_log_probabilities_come_with_their_token() -> None:
    piece = Piece(clock=lambda: 100.0)
    for number in range(3):
        piece.add("", str(number))
        piece.logprobs = (TokenLogprob(token=number, data=b"", logprob=-1.0),)
        chunk = piece.next_chunk(0, number + 1)
        assert (chunk.text, len(chunk.logprobs)) == (str(number), 1)
    assert piece.logprobs == ()


def test_a_token_without_text_does_not_delay_the_next() -> None:
    piece = Piece(clock=lambda: 100.0)
    piece.add("", "")
    assert piece.next_chunk(0, 1).is_empty
    piece.add("", "é")
    assert piece.next_chunk(0, 2).text == "é"
