"""How the families of models write calls of tools.

From the families' published chat templates and model cards:

- Hermes (Qwen2.5, Qwen3, SmolLM2-1.7B), one object in each pair of marks:
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
    """How calls are written.

    Attributes:
        marker: what no ordinary text has, and calls begin with; empty where calls are the answer.
        begin: before the first call, marker included.
        between: between two calls.
        end: after the last call.
        closing: the last part of `end` that a model may leave out.
        arguments: name of the arguments beside the call's name; empty for `name[ARGS]{...}`.
        single: one call an answer is all the family knows.
    """

    marker: str
    begin: str
    between: str
    end: str
    closing: str = ""
    arguments: str = "arguments"
    single: bool = False

    def head(self, name: str) -> str:
        """What is before a call's arguments."""
        return f'{{"name": "{name}", "{self.arguments}": ' if self.arguments else f"{name}[ARGS]"

    @property
    def tail(self) -> str:
        """What is after a call's arguments."""
        return "}" if self.arguments else ""

    def written(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """Calls, as they are in OpenAI's messages, as the model would write them."""
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
"""What Llama may put before a call."""

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
"""What may be a special token, which decoders leave out of the text."""


def recognized(template: str) -> tuple[Syntax, bool]:
    """Tell from a chat template the syntax, and whether it writes tools itself."""
    native = _takes_tools(template)
    if "<|/tool|>" in template:
        return PHI4, native
    if native and MISTRAL.marker in template:
        if "[ARGS]" in template:
            return MISTRAL_ARGS, True
        return (MISTRAL if MISTRAL.begin in template else MISTRAL_CLOSE), True
    # Later Qwens write XML between the same marks; they are given the Hermes form to follow.
    if native and HERMES.marker in template and "<function=" not in template:
        return HERMES, True
    if native and re.search(r"[\"']parameters\\?[\"']: ", template):
        return LLAMA, True
    return HERMES, False


def _takes_tools(template: str) -> bool:
    """Whether a template reads the variable `tools`, which is not a message's field."""
    for block in re.findall(r"(?s)\{[{%].*?[%}]\}", template):
        code = re.sub(r"(?s)'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", "''", block)
        if re.search(r"(?<![\w.])tools(?!\w)", code):
            return True
    return False


def read_arguments(text: str) -> Any:
    """Arguments as an object; what is none stays as it was written."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, dict) else text


def to_json(value: object) -> str:
    """JSON with letters as they are, as `tojson` writes it."""
    return json.dumps(value, ensure_ascii=False)
