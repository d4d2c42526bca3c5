"""llm, Simon Willison's command line: the program itself, and its library."""

import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cases
import llm
import openai

# Read when the first model is asked for.
folder = tempfile.mkdtemp()
os.environ["LLM_USER_PATH"] = folder
Path(folder, "extra-openai-models.yaml").write_text(
    f"""
- model_id: edge
  model_name: {cases.MODEL}
  api_base: {cases.V1}
  supports_tools: true
  supports_schema: true
"""
)

model = llm.get_model("edge")


def program(*arguments: str) -> str:
    command = [sys.executable, "-m", "llm", "--model", "edge", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def chat() -> None:
    assert "Paris" in program("--no-stream", cases.QUESTION)


def stream() -> None:
    assert program(cases.QUESTION) == program("--no-stream", cases.QUESTION)
    assert len(list(model.prompt(cases.QUESTION))) > 1


def tools() -> None:
    """The library has no way to demand a call: an earlier one, and its result, are sent back."""
    call = llm.ToolCall(name="get_weather", arguments={"city": "Paris"}, tool_call_id="call_1")
    conversation = model.conversation(tools=[cases.get_weather])
    first = conversation.prompt(cases.WEATHER)
    first.text()
    first.add_tool_call(call)
    result = llm.ToolResult(name="get_weather", output="It rains.", tool_call_id="call_1")
    assert conversation.prompt(tool_results=[result]).text()
    assert model.chain(cases.WEATHER, tools=[cases.get_weather]).text()


def structured() -> None:
    cases.City.model_validate_json(model.prompt("Tell me of Paris.", schema=cases.City).text())


def error() -> None:
    too_long = cases.raises(openai.BadRequestError, lambda: model.prompt(cases.TOO_LONG).text())
    assert too_long.code == "context_length_exceeded"


def abort() -> None:
    watch = cases.Watch()
    pieces = iter(model.prompt(cases.STORY, max_tokens=2000))
    next(pieces)
    pieces.close()
    del pieces
    gc.collect()
    watch.gone()


cases.run(chat, stream, tools, structured, error, abort)
