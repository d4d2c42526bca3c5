"""Parsing of chat completion requests: JSON in, a request to the engine out. Pure functions.

A request is honoured in full or refused with an error that names the field: an unknown field that
would change the answer is never ignored silently.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from device_runtime.api.chat_types import (
    CHAT_WITHOUT_EFFECT,
    TURN_WITHOUT_EFFECT,
    ChatBody,
    ImagePart,
    ResponseFormat,
    Turn,
)
from device_runtime.api.errors import ApiError
from device_runtime.api.fields import check_fields, convert, decode
from device_runtime.api.images import ImageReader
from device_runtime.api.reasoning import template_arguments, thinking
from device_runtime.api.requests import ParsedRequest, check_body, engine_request
from device_runtime.api.served_model import ServedModel
from device_runtime.api.tool_choice import check_tool_turns, read_tools
from device_runtime.inference.engine import Guidance, Message, Part
from device_runtime.tools.definition import Tools

_OWN_ARGUMENTS = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"}
)


def parse_chat(data: bytes, served: ServedModel) -> ParsedRequest:
    """Parse the body of a chat completion request.

    Args:
        data: JSON.
        served: the model to answer the request.

    Raises:
        ApiError: a field is invalid or not supported; the error names it.
    """
    return chat_request(decode(data), served)


def chat_request(fields: dict[str, Any], served: ServedModel) -> ParsedRequest:
    """Translate the fields of a chat completion request.

    Args:
        fields: as in the body of the request, or translated from another API.
        served: the model to answer the request.

    Raises:
        ApiError: a field is invalid or not supported; the error names it.
    """
    check_body(fields, ChatBody, CHAT_WITHOUT_EFFECT)
    turns = fields.get("messages")
    turns = turns if isinstance(turns, list) else []
    if len(turns) > served.max_messages:
        raise ApiError(
            f"messages has {len(turns)} messages; at most {served.max_messages} are allowed",
            param="messages",
            code="array_above_max_length",
        )
    for number, turn in enumerate(turns):
        if isinstance(turn, dict):
            _drop_parsed(turn)
            check_fields(turn, Turn, TURN_WITHOUT_EFFECT, where=f"messages[{number}].")
    body = convert(fields, ChatBody)
    tools = read_tools(
        body.tools or (), body.tool_choice, parallel=body.parallel_tool_calls is not False
    )
    check_tool_turns(body.messages)
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise ApiError(
            "max_tokens cannot be combined with max_completion_tokens", param="max_tokens"
        )
    if body.top_logprobs and not body.logprobs:
        raise ApiError("top_logprobs requires logprobs", param="top_logprobs")
    images = ImageReader(served)
    messages = [_message(turn, number, images) for number, turn in enumerate(body.messages)]
    if served.system_prompt and messages[0].role != "system":
        messages.insert(0, Message(role="system", content=served.system_prompt))
    _check_continuation(body, tools)
    form = body.response_format
    formed = form is not None and form.type != "text"
    guidance: Guidance | None = None
    ignored: tuple[str, ...] = ()
    if tools.tools:
        tools = msgspec.structs.replace(tools, formed=formed)
    if tools.tools or formed:
        guidance, ignored = _guidance(form, tools, served)
    dialect = served.dialect if tools.tools else served.dialect_without_tools
    if tools.tools or any(turn.tool_calls or turn.role == "tool" for turn in body.messages):
        plain = msgspec.to_builtins(messages, builtin_types=(bytes,))
        turns = dialect.messages(plain, tools.tools)
        messages = msgspec.convert(turns, list[Message], builtin_types=(bytes,))
    definitions = [tool.definition for tool in tools.tools] if dialect.native else []
    _check_arguments(body.chat_template_kwargs or {})
    arguments = template_arguments(body, served.reasoning)
    return engine_request(
        body,
        served,
        tools=tools,
        prompt=tuple(messages),
        tool_definitions=msgspec.json.encode(definitions).decode() if definitions else "",
        arguments=arguments,
        thinking=thinking(served.reasoning, arguments, body.thinking_budget_tokens),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        guidance=guidance,
        ignored_keywords=ignored,
        continues=bool(body.continue_final_message),
        links=images.links,
    )


def _drop_parsed(turn: dict[str, Any]) -> None:
    """Drop what OpenAI's clients read out of an answer's texts, and send back together with it."""
    turn.pop("parsed", None)
    calls = turn.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        if isinstance(call, dict) and isinstance(call.get("function"), dict):
            call["function"].pop("parsed_arguments", None)


def _check_arguments(arguments: Iterable[str]) -> None:
    """Refuse arguments of the chat template that the server sets itself."""
    for name in sorted(_OWN_ARGUMENTS.intersection(arguments)):
        where = f"chat_template_kwargs.{name}"
        raise ApiError(f"{where} is set by the server", param=where, code="unsupported_value")


def _check_continuation(body: ChatBody, tools: Tools) -> None:
    """Refuse to continue a message that cannot begin an answer, or an answer of another form."""
    continues = bool(body.continue_final_message)
    if body.add_generation_prompt is not None and body.add_generation_prompt == continues:
        raise ApiError(
            "add_generation_prompt must be the opposite of continue_final_message",
            param="add_generation_prompt",
            code="unsupported_value",
        )
    if not continues:
        return
    last = body.messages[-1]
    form = body.response_format
    if last.role != "assistant" or not last.content or last.tool_calls:
        reason = "requires that the last message is text of the assistant"
    elif tools.required:
        reason = "cannot be combined with a tool_choice that requires a call"
    elif form is not None and form.type != "text":
        reason = "cannot be combined with response_format"
    else:
        return
    raise ApiError(
        f"continue_final_message {reason}", param="continue_final_message", code="unsupported_value"
    )


def _guidance(
    form: ResponseFormat | None, tools: Tools, served: ServedModel
) -> tuple[Guidance, tuple[str, ...]]:
    """Write the grammar of an answer in a form, or with calls of tools.

    Returns:
        The grammar, and the keywords of the tools' schemas that it does not keep.
    """
    from device_runtime.tools.grammar import ANSWER, grammar  # most requests have no grammar

    answer = _answer_rules(form, ANSWER if tools.tools else "start")
    if not tools.tools:
        return Guidance(kind="lark_grammar", data="\n".join(answer) + "\n"), ()
    text, ignored = grammar(served.dialect, tools, answer)
    free = not tools.required and not answer
    free_until = served.dialect.syntax.opening if free else ""
    return Guidance(kind="lark_grammar", data=text, free_until=free_until), ignored


def _answer_rules(form: ResponseFormat | None, start: str) -> Sequence[str]:
    """Write the grammar's rules for an answer in this form; none for any text."""
    from device_runtime.json_schema.document import UnsupportedSchemaError
    from device_runtime.json_schema.grammar import any_object_rules, rules

    if form is None or form.type == "text":
        return ()
    if form.type == "json_object":
        return any_object_rules(start)
    if form.json_schema is None:
        raise ApiError(
            "response_format.json_schema is required",
            param="response_format.json_schema",
            code="invalid_value",
        )
    if form.json_schema.schema is None:
        return any_object_rules(start)
    try:
        return rules(form.json_schema.schema, start)
    except UnsupportedSchemaError as error:
        place = "response_format.json_schema.schema" + error.path.removeprefix("$")
        raise ApiError(f"{place}: {error}", param=place, code=error.api_code) from None


