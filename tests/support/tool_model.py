"""Tools for tests, and a model of ONNX Runtime GenAI that is given them."""

import json
from pathlib import Path
from typing import Any

import jsonschema

from device_runtime.inference.genai_model import GenAIModel
from device_runtime.tokenizer.files import DEFAULT, end_tokens, named_tokens
from device_runtime.tokenizer.templates import ChatTemplates
from device_runtime.tools.call_parser import CallArguments, CallStarted, Text, ToolCallParser
from device_runtime.tools.definition import Tool
from device_runtime.tools.dialect import Dialect
from tests.support import guided, tool_templates

TEMPLATES = {
    "hermes": tool_templates.HERMES,
    "llama": tool_templates.LLAMA,
    "mistral": tool_templates.MISTRAL,
    "mistral-args": tool_templates.MISTRAL_ARGS,
    "phi4": tool_templates.PHI4,
    "plain": tool_templates.CHATML,
}
WEATHER = Tool(
    name="get_weather",
    description='It\'s the weather <now> & "here"',
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "unit": {"enum": ["C", "°F"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
)
CLOCK = Tool(name="clock-2", description="The time")
TOOLS = (WEATHER, CLOCK)

CALL = {"function": {"name": "get_weather", "arguments": '{"city": "Paris", "unit": "C"}'}}
NOON = {"function": {"name": "clock-2", "arguments": "{}"}}


class ToolModel:
    """A model that is kept to a grammar."""

    def __init__(self, folder: Path) -> None:
        self.model = GenAIModel(folder, context_length=4096, threads=1)
        self.tokenizer = self.model.tokenizer
        self.tokens = named_tokens(folder)
        self.end_tokens = end_tokens(folder)

    def render(self, template: str, messages: list[dict[str, Any]], tools: tuple[Tool, ...]) -> str:
        dialect = Dialect.of(template)
        native = dialect.native and tools
        return ChatTemplates({DEFAULT: template}, self.tokens).render(
            dialect.messages(messages, tools),
            [tool.definition for tool in tools] if native else None,
        )

    def pieces(
        self, dialect: Dialect, rules: str, prompt: str, *, seed: int | None, tokens: int = 400
    ) -> tuple[list[str], bool]:
        """The answer's pieces, and whether it came to its end."""
        shown = dialect.shown
        stream = self.tokenizer.stream()
        pieces = []
        token = -1
        for token in guided.answer(self.model, rules, prompt, tokens, seed=seed):
            if token not in self.end_tokens:
                pieces.append(shown[token] if token in shown else stream.push(token))
        return pieces, token in self.end_tokens

    def follows(self, rules: str, wanted: list[int]) -> list[int]:
        """The tokens that come when those are wanted, as far as they are allowed."""
        decoder = guided.decoder(self.model, rules, "Hi", len(wanted) + 1)
        given = []
        for token in wanted:
            given.append(decoder.next(token))
            if given[-1] != token:
                break
        return given


def calls_of(
    dialect: Dialect, pieces: list[str], tools: tuple[Tool, ...] = TOOLS
) -> tuple[str, list[tuple[str, str]]]:
    names = [tool.name for tool in tools]
    parser = ToolCallParser(dialect, names, guided=True)
    events = [event for piece in pieces for event in parser.push(piece)] + parser.finish()
    text = "".join(event.text for event in events if isinstance(event, Text))
    called = [event.name for event in events if isinstance(event, CallStarted)]
    arguments = [""] * len(called)
    for event in events:
        if isinstance(event, CallArguments):
            arguments[event.index] += event.delta
    return text, list(zip(called, arguments, strict=True))


def check(calls: list[tuple[str, str]]) -> None:
    schemas = {tool.name: tool.parameters for tool in TOOLS}
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), schemas[name])


def allowed(model: ToolModel, rules: str, text: str, end: int | None = None) -> bool:
    """Whether a grammar lets the model answer with a text, and end then."""
    wanted = model.tokenizer.encode(text, special=False)
    wanted.append(model.end_tokens[0] if end is None else end)
    return model.follows(rules, wanted) == wanted
