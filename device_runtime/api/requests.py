"""A parsed request, and the translation of the fields that all of them share. Pure functions."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from device_runtime.api.errors import ApiError
from device_runtime.api.fields import check_fields
from device_runtime.api.images import LinkedImage
from device_runtime.api.request_types import (
    IGNORED,
    STREAM_OPTIONS_WITHOUT_EFFECT,
    Sampling,
    StreamOptions,
)
from device_runtime.api.served_model import ServedModel
from device_runtime.bundle.reasoning import Value
from device_runtime.errors import RequestError
from device_runtime.inference.engine import (
    GenerationRequest,
    Guidance,
    Message,
    RawPrompt,
    Thinking,
)
from device_runtime.tools.definition import Tools

NO_TOOLS = Tools()


class ParsedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request, checked and translated.

    Attributes:
        generation: the request to the engine.
        model: the model's name as in the request.
        stream: whether the answer is sent in chunks.
        include_usage: whether a streamed answer ends with its usage.
        tools: the tools that the model can call.
        ignored_keywords: paths of schemas' keywords that are not enforced.
        links: images of the prompt that are not loaded yet.
    """

    generation: GenerationRequest
    model: str
    stream: bool
    include_usage: bool
    tools: Tools = NO_TOOLS
    ignored_keywords: tuple[str, ...] = ()
    links: tuple[LinkedImage, ...] = ()


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


def check_body(
    fields: dict[str, Any],
    known: type[Sampling],
    without_effect: dict[str, tuple[Any, ...]],
) -> None:
    """Refuse unknown fields of a body and of its stream options; arguments as of `check_fields`.

    Raises:
        ApiError: a field is unknown, or has a value that is not neutral.
    """
    check_fields(fields, known, without_effect, ignored=IGNORED)
    if isinstance(options := fields.get("stream_options"), dict):
        check_fields(options, StreamOptions, STREAM_OPTIONS_WITHOUT_EFFECT, where="stream_options.")


def engine_request(
    body: Sampling,
    served: ServedModel,
    *,
    prompt: tuple[Message, ...] | str,
    prompts: tuple[RawPrompt, ...] = (),
    max_tokens: int | None,
    logprobs: int | None,
    tools: Tools = NO_TOOLS,
    tool_definitions: str = "",
    arguments: Mapping[str, Value] | None = None,
    guidance: Guidance | None = None,
    thinking: Thinking | None = None,
    echo: bool = False,
    continues: bool = False,
    ignored_keywords: tuple[str, ...] = (),
    links: Sequence[LinkedImage] = (),
) -> ParsedRequest:
    """Translate the fields that both types of request share.

    Args:
        body: the fields.
        served: the model to answer the request.
        prompt: the conversation, or raw text.
        prompts: raw prompts in place of that one.
        max_tokens: maximum tokens of an answer; None for the device's default.
        logprobs: number of most likely tokens to report at each position; None for none.
        tools: the tools that the model can call.
        tool_definitions: tools for the chat template, as JSON; empty if it gets none.
        arguments: arguments of the chat template.
        guidance: what binds the form of the answer.
        thinking: the model's thoughts; None to leave them in the text.
        echo: begin each answer with its prompt.
        continues: the last message is the beginning of the answer.
        ignored_keywords: paths of schemas' keywords that are not enforced.
        links: images of the prompt that are not loaded yet.

    Raises:
        ApiError: a field is invalid or not supported; the error names it.
    """
    name = served.model if body.model is None else body.model
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
            prompts=prompts,
            echo=echo,
            continues=continues,
            tools=tool_definitions,
            arguments=dict(arguments or {}),
            max_tokens=served.max_tokens if max_tokens is None else max_tokens,
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
            thinking=thinking,
            shown=tuple(served.dialect.shown.items()) if tools.tools else (),
            adapter=name.removeprefix(served.model).removeprefix(":"),
        ),
        model=name,
        stream=bool(body.stream),
        include_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
        tools=tools,
        ignored_keywords=ignored_keywords,
        links=tuple(links),
    )
    if parsed.generation.num_beams > 1:
        _check_beams(parsed)
    return parsed


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
        "thinking_budget_tokens": lambda: bool(
            generation.thinking and generation.thinking.budget is not None
        ),
    }
    for name, is_set in conflicts.items():
        if is_set():
            raise ApiError(
                f"num_beams cannot be combined with {name}",
                param="num_beams",
                code="unsupported_value",
            )
