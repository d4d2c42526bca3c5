"""Thoughts told from the answer, with tokens that are written down here."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from device_runtime.inference.engine import Guidance, Thinking
from device_runtime.inference.thoughts import Stage, ThoughtReader, after_thoughts

BEGIN, END, OTHER = 101, 102, 5
ONE = Thinking(begin="<think>", end="</think>", begin_tokens=(BEGIN,), end_tokens=(END,))
"""Markers that are tokens of their own."""
MANY = Thinking(begin="<ab>", end="</ab>", begin_tokens=(1, 2, 3), end_tokens=(1, 4, 2, 3))
"""Markers that any tokens may make up."""


def read(
    pieces: list[tuple[int, str]], thinking: Thinking | None = ONE, stage: Stage = Stage.BEFORE
) -> tuple[str, str, int]:
    """Thoughts, text, and the number of tokens of the thoughts."""
    reader = ThoughtReader(thinking, stage)
    parts = [reader.push(token, text) for token, text in pieces] + [reader.rest()]
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts), reader.tokens


def said(*texts: str) -> list[tuple[int, str]]:
    tokens = {"<think>": BEGIN, "</think>": END}
    return [(tokens.get(text, OTHER), text) for text in texts]


def test_thoughts_come_before_the_answer_and_white_space_between_is_dropped() -> None:
    pieces = said("<think>", "\n", "Hm", ".\n", " Yes", "\n", "</think>", "\n\n", "It", " is.\n")
    assert read(pieces) == ("Hm.\n Yes", "It is.\n", 7)


def test_markers_that_decoding_omits_are_known_by_their_tokens() -> None:
    pieces = [(BEGIN, ""), (OTHER, "Hm"), (END, ""), (OTHER, "\n\nYes")]
    assert read(pieces) == ("Hm", "Yes", 3)


def test_marker_spelled_in_other_tokens_is_text() -> None:
    assert read(said("<think>", "a </", "think>", " b", "</think>", "c")) == (
        "a </think> b",
        "c",
        5,
    )
    assert read(said("<th", "ink>", "a")) == ("", "<think>a", 0)


def test_prompt_can_open_the_thoughts_or_close_them() -> None:
    pieces = said("Hm", "</think>", "\n\nYes")
    for end, expected in (
        ("assistant\n<think>\n", ("Hm", "Yes", 2)),
        ("assistant\n<think>\n\n</think>\n\n", ("", "Hm</think>\n\nYes", 0)),
        ("assistant\n", ("", "Hm</think>\n\nYes", 0)),
    ):
        assert read(pieces, ONE, Stage.of(ONE, end)) == expected
    assert read(pieces, None, Stage.of(None, "<think>")) == ("", "Hm</think>\n\nYes", 0)


def test_thoughts_without_an_end_are_all_thoughts() -> None:
    assert read(said("<think>", "Hm", " and", " ")) == ("Hm and", "", 4)
    assert read([(OTHER, "Hm </a")], MANY, Stage.THOUGHTS) == ("Hm </a", "", 1)


def test_answer_without_thoughts_is_untouched() -> None:
    assert read(said(" \n", "Yes", " <think>", "no\n")) == ("", " \nYes <think>no\n", 0)
    assert read(said(" \n")) == ("", " \n", 0)
    assert read(said("Yes", "<think>", "no", "</think>")) == ("", "Yes<think>no</think>", 0)


def test_empty_thoughts_are_none() -> None:
    assert read(said("<think>", "\n\n", "</think>", "\n\n", "Yes")) == ("", "Yes", 3)


def test_second_end_of_thoughts_is_dropped() -> None:
    pieces = said("<think>", "Hm", "</think>", "\n\n", "</think>", "\n\n", "Yes")
    assert read(pieces) == ("Hm", "Yes", 3)
    assert read(said("<think>", "Hm", "</think>", "</think>")) == ("Hm", "", 3)


MARKED = st.text("<>/ab \n", max_size=30)


@given(text=MARKED, data=st.data(), stage=st.sampled_from(Stage))
def test_thoughts_and_text_do_not_depend_on_where_tokens_are_cut(
    text: str, data: st.DataObject, stage: Stage
) -> None:
    text = (
        data.draw(st.sampled_from(["", "<ab>"])) + text + data.draw(st.sampled_from(["", "</ab>x"]))
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    places = [0, *cuts, len(text)]
    pieces = [(OTHER, text[a:b]) for a, b in itertools.pairwise(places)]
    whole = read([(OTHER, text)], MANY, stage)
    assert read(pieces, MANY, stage)[:2] == whole[:2]


@given(thoughts=st.text("<>ab \n", max_size=20), answer=MARKED, data=st.data())
def test_thoughts_are_what_is_between_the_markers(
    thoughts: str, answer: str, data: st.DataObject
) -> None:
    text = f"\n<ab>{thoughts}</ab>{answer}"
    cut = data.draw(st.integers(0, len(text)))
    got = read([(OTHER, text[:cut]), (OTHER, text[cut:])], MANY)
    kept = answer.lstrip()
    while kept.startswith("</ab>"):
        kept = kept.removeprefix("</ab>").lstrip()
    assert got[:2] == (thoughts.strip(), kept)


def forced(thinking: Thinking, stage: Stage, tokens: list[int]) -> list[int | None]:
    reader = ThoughtReader(thinking, stage)
    result = [reader.forced]
    for token in tokens:
        reader.push(token, {1: "<", 2: "ab", 3: ">", 4: "/"}.get(token, "x"))
        result.append(reader.forced)
    return result


def bounded(thinking: Thinking, budget: int) -> Thinking:
    return Thinking(
        begin=thinking.begin,
        end=thinking.end,
        begin_tokens=thinking.begin_tokens,
        end_tokens=thinking.end_tokens,
        budget=budget,
    )


def test_end_is_forced_at_the_budget_token_by_token() -> None:
    assert forced(bounded(ONE, 2), Stage.THOUGHTS, [9, 9, END, 9]) == [None, None, END, None, None]
    assert forced(bounded(ONE, 0), Stage.BEFORE, [BEGIN, END]) == [None, END, None]
    assert forced(bounded(MANY, 1), Stage.THOUGHTS, [9, 1, 4, 2, 3]) == [None, 1, 4, 2, 3, None]
    assert forced(ONE, Stage.THOUGHTS, [9] * 3) == [None] * 4


def test_end_that_a_grammar_delays_is_forced_again() -> None:
    assert forced(bounded(MANY, 1), Stage.THOUGHTS, [9, 9, 1, 9]) == [None, 1, 1, 4, 1]


RULES = Guidance(kind="lark_grammar", data='start: "x"\n')


def test_grammar_is_for_what_follows_the_thoughts() -> None:
    bound = after_thoughts(RULES, ONE, Stage.BEFORE, ())
    assert bound is not None
    assert bound.data.startswith("start: <[101]> thoughts SPACE? answer\n")
    bound = after_thoughts(RULES, MANY, Stage.THOUGHTS, ())
    assert bound is not None
    assert 'thoughts[lazy]: /(?s:.*)/ "</ab>"' in bound.data
    bound = after_thoughts(RULES, MANY, Stage.BEFORE, {2})
    assert bound is not None
    assert bound.data.startswith("start: <[1]> <[2]> <[3]> thoughts SPACE? answer\n")


def test_grammar_is_unchanged_where_nothing_is_thought() -> None:
    quiet = Thinking(begin="<ab>", end="</ab>", begin_tokens=(1,), end_tokens=(2,), expected=False)
    assert after_thoughts(RULES, quiet, Stage.BEFORE, ()) is RULES
    assert after_thoughts(RULES, ONE, Stage.ANSWER, ()) is RULES
    assert after_thoughts(RULES, None, Stage.ANSWER, ()) is RULES
    assert after_thoughts(None, ONE, Stage.BEFORE, ()) is None
