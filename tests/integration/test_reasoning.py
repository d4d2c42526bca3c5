"""Models that think, with the real engine: thoughts apart from the answer, bounded, and free."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from device_runtime.api.chat_requests import parse_chat
from device_runtime.api.errors import ApiError
from device_runtime.api.served_model import ServedModel
from device_runtime.bundle.reasoning import Reasoning
from device_runtime.inference.engine import FinishReason, GenerationChunk, GenerationRequest, Usage
from device_runtime.inference.genai_engine import GenAIEngine
from tests.support import releases, thinking_model
from tests.support.commands import edgepack_runtime
from tests.support.serving import Serving

BUDGET = 9
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Zürich", "Paris"]}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "trip", "parameters": SCHEMA}}
THINKING = {"reasoning_effort": "high", "thinking_budget_tokens": BUDGET}
SAMPLED = {"temperature": 1, "seed": 5}


class Thinker:
    """A model of this process."""

    def __init__(self, folder: Path, reasoning: Reasoning) -> None:
        self.reasoning = reasoning
        self._engine = GenAIEngine(folder, context_length=1024, threads=1)
        self._served = ServedModel.of(
            "tiny",
            folder,
            max_tokens=300,
            max_messages=9,
            system_prompt="",
            reasoning=reasoning,
        )

    def chunks(self, **fields: Any) -> list[GenerationChunk]:
        body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
        request = parse_chat(json.dumps(body).encode(), self._served).generation
        return list(self._engine.generate(request, lambda: False))

    def answer(self, **fields: Any) -> tuple[str, str, FinishReason, Usage]:
        chunks = self.chunks(**fields)
        last = chunks[-1]
        assert last.finish_reason is not None
        assert last.usage is not None
        thoughts = "".join(chunk.thoughts for chunk in chunks)
        return thoughts, "".join(chunk.text for chunk in chunks), last.finish_reason, last.usage

    def continued(self, prompt: str, max_tokens: int) -> str:
        request = GenerationRequest(prompt=prompt, max_tokens=max_tokens)
        return "".join(chunk.text for chunk in self._engine.generate(request, lambda: False))


KINDS = {
    "qwen3": (thinking_model.QWEN3, thinking_model.QWEN3_TOKENS),
    "always": (thinking_model.ALWAYS, thinking_model.DEEPSEEK_TOKENS),
    "text": (thinking_model.QWEN3, {}),
    "gemma4": (thinking_model.GEMMA4, thinking_model.GEMMA4_TOKENS),
}
"""Models whose markers are tokens or text, and whose thoughts the prompt opens or does not."""


@pytest.fixture(scope="module", params=KINDS)
def thinker(
    request: pytest.FixtureRequest, tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory
) -> Thinker:
    folder = tmp_path_factory.mktemp("thinker") / "model"
    return Thinker(folder, thinking_model.make(tiny_onnx, folder, *KINDS[request.param]))


@pytest.mark.parametrize("sampling", [{}, SAMPLED])
def test_schema_binds_the_answer_and_not_the_thoughts(
    thinker: Thinker, sampling: dict[str, Any]
) -> None:
    thoughts, text, reason, usage = thinker.answer(**THINKING, response_format=FORMAT, **sampling)
    assert reason == FinishReason.STOP
    assert thoughts
    jsonschema.validate(json.loads(text), SCHEMA)
    markers = len(thinker.reasoning.begin_tokens) + len(thinker.reasoning.end_tokens)
    # A budget that is spent within a character waits for its last byte.
    assert usage.reasoning_tokens <= BUDGET + markers + 3


def test_calls_of_tools_follow_the_thoughts(thinker: Thinker) -> None:
    thoughts, text, reason, _ = thinker.answer(
        **THINKING, tools=[TOOL], tool_choice="required", parallel_tool_calls=False
    )
    assert (bool(thoughts), reason) == (True, FinishReason.STOP)
    assert text.startswith('<tool_call>\n{"name": "trip", "arguments": {"city": ')


def test_without_thinking_the_answer_is_bound_from_its_beginning(thinker: Thinker) -> None:
    if thinker.reasoning.off is None:
        with pytest.raises(ApiError, match="always thinks"):
            thinker.answer(reasoning_effort="none")
        return
    thoughts, text, _, usage = thinker.answer(reasoning_effort="none", response_format=FORMAT)
    assert (thoughts, usage.reasoning_tokens) == ("", 0)
    jsonschema.validate(json.loads(text), SCHEMA)


def test_several_answers_think_and_are_bound(thinker: Thinker) -> None:
    chunks = thinker.chunks(**THINKING, **SAMPLED, response_format=FORMAT, n=3)
    for index in range(3):
        own = [chunk for chunk in chunks if chunk.index == index]
        assert "".join(chunk.thoughts for chunk in own)
        jsonschema.validate(json.loads("".join(chunk.text for chunk in own)), SCHEMA)


@pytest.fixture(scope="module")
def always(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Thinker:
    """A model that the prompt has think in all cases."""
    folder = tmp_path_factory.mktemp("always") / "model"
    return Thinker(folder, thinking_model.make(tiny_onnx, folder, *KINDS["always"]))


def test_model_ends_its_thoughts_itself(always: Thinker) -> None:
    (end,) = always.reasoning.end_tokens
    thoughts, text, _, usage = always.answer(**SAMPLED, logit_bias={str(end): 3.5}, max_tokens=60)
    assert thoughts
    assert text
    assert always.reasoning.end not in thoughts + text
    assert 1 < usage.reasoning_tokens < usage.completion_tokens


def test_thoughts_without_an_end_are_all_there_is(always: Thinker) -> None:
    thoughts, text, reason, usage = always.answer(max_tokens=20)
    assert (len(thoughts), text, reason) == (20, "", FinishReason.LENGTH)
    assert usage.reasoning_tokens == usage.completion_tokens == 20


def test_budget_is_kept_and_the_answer_goes_on_from_there(always: Thinker) -> None:
    long, *_ = always.answer(max_tokens=40)
    thoughts, text, _, usage = always.answer(thinking_budget_tokens=7, max_tokens=40)
    assert thoughts == long[:7]
    assert (len(text), usage.reasoning_tokens) == (32, 8)
    assert always.answer(thinking_budget_tokens=0, max_tokens=40)[0] == ""


def test_answer_after_a_forced_end_is_that_to_a_prompt_with_these_thoughts(
    always: Thinker,
) -> None:
    thoughts, text, *_ = always.answer(thinking_budget_tokens=7, max_tokens=30)
    prompt = f"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n{thoughts}</think>"
    assert always.continued(prompt, max_tokens=22) == text


def test_stop_strings_are_for_the_answer(always: Thinker) -> None:
    thoughts, text, *_ = always.answer(thinking_budget_tokens=7, max_tokens=40)
    assert thoughts[0] != text[0]
    stopped = always.answer(thinking_budget_tokens=7, max_tokens=40, stop=[thoughts[0], text[1]])
    assert stopped[0] == thoughts
    assert stopped[2] == FinishReason.STOP
    assert text.startswith(stopped[1])


def test_log_probabilities_are_those_of_all_tokens(always: Thinker) -> None:
    chunks = always.chunks(thinking_budget_tokens=7, max_tokens=20, logprobs=True)
    tokens = [part.token for chunk in chunks for part in chunk.logprobs]
    assert len(tokens) == 20
    assert tokens[7] == always.reasoning.end_tokens[0]


def test_beam_search_has_thoughts(always: Thinker) -> None:
    thoughts, text, reason, usage = always.answer(num_beams=2, max_tokens=10)
    assert (len(thoughts), text, reason) == (10, "", FinishReason.LENGTH)
    assert usage.reasoning_tokens == 10


@pytest.fixture(scope="module")
def server(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A service whose model thinks in Qwen3's way."""
    folder = tmp_path_factory.mktemp("thinking")
    reasoning = thinking_model.make(tiny_onnx, folder / "model", *KINDS["qwen3"])
    release = releases.release(
        folder / "release",
        folder / "model",
        context_length=2048,
        max_tokens=300,
        reasoning=reasoning,
    )
    with Serving(release.folder) as server:
        yield server


