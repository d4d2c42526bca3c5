"""Parsing of raw completion requests: JSON in, a request to the engine out. Pure functions."""

from typing import Any

from device_runtime.api.completion_types import (
    COMPLETION_WITHOUT_EFFECT,
    MAX_PROMPTS,
    CompletionBody,
)
from device_runtime.api.errors import ApiError
from device_runtime.api.fields import convert, decode
from device_runtime.api.requests import ParsedRequest, check_body, engine_request
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.engine import RawPrompt, TokenIds


def parse_completion(data: bytes, served: ServedModel) -> ParsedRequest:
    """Parse the body of a raw completion request.

    Args:
        data: JSON.
        served: the model to answer the request.

    Raises:
        ApiError: a field is invalid or not supported; the error names it.
    """
    return completion_request(decode(data), served)


def completion_request(fields: dict[str, Any], served: ServedModel) -> ParsedRequest:
    """Translate the fields of a raw completion request.

    Args:
        fields: as in the body of the request, or translated from another API.
        served: the model to answer the request.

    Raises:
        ApiError: a field is invalid or not supported; the error names it.
    """
    check_body(fields, CompletionBody, COMPLETION_WITHOUT_EFFECT)
    body = convert(fields, CompletionBody)
    prompts = _prompts(body)
    only = prompts[0] if len(prompts) == 1 else None
    return engine_request(
        body,
        served,
        prompt=only if isinstance(only, str) else "",
        prompts=() if isinstance(only, str) else tuple(prompts),
        max_tokens=body.max_tokens,
        logprobs=body.logprobs,
        echo=bool(body.echo),
    )


def _prompts(body: CompletionBody) -> list[RawPrompt]:
    """List the prompts: texts, or token ids; a list of numbers is one prompt."""
    if isinstance(body.prompt, str):
        return [body.prompt]
    ids = [entry for entry in body.prompt if isinstance(entry, int)]
    if len(ids) == len(body.prompt):
        return [TokenIds(tuple(ids))]
    if ids:
        raise ApiError(
            "prompt mixes token ids with whole prompts", param="prompt", code="invalid_value"
        )
    if len(body.prompt) > MAX_PROMPTS:
        raise ApiError(
            f"prompt has {len(body.prompt)} prompts; at most {MAX_PROMPTS} are allowed",
            param="prompt",
            code="array_above_max_length",
        )
    return [
        entry if isinstance(entry, str) else TokenIds(tuple(entry))
        for entry in body.prompt
        if not isinstance(entry, int)
    ]
