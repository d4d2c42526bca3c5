"""Parsing of OpenAI's requests: JSON in, a request to the engine out. Pure functions.

A request is honoured in full or refused with an error that names the field: an unknown field that
would change the answer is never ignored silently.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from device_runtime.api.errors import ApiError
from device_runtime.api.fields import check_fields, decode, invalid_value
from device_runtime.api.request_types import (
    CHAT_WITHOUT_EFFECT,
    COMPLETION_WITHOUT_EFFECT,
    IGNORED,
    TURN_WITHOUT_EFFECT,
    ChatBody,
    CompletionBody,
    ResponseFormat,
    Sampling,
    Turn,
)
from device_runtime.api.served_model import ServedModel
from device_runtime.api.tool_choice import check_tool_turns, read_tools
from device_runtime.bundle.reasoning import Value
from device_runtime.errors import RequestError
from device_runtime.inference.engine import GenerationRequest, Guidance, Message
from device_runtime.json_schema.document import UnsupportedSchemaError
from device_runtime.json_schema.grammar import any_object_rules, rules
from device_runtime.tools.definition import Tools
from device_runtime.tools.grammar import grammar

NO_TOOLS = Tools()
_OWN_ARGUMENTS = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"}
)

B = TypeVar("B", bound=Sampling)


class ParsedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request, checked and translated.

    Attributes:
        generation: the request to the engine.
        model: the model's name as in the request.
        stream: whether the answer is sent in chunks.
        include_usage: whether a streamed answer ends with its usage.
        tools: the tools that the model can call.
        echo: text to begin the answer with.
    """

    generation: GenerationRequest
    model: str
    stream: bool
    include_usage: bool
    tools: Tools = NO_TOOLS
    echo: str = ""


