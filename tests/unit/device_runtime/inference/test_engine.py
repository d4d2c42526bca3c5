"""Stop strings in a stream."""

from hypothesis import given
from hypothesis import strategies as st

from device_runtime.inference.engine import Usage
from device_runtime.inference.stop_strings import StopStrings

SHORT = st.text("ab", max_size=30)


def streamed(pieces: list[str], *stops: str, free_until: str | None = None) -> str:
    matcher = StopStrings(stops, free_until)
    shown = ""
    for piece in pieces:
        text, stopped = matcher.push(piece)
        shown += text
        if stopped:
            return shown
    return shown + matcher.rest()[0]


@given(pieces=st.lists(SHORT), stop=st.text("ab", min_size=1, max_size=5))
def test_pieces_give_the_text_before_the_stop(pieces: list[str], stop: str) -> None:
    assert streamed(pieces, stop) == "".join(pieces).partition(stop)[0]


@given(pieces=st.lists(SHORT))
def test_without_stop_strings_nothing_is_held_back(pieces: list[str]) -> None:
    matcher = StopStrings(())
    assert [matcher.push(piece) for piece in pieces] == [(piece, False) for piece in pieces]


def test_stop_string_that_ended_the_text_is_known() -> None:
    matcher = StopStrings(("END", "\n\n", "N"))
    assert matcher.push("the \n")[1] is False
    assert matcher.match == ""
    assert matcher.push("\nEND") == ("", True)
    assert matcher.match == "\n\n"


def test_only_what_may_become_a_stop_is_held_back() -> None:
    matcher = StopStrings(("END", "\n\n"))
    assert matcher.push("text E") == ("text ", False)
    assert matcher.push("N") == ("", False)
    assert matcher.push("O\n") == ("ENO", False)
    assert matcher.push("\nmore") == ("", True)
    assert matcher.rest() == ("", False)


@given(
    pieces=st.lists(SHORT),
    stop=st.text("ab", min_size=1, max_size=3),
    free_until=st.text("ab", max_size=4),
)
def test_stops_apply_up_to_the_end_of_the_free_text(
    pieces: list[str], stop: str, free_until: str
) -> None:
    text = "".join(pieces)
    free, rest = text, ""
    if (end := text.find(free_until)) >= 0:
        free, rest = text[:end], text[end:]
    wanted = free.partition(stop)[0] if stop in free else free + rest
    assert streamed(pieces, stop, free_until=free_until) == wanted


def test_stop_that_may_be_the_end_of_the_free_text_is_held_back() -> None:
    matcher = StopStrings(("<",), "<call>")
    assert matcher.push("a <") == ("a ", False)
    assert matcher.push("call>{<}") == ("<call>{<}", False)
    matcher = StopStrings(("<",), "<call>")
    assert matcher.push("a <ca") == ("a ", False)
    assert matcher.rest() == ("", True)


def test_speed_needs_two_tokens() -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=11, first_token_s=1, decode_s=2)
    assert usage.tokens_per_s == 5.0
    short = Usage(prompt_tokens=1, completion_tokens=1, first_token_s=1, decode_s=0)
    assert short.tokens_per_s is None