QUESTION: dict[str, Any] = {"role": "user", "content": "Where to?"}
BOUND = {"extra_body": {"thinking_budget_tokens": BUDGET}, "reasoning_effort": "low"}


def test_openai_client_reads_thoughts_whole_and_streamed(client: openai.OpenAI) -> None:
    """Also after the results of tools, where the thoughts come back with the call."""
    calling: Any = {
        "model": "tiny",
        "messages": [QUESTION],
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        **BOUND,
    }
    first = client.chat.completions.create(**calling)
    message = first.choices[0].message
    assert message.model_extra is not None
    thoughts = message.model_extra["reasoning_content"]
    assert (bool(thoughts), message.content) == (True, None)
    assert message.tool_calls
    assert first.usage is not None
    assert first.usage.completion_tokens_details is not None
    assert first.usage.completion_tokens_details.reasoning_tokens == BUDGET + 2
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Rain"}
    answering: Any = {
        "model": "tiny",
        "messages": [QUESTION, message.model_dump(exclude_none=True), result],
        "response_format": FORMAT,
        **BOUND,
    }
    whole = client.chat.completions.create(**answering)
    reasoning = text = ""
    for chunk in client.chat.completions.create(**answering, stream=True):
        delta = chunk.choices[0].delta
        reasoning += (delta.model_extra or {}).get("reasoning_content", "")
        assert not (delta.content and not reasoning)
        text += delta.content or ""
    extra = whole.choices[0].message.model_extra
    assert extra is not None
    assert (reasoning, text) == (extra["reasoning_content"], whole.choices[0].message.content)
    jsonschema.validate(json.loads(text), SCHEMA)