def _message(turn: Turn, number: int, images: ImageReader) -> Message:
    content = turn.content
    if content is None and not turn.tool_calls:
        where = f"messages[{number}].content"
        raise ApiError(f"{where} is required", param=where, code="invalid_value")
    thoughts = turn.reasoning_content or turn.reasoning or ""
    if thoughts and turn.role != "assistant":
        where = f"messages[{number}].reasoning_content"
        raise ApiError(f"{where} is allowed only with the role assistant", param=where)
    # OpenAI's newer name of the same role; chat templates know the older one.
    role = "system" if turn.role == "developer" else turn.role
    return Message(
        role=role,
        content=_content(turn, f"messages[{number}].content", images),
        tool_calls=tuple(msgspec.to_builtins(turn.tool_calls or ())),
        tool_call_id=turn.tool_call_id or "",
        name=turn.name or "",
        reasoning_content=thoughts,
    )


def _content(turn: Turn, place: str, images: ImageReader) -> str | tuple[Part, ...]:
    """Join the texts between images; without images, the content is one text."""
    if not isinstance(turn.content, list):
        return turn.content or ""
    parts: list[Part] = []
    texts: list[str] = []
    for number, part in enumerate(turn.content):
        if not isinstance(part, ImagePart):
            texts.append(part.text)
            continue
        where = f"{place}[{number}].image_url"
        if turn.role != "user":
            raise ApiError(
                f"{where} is allowed only with the role user", param=where, code="invalid_value"
            )
        if texts:
            parts.append("\n".join(texts))
            texts = []
        parts.append(images.read(part.image_url.url, where))
    # A part ends where its author ended it; vLLM and llama-server also put each on its line.
    text = "\n".join(texts)
    if not parts:
        return text
    return (*parts, text) if text else tuple(parts)
