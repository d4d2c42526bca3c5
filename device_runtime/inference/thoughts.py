"""The thoughts of a model: told from its answer, kept to a budget, and free of its guidance."""

import json
from collections.abc import Container
from enum import Enum, auto

import msgspec

from device_runtime.inference.engine import Guidance, Thinking
from device_runtime.inference.stop_strings import overlap

_SINGLE = "\udc80"
"""Stands for a marker that is one token: decoded text has no surrogates."""


class Stage(Enum):
    """Part of an answer: nothing yet, thoughts, white space after them, or text."""

    BEFORE = auto()
    THOUGHTS = auto()
    AFTER = auto()
    ANSWER = auto()

    @classmethod
    def of(cls, thinking: Thinking | None, prompt_end: str) -> "Stage":
        """Return the stage in which an answer begins.

        Args:
            thinking: the model's thoughts; None if they are not told from the answer.
            prompt_end: end of the prompt, special tokens included.
        """
        prompt_end = prompt_end.rstrip()
        if thinking is None or prompt_end.endswith(thinking.end):
            return cls.ANSWER
        return cls.THOUGHTS if prompt_end.endswith(thinking.begin) else cls.BEFORE


class ThoughtReader:
    """Tells the thoughts of one answer from its text.

    White space around thoughts is dropped, and so is a second end of them, which a model may write
    that did not end them itself.

    Attributes:
        tokens: number of tokens of the thoughts so far, markers included.

    Args:
        thinking: the model's thoughts; None to take all as text.
        stage: the stage in which the answer begins.
    """

    def __init__(self, thinking: Thinking | None, stage: Stage) -> None:
        self.tokens = 0
        self._thinking = thinking
        self._stage = stage if thinking is not None else Stage.ANSWER
        self._held = ""
        self._has_thoughts = False
        self._length = 0
        self._ending = 0

    @property
    def forced(self) -> int | None:
        """The token that must come next because the budget is spent; None for any."""
        thinking = self._thinking
        if thinking is None or thinking.budget is None or self._stage is not Stage.THOUGHTS:
            return None
        spent = self._length >= thinking.budget
        return thinking.end_tokens[self._ending % len(thinking.end_tokens)] if spent else None

    def push(self, token: int, text: str) -> tuple[str, str]:
        """Take the next token and its text; return the thoughts and the text certain now."""
        if self._stage is Stage.ANSWER:
            return "", text
        self._ending = self._ending + 1 if token == self.forced else 0
        self._length += self._stage is Stage.THOUGHTS
        self.tokens += self._stage is not Stage.AFTER
        tokens, _ = self._marker
        self._held += _SINGLE if tokens == (token,) else text
        thoughts = ""
        while True:
            before, marker, after = self._held.partition(self._marker[1])
            if marker and self._stage is Stage.THOUGHTS:
                thoughts += self._more(before)
                self._stage, self._held = Stage.AFTER, after
            elif marker and not before.strip():
                self._stage = Stage.THOUGHTS if self._stage is Stage.BEFORE else Stage.AFTER
                self._held = after
            else:
                break
        if self._stage is Stage.THOUGHTS:
            certain = self._held[: len(self._held) - overlap(self._held, self._marker[1])].rstrip()
            self._held = self._held[len(certain) :]
            return thoughts + self._more(certain), ""
        start = self._held.lstrip()
        if self._marker[1].startswith(start):
            return thoughts, ""
        answer = self._held if self._stage is Stage.BEFORE else start
        if self._stage is Stage.BEFORE:
            self.tokens = 0
        self._stage, self._held = Stage.ANSWER, ""
        return thoughts, answer

    def rest(self) -> tuple[str, str]:
        """Return the thoughts and the text still held back when the answer ends."""
        held, self._held = self._held, ""
        if self._stage is Stage.THOUGHTS:
            return self._more(held), ""
        if self._stage is Stage.BEFORE:
            self.tokens = 0
            return "", held
        return "", held.lstrip()

    @property
    def _marker(self) -> tuple[tuple[int, ...], str]:
        """Tokens and text of the marker that may come next."""
        assert self._thinking is not None
        if self._stage is Stage.BEFORE:
            tokens, text = self._thinking.begin_tokens, self._thinking.begin
        else:
            tokens, text = self._thinking.end_tokens, self._thinking.end
        return tokens, _SINGLE if len(tokens) == 1 else text

    def _more(self, text: str) -> str:
        """Return the next thoughts without white space at their beginning and end."""
        text = text.rstrip() if self._has_thoughts else text.strip()
        self._has_thoughts = self._has_thoughts or bool(text)
        return text


def after_thoughts(
    guidance: Guidance | None, thinking: Thinking | None, stage: Stage, special: Container[int]
) -> Guidance | None:
    """Bind the answer by a grammar, and leave the thoughts before it free.

    Args:
        guidance: constraint on the answer, a grammar; None for none.
        thinking: the model's thoughts; None if they are not told from the answer.
        stage: the stage in which the answer begins.
        special: the model's special tokens, which a grammar does not take for text.
    """
    if guidance is None or thinking is None or stage is Stage.ANSWER:
        return guidance
    if stage is Stage.BEFORE and not thinking.expected:
        return guidance
    begin = _written(thinking.begin, thinking.begin_tokens, special)
    end = _written(thinking.end, thinking.end_tokens, special)
    lines = [
        f"start: {'' if stage is Stage.THOUGHTS else begin} thoughts SPACE? answer",
        r"SPACE: /\s{1,4}/",
        f"answer: %lark {{\n{guidance.data}}}",
    ]
    if end.startswith("<"):
        lines += [f"thoughts: TEXT? {end}", "TEXT: /(?s:.+)/"]
    else:
        lines += [f"thoughts[lazy]: /(?s:.*)/ {end}"]
    return msgspec.structs.replace(guidance, data="\n".join(lines) + "\n")


def _written(text: str, tokens: tuple[int, ...], special: Container[int]) -> str:
    """Write a marker for a grammar: as tokens, or as text where any tokens may make it up."""
    if len(tokens) == 1 or any(token in special for token in tokens):
        return " ".join(f"<[{token}]>" for token in tokens)
    return json.dumps(text, ensure_ascii=False)
