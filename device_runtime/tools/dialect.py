"""Tool support of a model's chat template, and conversion of turns to the form that it takes.

A template without support for tools gets a system turn that describes them in the Hermes syntax, so
tools work with every chat model.
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
    recognize,
    to_json,
)

Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """Tool support of a model's chat template.

    Attributes:
        syntax: syntax of the model's calls.
        native: whether the template takes tools.
        system_turn: whether the template takes a system turn.
        special: ids of the markers that are special tokens of the model.
    """

    syntax: Syntax
    native: bool
    system_turn: bool = True
    special: Mapping[str, int] = field(default_factory=dict)

    @property
    def shown(self) -> dict[int, str]:
        """Ids and texts of the special tokens that must appear in an answer's text."""
        return {token: text for text, token in self.special.items()}

    @classmethod
    def of(cls, template: str, *, special: Mapping[str, int] | None = None) -> "Dialect":
        """Recognize the dialect.

        Args:
            template: the model's chat template.
            special: ids of the model's special tokens, by text.
        """
        syntax, native = recognize(template)
        return cls(
            syntax=syntax,
            native=native,
            system_turn=re.search(r"raise_exception\(\W*system role", template, re.I) is None,
            special={text: (special or {})[text] for text in MARKERS if text in (special or {})},
        )

    def messages(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
        """Convert messages to the turns that the template takes; only images stay parts.

        Args:
            messages: messages in OpenAI's form, checked.
            tools: tools that may be called now; a native template gets them separately.
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
        """Convert arguments to objects, shorten ids for Mistral, split calls for Llama."""
        is_mistral = self.syntax.marker == MISTRAL.marker
        converted: list[Message] = []
        for turn in turns:
            if turn["role"] == "tool" and is_mistral:
                turn["tool_call_id"] = _mistral_id(turn["tool_call_id"])
            calls = [
                {
                    "id": _mistral_id(call["id"]) if is_mistral else call["id"],
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
            converted.append(turn)
        return _one_call_per_turn(converted) if self.syntax.single else converted

    def _described(self, turns: list[Message], tools: Sequence[Tool]) -> list[Message]:
        """Describe the tools in the system turn, or in the first turn if none is allowed."""
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
            return [{**first, "content": _joined("\n\n", *filter(None, parts))}, *turns[1:]]
        return [{"role": "system" if self.system_turn else "user", "content": text}, *turns]

    def _as_plain(self, turns: list[Message]) -> list[Message]:
        """Use only the roles that every template knows: results come from the user."""
        plain: list[Message] = []
        after_result = False
        for turn in turns:
            role, content = turn["role"], turn["content"]
            if calls := turn.get("tool_calls"):
                text = self.syntax.write(calls)
                content = f"{content}\n{text}" if content else text
            if role == "tool":
                role = "user"
                content = f"<tool_response>\n{content}\n</tool_response>"
            # Many templates require that the roles user and assistant alternate.
            if role == "user" and after_result:
                plain[-1]["content"] = _joined("\n", plain[-1]["content"], content)
            else:
                plain.append(_with_role(turn, role, content))
            after_result = role == "user" and (turn["role"] == "tool" or after_result)
        return plain


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
    """Use Phi-4's token names as roles, and write the calls, which its template does not."""
    converted = []
    for turn in turns:
        role, content = turn["role"], turn["content"]
        if calls := turn.get("tool_calls"):
            content += PHI4.write(calls)
        converted.append(_with_role(turn, "tool_response" if role == "tool" else role, content))
    return converted


def _with_role(turn: Message, role: str, content: Any) -> Message:
    """Copy a turn with another role and content; it keeps its thoughts and its author's name."""
    kept = ("reasoning_content",) if turn["role"] == "tool" else ("name", "reasoning_content")
    return {"role": role, "content": content, **{key: turn[key] for key in kept if key in turn}}


def _one_call_per_turn(turns: list[Message]) -> list[Message]:
    """Split turns with several calls into one turn per call, each followed by its result."""
    results = {turn["tool_call_id"]: turn for turn in turns if turn["role"] == "tool"}
    split: list[Message] = []
    for turn in turns:
        calls = turn.get("tool_calls") or ()
        for number, call in enumerate(calls):
            content = "" if number else turn["content"]
            split.append({**turn, "content": content, "tool_calls": [call]})
            if result := results.get(call["id"]):
                split.append(result)
        if not calls and turn["role"] != "tool":
            split.append(turn)
    return split


def _mistral_id(call_id: str) -> str:
    """Map a call id to Mistral's form, nine letters or digits."""
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _text(content: object) -> object:
    if isinstance(content, list):
        return "".join(part["text"] for part in content)
    return content or ""


def _joined(separator: str, *contents: Any) -> Any:
    """Join contents, each a text or a tuple of texts and images; images stay parts."""
    if all(isinstance(content, str) for content in contents):
        return separator.join(contents)
    parts: list[Any] = []
    for content in contents:
        for part in (content,) if isinstance(content, str) else content:
            if parts and isinstance(part, str) and isinstance(parts[-1], str):
                parts[-1] += separator + part
            else:
                parts.append(part)
    return tuple(parts)
