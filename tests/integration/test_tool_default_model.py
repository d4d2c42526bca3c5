"""The default model and tools: right calls when it must, and answers with their results."""

from pathlib import Path
from typing import Any

import pytest

from device_runtime.tools.definition import Tools
from device_runtime.tools.dialect import Dialect
from device_runtime.tools.grammar import grammar
from tests.support.tool_model import CALL, TOOLS, ToolModel, calls_of, check


@pytest.fixture(scope="module")
def real(default_model: Path) -> ToolModel:
    return ToolModel(default_model)


@pytest.mark.slow
@pytest.mark.parametrize("named", [False, True], ids=["required", "named"])
def test_default_model_makes_right_calls_when_it_must(
    real: ToolModel, default_model: Path, named: bool
) -> None:
    template = (default_model / "chat_template.jinja").read_text()
    dialect = Dialect.of(template)
    tools = TOOLS[:1] if named else TOOLS
    rules = grammar(dialect, Tools(tools=tools, required=True, parallel=False)).text
    question = [{"role": "user", "content": "What is the weather in Paris, in C?"}]
    prompt = real.render(template, question, tools)
    for seed in (None, *range(10)):
        pieces, ended = real.pieces(dialect, rules, prompt, seed=seed)
        assert ended
        text, calls = calls_of(dialect, pieces)
        assert (text, len(calls)) == ("", 1)
        check(calls)
        assert calls[0][0] == "get_weather" or not named


@pytest.mark.slow
def test_default_model_answers_with_the_result_it_is_given(
    real: ToolModel, default_model: Path
) -> None:
    template = (default_model / "chat_template.jinja").read_text()
    dialect = Dialect.of(template)
    question = [{"role": "user", "content": "What is the weather in Paris, in C?"}]
    made = {"id": "call_1", "type": "function", **CALL}
    later: list[dict[str, Any]] = [
        *question,
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"temperature": 31}'},
    ]
    prompt = real.render(template, later, TOOLS)
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", ' in prompt
    assert '<tool_response>\n{"temperature": 31}\n</tool_response>' in prompt
    assert prompt.endswith("<|im_start|>assistant\n")
    rules = grammar(dialect, Tools(tools=TOOLS)).text
    pieces, _ = real.pieces(dialect, rules, prompt, seed=None, tokens=60)
    text, calls = calls_of(dialect, pieces)
    check(calls)
    assert text or calls
