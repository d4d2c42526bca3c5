"""What a JSON schema cannot say of a request: schemathesis loads this and makes its bodies keep it.

Without it, the bodies that it takes for right would be refused, as they should be: fields that do
not go together, and schemas of answers that cannot be forced.
"""

import json
from typing import Any

import schemathesis
from schemathesis import Case, DeserializationContext, HookContext, Response

SHORT = 3
"""Tokens of an answer; the server under test has the same for requests that say none."""

VOCABULARY = 288
"""Of the tiny model."""


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], **_: Any) -> None:
    if case.meta is None or not isinstance(case.body, dict):
        return
    if case.meta.generation.mode.is_positive:
        # Bodies of other requests have no fields that do not go together.
        change = CHANGES.get(case.operation.path)
        case.body = without_nul(change(case.body) if change else case.body)


@schemathesis.deserializer("application/x-ndjson")
def last_line(context: DeserializationContext, response: Response) -> Any:
    """The line of an answer that has most fields."""
    return json.loads(response.content.splitlines()[-1])


def without_nul(value: Any) -> Any:
    """A decoded JSON value without U+0000, which no text for the model may have."""
    if isinstance(value, str):
        return value.replace("\0", "0")
    if isinstance(value, list):
        return [without_nul(item) for item in value]
    if isinstance(value, dict):
        return {without_nul(name): without_nul(item) for name, item in value.items()}
    return value


def kept(body: dict[str, Any]) -> dict[str, Any]:
    """A body that the schema allows, changed where its fields do not go together."""
    body = dict(body)
    body["max_tokens"] = min(body.get("max_tokens") or SHORT, SHORT)
    body["n"] = min(body.get("n") or 1, 2)
    # Whether a model thinks, and which turns can be continued, a schema does not know.
    for name in ("max_completion_tokens", "enable_thinking", "reasoning_effort",
                 "continue_final_message", "add_generation_prompt"):  # fmt: skip
        body.pop(name, None)
    if bias := body.get("logit_bias"):
        body["logit_bias"] = {str(int(token) % VOCABULARY): add for token, add in bias.items()}
    if (body.get("num_beams") or 1) > 1:
        alone = ("model", "messages", "prompt", "max_tokens", "num_beams", "stop")
        body = {name: body[name] for name in alone if name in body}
    if "messages" in body:
        return body | _chat(body)
    return body | {"prompt": _in_vocabulary(body["prompt"])}


def _in_vocabulary(prompt: Any) -> Any:
    """A prompt, or several, whose token ids the model has; ids and other prompts are not mixed.

    None is the padding of this model: a build has none, but this one comes from the builder alone.
    """
    if isinstance(prompt, list):
        others = [part for part in prompt if not isinstance(part, int | float)]
        return [_in_vocabulary(part) for part in others or prompt]
    # JSON has one type of number: schemathesis writes integers as floats, too.
    is_id = isinstance(prompt, int | float)
    return 1 + int(prompt) % (VOCABULARY - 1) if is_id else prompt


