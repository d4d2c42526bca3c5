"""Parsing of raw completion requests: JSON in, a request to the engine out. Pure functions."""

from typing import Any

from device_runtime.api.completion_types import COMPLETION_WITHOUT_EFFECT, CompletionBody
from device_runtime.api.errors import ApiError
from device_runtime.api.fields import convert, decode
from device_runtime.api.requests import ParsedRequest, check_body, engine_request
from device_runtime.api.served_model import ServedModel


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
    prompt = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
    if body.echo and body.logprobs is not None:
        raise ApiError(
            "echo cannot be combined with logprobs", param="echo", code="unsupported_value"
        )
    return engine_request(
        body,
        served,
        prompt=prompt,
        max_tokens=body.max_tokens,
        logprobs=body.logprobs,
        echo=prompt if body.echo else "",
    )
