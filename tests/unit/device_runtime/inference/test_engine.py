"""Stop strings in a stream."""

from hypothesis import given
from hypothesis import strategies as st

from device_runtime.inference.engine import Usage
from device_runtime.inference.stop_strings import StopStrings

SHORT = st.text("ab", max_size=30)


def streamed(pieces: list[str], *stops: str) -> str:
    matcher = StopStrings(stops)
    shown = ""
    for piece in pieces:
        text, stopped = matcher.push(piece)
        shown += text
        if stopped:
            return shown
    return shown + matcher.rest()


@given(pieces=st.lists(SHORT), stop=st.text("ab", min_size=1, max_size=5))
def test_pieces_give_the_text_before_the_stop(pieces: list[str], stop: str) -> None:
    assert streamed(pieces, stop) == "".join(pieces).partition(stop)[0]


@given(pieces=st.lists(SHORT))
def test_without_stop_strings_nothing_is_held_back(pieces: list[str]) -> None:
    matcher = StopStrings(())
    assert [matcher.push(piece) for piece in pieces] == [(piece, False) for piece in pieces]


def test_only_what_may_become_a_stop_is_held_back() -> None:
    matcher = StopStrings(("END", "\n\n"))
    assert matcher.push("text E") == ("text ", False)
    assert matcher.push("N") == ("", False)
    assert matcher.push("O\n") == ("ENO", False)
    assert matcher.push("\nmore") == ("", True)
    assert matcher.rest() == ""


def test_speed_needs_two_tokens() -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=11, first_token_s=1, decode_s=2)
    assert usage.tokens_per_s == 5.0
    short = Usage(prompt_tokens=1, completion_tokens=1, first_token_s=1, decode_s=0)
    assert short.tokens_per_s is None