def _chat(body: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {"messages": [_turn(turn) for turn in body["messages"]]}
    if not body.get("logprobs"):
        changes["top_logprobs"] = None
    tools = [_tool(tool, number) for number, tool in enumerate((body.get("tools") or ())[:2])]
    changes["tools"] = tools
    choice = body.get("tool_choice")
    if not tools and choice != "none":
        changes["tool_choice"] = None
    elif isinstance(choice, dict):
        name = tools[0]["function"]["name"]
        changes["tool_choice"] = {"type": "function", "function": {"name": name}}
    wanted = body.get("response_format")
    if wanted is not None:
        form = {"name": "a", "schema": {"type": "object", "properties": {}}}
        changes["response_format"] = None if tools else wanted | {"json_schema": form}
    return changes


def _turn(turn: dict[str, Any]) -> dict[str, Any]:
    """Calls and their results belong together, all fit into the context, and no model sees."""
    role = "user" if turn["role"] == "tool" else turn["role"]
    kept = {"role": role, "content": _texts(turn.get("content") or "")}
    if role == "assistant" and turn.get("tool_calls"):
        kept["tool_calls"] = turn["tool_calls"][:2]
    return kept


def _texts(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [part for part in content if part["type"] not in ("image_url", "input_image")]


def _tool(tool: dict[str, Any], number: int) -> dict[str, Any]:
    """Names differ, what is strict can be forced, and all fit into the context."""
    function = tool["function"] | {"name": f"f{number}"}
    if function.get("strict"):
        function["parameters"] = None
    return tool | {"function": function}


def response(body: dict[str, Any]) -> dict[str, Any]:
    """A request for a response that the schema allows, changed as `kept` does."""
    body = dict(body)
    body["max_output_tokens"] = min(body.get("max_output_tokens") or SHORT, SHORT)
    body.pop("previous_response_id", None)
    if isinstance(body["input"], list):
        # Thoughts alone are nothing to answer.
        asked = {"role": "user", "content": "Hi"}
        body["input"] = [*(_item(item) for item in body["input"]), asked]
    if reasoning := body.get("reasoning"):
        body["reasoning"] = reasoning | {"effort": None}
    tools = [
        tool | {"name": f"f{number}", "strict": None}
        for number, tool in enumerate((body.get("tools") or ())[:2])
    ]
    body["tools"] = tools
    choice = body.get("tool_choice")
    if not tools and choice != "none":
        body["tool_choice"] = None
    elif isinstance(choice, dict):
        body["tool_choice"] = {"type": "function", "name": "f0"}
    if (body.get("text") or {}).get("format"):
        form = {"type": "json_schema", "name": "a", "schema": {"type": "null"}}
        body["text"] = None if tools else {"format": form}
    return body


def _item(item: dict[str, Any]) -> dict[str, Any]:
    """Results have a call before them, and references refer to something: rarely by chance."""
    if item.get("type") in ("function_call_output", "item_reference") or "id" in item:
        return {"role": "user", "content": "Hi"}
    return item | {"content": _texts(item["content"])} if "role" in item else item


def message(body: dict[str, Any]) -> dict[str, Any]:
    """A request for a message that the schema allows, changed as `kept` does."""
    body = {name: value for name, value in body.items() if name != "thinking"}
    if "max_tokens" in body:
        body["max_tokens"] = SHORT
    asked = {"role": "user", "content": "Hi"}
    body["messages"] = [*map(_blocks, body["messages"][:3]), asked]
    if isinstance(body.get("system"), list):
        body["system"] = body["system"][:3]
    body["tools"] = tools = [
        tool | {"name": f"f{number}", "strict": None}
        for number, tool in enumerate((body.get("tools") or ())[:2])
    ]
    choice = body.get("tool_choice")
    if choice and not tools and choice["type"] != "none":
        body["tool_choice"] = None
    elif choice and choice["type"] == "tool":
        body["tool_choice"] = choice | {"name": "f0"}
    if (body.get("output_config") or {}).get("format"):
        form = {"type": "json_schema", "schema": {"type": "null"}}
        body["output_config"] = None if tools else {"format": form}
    return body


def _blocks(turn: dict[str, Any]) -> dict[str, Any]:
    """Results have a call before them: rarely by chance; calls and thoughts are the assistant's."""
    if isinstance(turn["content"], str):
        return turn
    kinds = {"text", "redacted_thinking"}
    if turn["role"] == "assistant":
        kinds |= {"tool_use", "thinking"}
    return turn | {"content": [block for block in turn["content"][:2] if block["type"] in kinds]}


def ollama_request(body: dict[str, Any]) -> dict[str, Any]:
    """A request of Ollama's that the schema allows, changed as `kept` does."""
    body = {name: value for name, value in body.items() if name not in ("think", "raw")}
    body["options"] = (body.get("options") or {}) | {"num_predict": SHORT}
    if not body.get("logprobs"):
        body["top_logprobs"] = None
    if body.get("messages"):
        body["messages"] = [*map(_turn, body["messages"][:3]), {"role": "user", "content": "Hi"}]
    body.pop("images", None)
    if body.get("tools"):
        body["tools"] = [_tool(tool, number) for number, tool in enumerate(body["tools"][:2])]
        body["format"] = None
    if isinstance(body.get("format"), dict):
        # A schema that can be forced: rarely by chance.
        body["format"] = {"type": "object", "properties": {}}
    return body


CHANGES = {
    "/v1/chat/completions": kept,
    "/v1/completions": kept,
    "/v1/responses": response,
    "/v1/responses/input_tokens": response,
    "/v1/messages": message,
    "/v1/messages/count_tokens": message,
    "/api/chat": ollama_request,
    "/api/generate": ollama_request,
}
