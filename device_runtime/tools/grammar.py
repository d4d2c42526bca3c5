"""Grammars for answers that call tools, in llguidance's dialect of Lark.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from device_runtime.json_schema.grammar import loose_rules
from device_runtime.tools.definition import Tools
from device_runtime.tools.dialect import Dialect
from device_runtime.tools.syntax import PYTHON_TAG

ANSWER = "answer"
"""Name of the rule for an answer without calls."""

_JSON_PART = re.compile(r'"[^"]*"(?:: )?|, |.')
"""Parts of JSON as the rules of a schema write them. A call without a marker begins as an answer
of a form may, and of two texts of which one begins the other the lexer knows only the longer."""

MAX_CALLS = 8
"""Maximum number of calls in an answer."""


class CallGrammar(NamedTuple):
    """A grammar, and what it leaves out.

    Attributes:
        text: the grammar.
        ignored: paths of the keywords that are not enforced: the tool's name, and the path within
            its parameters, as in `get_weather.properties.days.uniqueItems`.
    """

    text: str
    ignored: tuple[str, ...]


def grammar(dialect: Dialect, request: Tools, answer: Sequence[str] = ()) -> CallGrammar:
    """Write the grammar of an answer.

    If calls are not required, the answer is text, or text and then, from a marker on, calls whose
    arguments conform to their schemas, as far as those are supported. An answer of a form of its
    own stands in place of text, and has no calls after it.

    Args:
        dialect: dialect of the model.
        request: the request's tools, at least one.
        answer: rules for an answer without calls, from the rule `ANSWER` on; none for any text.
    """
    syntax = dialect.syntax
    rules = []
    ignored: list[str] = []
    for number, tool in enumerate(request.tools):
        arguments, paths = loose_rules(tool.parameters, f"args_{number}")
        ignored += [tool.name + path.removeprefix("$") for path in paths]
        head, tail = _literal(dialect, syntax.head(tool.name)), _literal(dialect, syntax.tail)
        if answer and not syntax.marker:
            head = " ".join(map(json.dumps, _JSON_PART.findall(syntax.head(tool.name))))
        rules.append(f"call_{number}: {head} args_{number} {tail}")
        rules += arguments
    rules.append("call: " + " | ".join(f"call_{number}" for number in range(len(request.tools))))
    calls = "call"
    if request.parallel and not syntax.single:
        calls += f" ({_literal(dialect, syntax.between)} call){{0,{MAX_CALLS - 1}}}"
    begin = _literal(dialect, syntax.begin.removeprefix(syntax.marker))
    rules.append(f"rest: {begin} {calls} {_literal(dialect, syntax.end)}")
    text = "\n".join([*rules, *_start(dialect, request, answer)]) + "\n"
    return CallGrammar(text, tuple(ignored))


def _start(dialect: Dialect, request: Tools, answer: Sequence[str]) -> list[str]:
    marker, special = dialect.syntax.marker, dialect.special
    if request.required:
        return [f"start: {_literal(dialect, marker)} rest"]
    tag = f"<[{special[PYTHON_TAG]}]>?" if PYTHON_TAG in special and not marker else ""
    if answer:
        calls = f"{tag} {_literal(dialect, marker)} rest"
        return [f"start: {ANSWER} | {calls}", *answer]
    anything = "TEXT: /(?s:.+)/"
    if marker in special:
        return [f"start: TEXT? ({_literal(dialect, marker)} rest)?", anything]
    if marker:
        until = f"until[lazy]: /(?s:.*)/ {json.dumps(marker)}"
        return ["start: (TEXT | until rest)?", anything, until]
    names = "|".join(re.escape(tool.name) for tool in request.tools)
    call = rf'/\s*\{{\s*"name"\s*:\s*"({names})"(?s:.*)/'
    return [f"start: (TEXT | {tag} rest)?", f"{anything} & ~{call}"]


def _literal(dialect: Dialect, text: str) -> str:
    """Write a text for a grammar; special tokens in it are written by their ids."""
    special = dialect.special
    parts = re.split("(" + "|".join(map(re.escape, special)) + ")", text) if special else [text]
    return " ".join(
        f"<[{special[part]}]>" if part in special else json.dumps(part) for part in parts if part
    )