def parse_chat(data: bytes, served: ServedModel) -> ParsedRequest:
    """Parse the body of a chat completion request.

    Args:
        data: JSON.
        served: the model to answer the request.

    Raises:
        ApiError: a field is invalid or not supported; the error names it.
    """
    fields = decode(data)
    check_fields(fields, ChatBody, CHAT_WITHOUT_EFFECT, ignored=IGNORED)
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
            check_fields(turn, Turn, TURN_WITHOUT_EFFECT, where=f"messages[{number}].")
    body = _convert(fields, ChatBody)
    tools = read_tools(
        body.tools or (), body.tool_choice, parallel=body.parallel_tool_calls is not False
    )
    check_tool_turns(body.messages)
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise ApiError(
            "max_tokens cannot be combined with max_completion_tokens", param="max_tokens"
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError("top_logprobs requires logprobs", param="top_logprobs")
    messages = [_message(turn, number) for number, turn in enumerate(body.messages)]
    if served.system_prompt and messages[0].role != "system":
        messages.insert(0, Message(role="system", content=served.system_prompt))
    guidance = _response_guidance(body.response_format)
    if guidance is not None and tools.tools:
        raise ApiError(
            'response_format cannot be combined with tools; set tool_choice to "none"',
            param="response_format",
            code="unsupported_value",
        )
    if tools.tools:
        guidance = Guidance(kind="lark_grammar", data=grammar(served.dialect, tools))
    dialect = served.dialect if tools.tools else served.dialect_without_tools
    if tools.tools or any(turn.tool_calls or turn.role == "tool" for turn in body.messages):
        turns = dialect.messages(msgspec.to_builtins(messages), tools.tools)
        messages = msgspec.convert(turns, list[Message])
    definitions = [tool.definition for tool in tools.tools] if dialect.native else []
    _check_arguments(body.chat_template_kwargs or {})
    return _parsed(
        body,
        served,
        tools=tools,
        prompt=tuple(messages),
        tool_definitions=msgspec.json.encode(definitions).decode() if definitions else "",
        arguments=body.chat_template_kwargs,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        guidance=guidance,
    )


def parse_completion(data: bytes, served: ServedModel) -> ParsedRequest:
    """Parse the body of a raw completion request.

    Args:
        data: JSON.
        served: the model to answer the request.

    Raises:
        ApiError: a field is invalid or not supported; the error names it.
    """
    fields = decode(data)
    check_fields(fields, CompletionBody, COMPLETION_WITHOUT_EFFECT, ignored=IGNORED)
    body = _convert(fields, CompletionBody)
    prompt = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
    if body.echo and body.logprobs is not None:
        raise ApiError(
            "echo cannot be combined with logprobs", param="echo", code="unsupported_value"
        )
    return _parsed(
        body,
        served,
        prompt=prompt,
        max_tokens=body.max_tokens,
        logprobs=body.logprobs,
        echo=prompt if body.echo else "",
    )


def own_request(
    parse: Callable[[bytes, ServedModel], ParsedRequest], body: dict[str, Any], served: ServedModel
) -> GenerationRequest:
    """Parse a request that this process makes itself, by the rules of the service.

    Args:
        parse: `parse_chat` or `parse_completion`.
        body: the request's fields, as in OpenAI's API.
        served: the model to answer the request.

    Raises:
        RequestError: a field is invalid or not supported; the error names it.
    """
    try:
        data = json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RequestError("the text is not UTF-8", hint="Use text in UTF-8.") from None
    try:
        return parse(data, served).generation
    except ApiError as error:
        raise RequestError(str(error), hint="See --help for the options.") from None


def _parsed(
    body: Sampling,
    served: ServedModel,
    *,
    prompt: tuple[Message, ...] | str,
    max_tokens: int | None,
    logprobs: int | None,
    tools: Tools = NO_TOOLS,
    tool_definitions: str = "",
    arguments: Mapping[str, Value] | None = None,
    guidance: Guidance | None = None,
    echo: str = "",
) -> ParsedRequest:
    name = body.model or served.model
    if name not in served.models:
        models = ", ".join(map(repr, served.models))
        raise ApiError(
            f"the model {name!r} does not exist; this device has {models}",
            status=404,
            param="model",
            code="model_not_found",
        )
    temperature = body.temperature
    if temperature is None:
        # Greedy by default: the same request gets the same answer.
        sampling = (body.top_p, body.top_k, body.min_p, body.seed)
        temperature = 0.0 if all(option is None for option in sampling) else 1.0
    stop = body.stop or ()
    parsed = ParsedRequest(
        generation=GenerationRequest(
            prompt=prompt,
            tools=tool_definitions,
            arguments=dict(arguments or {}),
            max_tokens=max_tokens or served.max_tokens,
            n=body.n or 1,
            temperature=temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            top_k=body.top_k or 0,
            min_p=body.min_p or 0.0,
            repetition_penalty=body.repetition_penalty or 1.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            presence_penalty=body.presence_penalty or 0.0,
            logit_bias=tuple((int(name), add) for name, add in (body.logit_bias or {}).items()),
            logprobs=logprobs,
            num_beams=body.num_beams or 1,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            seed=body.seed,
            guidance=guidance,
            shown=tuple(served.dialect.shown.items()) if tools.tools else (),
            adapter=name.removeprefix(served.model).removeprefix(":"),
        ),
        model=name,
        stream=bool(body.stream),
        include_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
        tools=tools,
        echo=echo,
    )
    if parsed.generation.num_beams > 1:
        _check_beams(parsed)
    return parsed


def _check_arguments(arguments: Iterable[str]) -> None:
    """Refuse arguments of the chat template that the server sets itself."""
    for name in sorted(_OWN_ARGUMENTS.intersection(arguments)):
        where = f"chat_template_kwargs.{name}"
        raise ApiError(f"{where} is set by the server", param=where, code="unsupported_value")


def _check_beams(parsed: ParsedRequest) -> None:
    """Refuse what cannot be combined with a beam search, which needs the model's own scores."""
    generation = parsed.generation
    conflicts: dict[str, Callable[[], bool]] = {
        "temperature": lambda: generation.temperature > 0,
        "stream": lambda: parsed.stream,
        "n": lambda: generation.n > 1,
        "logprobs": lambda: generation.logprobs is not None,
        "logit_bias": lambda: bool(generation.logit_bias),
        "repetition_penalty": lambda: generation.repetition_penalty != 1,
        "frequency_penalty": lambda: generation.frequency_penalty != 0,
        "presence_penalty": lambda: generation.presence_penalty != 0,
        "response_format": lambda: generation.guidance is not None and not parsed.tools.tools,
        "tools": lambda: bool(parsed.tools.tools),
    }
    for name, is_set in conflicts.items():
        if is_set():
            raise ApiError(
                f"num_beams cannot be combined with {name}",
                param="num_beams",
                code="unsupported_value",
            )


def _response_guidance(form: ResponseFormat | None) -> Guidance | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return _guidance(any_object_rules())
    if form.json_schema is None:
        raise ApiError(
            "response_format.json_schema is required",
            param="response_format.json_schema",
            code="invalid_value",
        )
    if form.json_schema.schema is None:
        return _guidance(any_object_rules())
    try:
        return _guidance(rules(form.json_schema.schema))
    except UnsupportedSchemaError as error:
        place = "response_format.json_schema.schema" + error.path.removeprefix("$")
        raise ApiError(f"{place}: {error}", param=place, code=error.api_code) from None


def _guidance(lines: Iterable[str]) -> Guidance:
    return Guidance(kind="lark_grammar", data="\n".join(lines) + "\n")


def _message(turn: Turn, number: int) -> Message:
    content = turn.content
    if content is None and not turn.tool_calls:
        where = f"messages[{number}].content"
        raise ApiError(f"{where} is required", param=where, code="invalid_value")
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    # OpenAI's newer name of the same role; chat templates know the older one.
    role = "system" if turn.role == "developer" else turn.role
    return Message(
        role=role,
        content=content or "",
        tool_calls=tuple(msgspec.to_builtins(turn.tool_calls or ())),
        tool_call_id=turn.tool_call_id or "",
        name=turn.name or "",
    )


def _convert(fields: dict[str, Any], kind: type[B]) -> B:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise invalid_value(error) from None