def test_template_decides_on_earlier_thoughts(server: Serving) -> None:
    function = {"name": "trip", "arguments": "{}"}
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "a", "type": "function", "function": function}],
    }
    result = {"role": "tool", "tool_call_id": "a", "content": "Rain"}

    def length(*after: dict[str, Any], **thoughts: str) -> int:
        messages = [QUESTION, {**call, **thoughts}, result, *after]
        body = {"messages": messages, "tools": [TOOL], "max_tokens": 1}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
        return int(answer["usage"]["prompt_tokens"])

    for name in ("reasoning_content", "reasoning"):
        assert length(**{name: "I must ask."}) > length()
        assert length(QUESTION, **{name: "I must ask."}) == length(QUESTION)


def test_effort_that_is_none_has_no_thoughts(server: Serving) -> None:
    answer = server.chat(reasoning_effort="none", response_format=FORMAT, max_tokens=60).json()
    message = answer["choices"][0]["message"]
    assert "reasoning_content" not in message
    jsonschema.validate(json.loads(message["content"]), SCHEMA)


def test_terminal_shows_thoughts_beside_the_answer(tiny_onnx: Path, tmp_path: Path) -> None:
    reasoning = thinking_model.make(tiny_onnx, tmp_path / "model", *KINDS["always"])
    release = releases.release(tmp_path / "release", tmp_path / "model", reasoning=reasoning)
    asked = ("generate", "--release", release.folder, "--max-tokens", "20", "Hi")
    shown = edgepack_runtime(*asked)
    assert (shown.status, shown.out) == (0, "\n"), shown.err
    answer = json.loads(edgepack_runtime(*asked, "--json").out)
    assert (len(answer["thoughts"]), answer["text"]) == (20, "")
    assert shown.err == answer["thoughts"]


def test_ollamas_clients_are_told_that_the_model_thinks(server: Serving) -> None:
    shown = httpx.post(f"{server.url}/api/show", json={"model": "tiny"}, timeout=60).json()
    assert "thinking" in shown["capabilities"]
