"""What a model's chat template knows of tools, and turns in the form that it takes.

A template that knows no tools gets the Hermes form through a system turn that describes them, so
every chat model can be given tools.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from device_runtime.tools.definition import Tool
from device_runtime.tools.syntax import (
    MARKERS,
    MISTRAL,
    PHI4,
    Syntax,
    read_arguments,
    recognized,
    to_json,
)

Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What a model's chat template knows of tools.

    Attributes:
        syntax: how the model writes calls.
        native: the template takes tools.
        template: the template, for rendering turns with tools.
        system_turn: the template takes a system turn.
        special: numbers of the markers that are special tokens of the model.
        end_tokens: numbers of the tokens that end an answer.
    """

    syntax: Syntax
    native: bool
    template: str
    system_turn: bool = True
    special: Mapping[str, int] = field(default_factory=dict)
    end_tokens: tuple[int, ...] = ()

    @property
    def shown(self) -> dict[int, str]:
        """Numbers and texts of the special tokens that an answer's text must have."""
        return {number: text for text, number in self.special.items()}

    @classmethod
    def of(
        cls,
        template: str,
        *,
        special: Mapping[str, int] | None = None,
        end_tokens: Sequence[int] = (),
    ) -> "Dialect":
        """Recognize the dialect.

        Args:
            template: the model's chat template.
            special: text and number of the model's special tokens.
            end_tokens: the tokens that end an answer, in the order of genai_config.json.
        """
        syntax, native = recognized(template)
        return cls(
            syntax=syntax,
            native=native,
            # ONNX Runtime GenAI rewrites tools (their schemas lose all but a flat list of types)
            # unless the template has these words.
            template="{# tool.function #}" + template,
            system_turn=re.search(r"raise_exception\(\W*system role", template, re.I) is None,
            special={text: (special or {})[text] for text in MARKERS if text in (special or {})},
            end_tokens=tuple(end_tokens),
        )

    def messages(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
        """The turns as the template takes them; each content is a string.

        Args:
            messages: in OpenAI's form, checked.
            tools: what may be called now. A native template gets them beside the messages.
        """
        turns = [{**message, "content": _text(message.get("content"))} for message in messages]
        names = {
            call["id"]: call["function"]["name"]
            for turn in turns
            for call in turn.get("tool_calls") or ()
        }
        for turn in turns:
            if turn["role"] == "tool":
                turn["name"] = names[turn["tool_call_id"]]
        if self.native:
            return self._native(turns)
        described = self._described(turns, tools) if tools else turns
        return _as_phi4(described) if self.syntax is PHI4 else self._as_plain(described)

    def _native(self, turns: list[Message]) -> list[Message]:
        """Arguments as objects, ids of Mistral's length, Llama's one call a turn."""
        of_mistral = self.syntax.marker == MISTRAL.marker
        given: list[Message] = []
        for turn in turns:
            if turn["role"] == "tool" and of_mistral:
                turn["tool_call_id"] = _nine(turn["tool_call_id"])
            calls = [
                {
                    "id": _nine(call["id"]) if of_mistral else call["id"],
                    "type": "function",
                    "function": {
                        "name": call["function"]["name"],
                        "arguments": read_arguments(call["function"]["arguments"]),
                    },
                }
                for call in turn.pop("tool_calls", None) or ()
            ]
            if calls:
                turn["tool_calls"] = calls
            given.append(turn)
        return _one_call_a_turn(given) if self.syntax.single else given

    def _described(self, turns: list[Message], tools: Sequence[Tool]) -> list[Message]:
        """With the tools in the system turn, or in the first turn where there is no such thing."""
        if self.syntax is PHI4:
            text = f"<|tool|>{to_json([tool.definition['function'] for tool in tools])}<|/tool|>"
        else:
            text = _instructions(tools, self.syntax)
        first = turns[0]
        if first["role"] == "system" and self.syntax is PHI4:
            return [{**first, "content": first["content"] + text}, *turns[1:]]
        if first["role"] == "system" or (first["role"] == "user" and not self.system_turn):
            parts = (
                (first["content"], text) if first["role"] == "system" else (text, first["content"])
            )
            return [{**first, "content": "\n\n".join(filter(None, parts))}, *turns[1:]]
        return [{"role": "system" if self.system_turn else "user", "content": text}, *turns]

    def _as_plain(self, turns: list[Message]) -> list[Message]:
        """With the roles that every template knows: results are given by the user."""
        given: list[Message] = []
        after_result = False
        for turn in turns:
            role, content = turn["role"], turn["content"]
            if calls := turn.get("tool_calls"):
                written = self.syntax.written(calls)
                content = f"{content}\n{written}" if content else written
            if role == "tool":
                role = "user"
                content = f"<tool_response>\n{content}\n</tool_response>"
            # Many templates insist that questions and answers alternate.
            if role == "user" and after_result:
                given[-1]["content"] += "\n" + content
            else:
                given.append(_spoken(turn, role, content))
            after_result = role == "user" and (turn["role"] == "tool" or after_result)
        return given


def _instructions(tools: Sequence[Tool], syntax: Syntax) -> str:
    listed = "\n".join(to_json(tool.definition) for tool in tools)
    example = syntax.begin + '{"name": <name>, "arguments": <object>}' + syntax.end
    return (
        "You have these functions, each with the JSON schema of its arguments:\n"
        f"<tools>\n{listed}\n</tools>\n\n"
        "When a function can do what is asked, answer with nothing but its name and its "
        f"arguments, as JSON between these tags:\n{example}"
    )


def _as_phi4(turns: list[Message]) -> list[Message]:
    """Roles are the names of Phi-4's tokens; its template writes no calls."""
    given = []
    for turn in turns:
        role, content = turn["role"], turn["content"]
        if calls := turn.get("tool_calls"):
            content += PHI4.written(calls)
        given.append(_spoken(turn, "tool_response" if role == "tool" else role, content))
    return given


def _spoken(turn: Message, role: str, content: str) -> Message:
    """The turn with another role and content; with its speaker's name, but not with a tool's."""
    named = {"name": turn["name"]} if "name" in turn and turn["role"] != "tool" else {}
    return {"role": role, "content": content, **named}


def _one_call_a_turn(turns: list[Message]) -> list[Message]:
    """Turns with several calls become several, each with its result after it."""
    results = {turn["tool_call_id"]: turn for turn in turns if turn["role"] == "tool"}
    given: list[Message] = []
    for turn in turns:
        calls = turn.get("tool_calls") or ()
        for number, call in enumerate(calls):
            content = "" if number else turn["content"]
            given.append({**turn, "content": content, "tool_calls": [call]})
            if result := results.get(call["id"]):
                given.append(result)
        if not calls and turn["role"] != "tool":
            given.append(turn)
    return given


def _nine(call_id: str) -> str:
    """An id in Mistral's form, nine letters or digits; the same for the same id."""
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(part["text"] for part in content)
    return content if isinstance(content, str) else ""
