"""Find how a model's chat template switches thinking, and what its thoughts stand between.

Templates do not declare it: conversations are rendered with the arguments that publishers use, by
the engine that renders them on the device, and compared.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_runtime.bundle.reasoning import Reasoning, Value, with_arguments
from packager.jobs import chat

MARKERS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
)
"""Texts around the thoughts of models, as their publishers chose them."""

SWITCHES: tuple[tuple[str, Value, Value], ...] = (
    ("enable_thinking", True, False),
    ("thinking", True, False),
    ("thinking_budget", -1, 0),
    ("reasoning_effort", "high", "none"),
)
"""Arguments of chat templates, with their values for thinking and for none."""

_WORD = "unheard"
_MESSAGES = json.dumps([{"role": "user", "content": "a"}])


def find(folder: Path) -> Reasoning | None:
    """Describe the thoughts of the model in an ONNX GenAI folder; None if it has none."""
    import onnxruntime_genai as og

    template = chat.template(folder)
    markers = next((pair for pair in MARKERS if _has(template, *pair)), None)
    if markers is None:
        return None
    tokenizer = og.Tokenizer(str(folder))
    plain = _render(tokenizer, template, {})
    if plain is None:
        return None
    argument: str | None = None
    on: Value | None = None
    off: Value | None = None
    thinking, default = plain, True
    for name, yes, no in SWITCHES:
        thoughtful, terse = (_render(tokenizer, template, {name: value}) for value in (yes, no))
        if thoughtful is None or terse is None or thoughtful == terse:
            continue
        # A template that takes any word for an effort leaves it to the model, which knows no none.
        any_word = _render(tokenizer, template, {name: _WORD}) or ""
        argument, on, thinking = name, yes, thoughtful
        off = None if _WORD in any_word else no
        default = off is None or plain != terse
        break
    begin, end = markers
    return Reasoning(
        begin=begin,
        end=end,
        begin_tokens=tuple(map(int, tokenizer.encode(begin))),
        end_tokens=tuple(map(int, tokenizer.encode(end))),
        opened=thinking.rstrip().endswith(begin),
        argument=argument,
        on=on,
        off=off,
        default=default,
    )


def _has(template: str, begin: str, end: str) -> bool:
    """Return whether a template has thoughts between two markers; some write only their end."""
    return begin in template or (end in template and "think" in end.lower())


def _render(tokenizer: Any, template: str, arguments: Mapping[str, Value]) -> str | None:
    """Render a question; None if the template refuses it or the engine cannot."""
    try:
        return str(
            tokenizer.apply_chat_template(
                _MESSAGES,
                template_str=with_arguments(template, arguments),
                add_generation_prompt=True,
            )
        )
    except RuntimeError:
        return None
