"""The syntaxes in which model families write tool calls.

From the families' published chat templates and model cards:

- Hermes (Qwen2.5, Qwen3, SmolLM2-1.7B), one object in each pair of tags:
  `<tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>`
- Llama 3.1, 3.2: `{"name": ..., "parameters": {...}}` is the whole answer
- Mistral: `[TOOL_CALLS] [{"name": ..., "arguments": {...}}]`; newer ones
  `[TOOL_CALLS]name[ARGS]{...}` for each call
- Phi-4-mini: `<|tool_call|>[{"name": ..., "arguments": {...}}]<|/tool_call|>`
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Syntax:
    """The syntax of calls.

    Attributes:
        marker: start of calls, which ordinary text never contains; empty if calls are the whole
            answer.
        begin: text before the first call, marker included.
        between: text between two calls.
        end: text after the last call.
        closing: last part of `end`, which a model may omit.
        arguments: JSON key of the arguments; empty for `name[ARGS]{...}`.
        single: whether the family supports only one call per answer.
    """

    marker: str
    begin: str
    between: str
    end: str
    closing: str = ""
    arguments: str = "arguments"
    single: bool = False

    def head(self, name: str) -> str:
        """Return the text before a call's arguments."""
        return f'{{"name": "{name}", "{self.arguments}": ' if self.arguments else f"{name}[ARGS]"

    @property
    def opening(self) -> str:
        """Text that calls begin with: the marker, or the beginning of an object."""
        return self.marker or '{"name": "'

    @property
    def tail(self) -> str:
        """The text after a call's arguments."""
        return "}" if self.arguments else ""

    def write(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """Write calls of OpenAI's messages as the model would."""
        texts = []
        for call in calls:
            function = call["function"]
            arguments = read_arguments(function["arguments"])
            text = arguments if isinstance(arguments, str) else to_json(arguments)
            texts.append(self.head(function["name"]) + text + self.tail)
        return self.begin + self.between.join(texts) + self.end


HERMES = Syntax(
    marker="<tool_call>",
    begin="<tool_call>\n",
    between="\n</tool_call>\n<tool_call>\n",
    end="\n</tool_call>",
    closing="</tool_call>",
)
LLAMA = Syntax(marker="", begin="", between="; ", end="", arguments="parameters", single=True)
MISTRAL = Syntax(marker="[TOOL_CALLS]", begin="[TOOL_CALLS] [", between=", ", end="]")
MISTRAL_CLOSE = Syntax(marker="[TOOL_CALLS]", begin="[TOOL_CALLS][", between=", ", end="]")
MISTRAL_ARGS = Syntax(
    marker="[TOOL_CALLS]", begin="[TOOL_CALLS]", between="[TOOL_CALLS]", end="", arguments=""
)
PHI4 = Syntax(
    marker="<|tool_call|>",
    begin="<|tool_call|>[",
    between=", ",
    end="]<|/tool_call|>",
    closing="<|/tool_call|>",
)

PYTHON_TAG = "<|python_tag|>"
"""Optional marker before Llama's calls."""

MARKERS = (
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    PYTHON_TAG,
    "<|tool_call|>",
    "<|/tool_call|>",
)
"""Markers that can be special tokens, which decoders omit from the text."""


def recognize(template: str) -> tuple[Syntax, bool]:
    """Determine the syntax of a chat template, and whether the template writes tools itself."""
    native = _takes_tools(template)
    if "<|/tool|>" in template:
        return PHI4, native
    if native and MISTRAL.marker in template:
        if "[ARGS]" in template:
            return MISTRAL_ARGS, True
        return (MISTRAL if MISTRAL.begin in template else MISTRAL_CLOSE), True
    # Later Qwen models write XML between the same tags; they are instructed to use Hermes.
    if native and HERMES.marker in template and "<function=" not in template:
        return HERMES, True
    if native and re.search(r"[\"']parameters\\?[\"']: ", template):
        return LLAMA, True
    return HERMES, False


def _takes_tools(template: str) -> bool:
    """Return whether a template reads the variable `tools`, which is not a field of a message."""
    for block in re.findall(r"(?s)\{[{%].*?[%}]\}", template):
        code = re.sub(r"(?s)'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", "''", block)
        if re.search(r"(?<![\w.])tools(?!\w)", code):
            return True
    return False


def read_arguments(text: str) -> Any:
    """Decode arguments to an object; other text is returned unchanged."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def to_json(value: object) -> str:
    """Encode JSON without escaping non-ASCII letters, as `tojson` does."""
    return json.dumps(value, ensure_ascii=False)
