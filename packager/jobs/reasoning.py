"""Find how a model's chat template switches thinking, and what its thoughts stand between.

Templates do not declare it: conversations are rendered with the arguments that publishers use, by
the engine that renders them on the device, and compared.
"""

from collections.abc import Mapping
from pathlib import Path

from device_runtime.bundle.reasoning import Reasoning, Value
from device_runtime.errors import RequestError
from device_runtime.tokenizer.files import chat_templates, template_for
from device_runtime.tokenizer.templates import ChatTemplates
from device_runtime.tokenizer.tokenizer import Tokenizer

MARKERS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
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
_MESSAGES = ({"role": "user", "content": "a"},)


def find(folder: Path) -> Reasoning | None:
    """Describe the thoughts of the model in an ONNX GenAI folder; None if it has none."""
    template = template_for(chat_templates(folder), tools=False)
    markers = next((pair for pair in MARKERS if _has(template, *pair)), None)
    if markers is None:
        return None
    templates = ChatTemplates.of(folder)
    plain = _render(templates, {})
    if plain is None:
        return None
    argument: str | None = None
    on: Value | None = None
    off: Value | None = None
    thinking, default = plain, True
    for name, yes, no in SWITCHES:
        thoughtful, terse = (_render(templates, {name: value}) for value in (yes, no))
        if thoughtful is None or terse is None or thoughtful == terse:
            continue
        # A template that takes any word for an effort leaves it to the model, which knows no none.
        any_word = _render(templates, {name: _WORD}) or ""
        argument, on, thinking = name, yes, thoughtful
        off = None if _WORD in any_word else no
        default = off is None or plain != terse
        break
    begin, end = markers
    tokenizer = Tokenizer(folder)
    return Reasoning(
        begin=begin,
        end=end,
        begin_tokens=tuple(tokenizer.encode(begin, special=False)),
        end_tokens=tuple(tokenizer.encode(end, special=False)),
        opened=thinking.rstrip().endswith(begin),
        argument=argument,
        on=on,
        off=off,
        default=default,
    )


def _has(template: str, begin: str, end: str) -> bool:
    """Return whether a template has thoughts between two markers; some write only their end."""
    return begin in template or (end in template and "think" in end.lower())


def _render(templates: ChatTemplates, arguments: Mapping[str, Value]) -> str | None:
    """Render a question; None if the template refuses it."""
    try:
        return templates.render(_MESSAGES, arguments=arguments)
    except RequestError:
        return None
