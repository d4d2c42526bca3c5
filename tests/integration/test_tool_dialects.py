"""Prompts with tools, as the template engine of ONNX Runtime GenAI writes them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.families.templates import GEMMA, LLAMA2
from tests.support.tool_model import TEMPLATES, TOOLS, WEATHER, ToolModel

CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "It's 'quoted'."},
    {"role": "user", "content": "Weather in Paris, and the time?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_0123456789",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Pâris"}'},
            },
            {
                "id": "call_9876543210",
                "type": "function",
                "function": {"name": "clock-2", "arguments": "{}"},
            },
        ],
    },
    {"role": "tool", "tool_call_id": "call_0123456789", "content": '{"sun": "2 h"}'},
    {"role": "tool", "tool_call_id": "call_9876543210", "content": "noon"},
    {"role": "user", "content": "And tomorrow?"},
]


@pytest.fixture(scope="module")
def tiny(tiny_onnx: Path) -> ToolModel:
    return ToolModel(tiny_onnx)


families = pytest.mark.parametrize("family", TEMPLATES)


@families
def test_prompt_of_a_later_turn_has_tools_calls_and_results(tiny: ToolModel, family: str) -> None:
    prompt = tiny.render(TEMPLATES[family], CONVERSATION, TOOLS)
    described = WEATHER.definition["function"]
    shown = "".join(prompt.split())
    for part in (described["description"], described["parameters"]):
        assert "".join(json.dumps(part, ensure_ascii=False).split()) in shown
    order = [
        "It's 'quoted'.",
        "Weather in Paris, and the time?",
        "get_weather",
        '{"city": "Pâris"}',
        "2 h",
        "noon",
        "And tomorrow?",
    ]
    at = 0
    for part in order:
        assert part in prompt[at:], (part, prompt)
        at = prompt.index(part, at)


def test_families_write_calls_as_models_do(tiny: ToolModel) -> None:
    prompts = {
        family: tiny.render(template, CONVERSATION, TOOLS) for family, template in TEMPLATES.items()
    }
    call = '{"name": "get_weather", "arguments": {"city": "Pâris"}'
    assert f"<tool_call>\n{call}}}\n</tool_call>" in prompts["hermes"]
    assert f"<tool_call>\n{call}}}\n</tool_call>" in prompts["plain"]
    assert f'[TOOL_CALLS] [{call}, "id": ' in prompts["mistral"]
    assert '[TOOL_CALLS]get_weather[ARGS]{"city": "Pâris"}' in prompts["mistral-args"]
    assert f"<|tool_call|>[{call}}}, " in prompts["phi4"]
    assert "<|tool_response|>noon<|end|>" in prompts["phi4"]
    assert '{"name": "get_weather", "parameters": {"city": "Pâris"}}<|eot_id|>' in prompts["llama"]


def test_llama_gets_a_result_after_each_of_several_calls(tiny: ToolModel) -> None:
    prompt = tiny.render(TEMPLATES["llama"], CONVERSATION, TOOLS)
    parts = ['"get_weather", "parameters"', "2 h", '"clock-2", "parameters"', "noon"]
    places = [prompt.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize("template", [GEMMA, LLAMA2], ids=["gemma", "llama2"])
def test_templates_that_want_alternating_turns_take_tools_and_results(
    tiny: ToolModel, template: str
) -> None:
    conversation = CONVERSATION if template is LLAMA2 else CONVERSATION[1:]
    prompt = tiny.render(template, conversation, TOOLS)
    places = [
        prompt.index(part)
        for part in ("<tools>", "Weather in", '<tool_call>\n{"name": "clock-2"', "noon", "And tom")
    ]
    assert places == sorted(places)


@families
def test_earlier_calls_are_shown_where_no_tools_are_given(tiny: ToolModel, family: str) -> None:
    prompt = tiny.render(TEMPLATES[family], CONVERSATION, ())
    assert "It's the weather" not in prompt
    assert '{"city": "Pâris"}' in prompt
