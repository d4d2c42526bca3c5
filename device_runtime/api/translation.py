"""Errors of requests that were translated from another API: they name that API's own fields."""

from collections.abc import Callable, Mapping
from typing import Any

from device_runtime.api.errors import ApiError
from device_runtime.api.requests import ParsedRequest
from device_runtime.api.served_model import ServedModel


def translated(
    parse: Callable[[dict[str, Any], ServedModel], ParsedRequest],
    fields: dict[str, Any],
    places: Mapping[str, str],
    served: ServedModel,
) -> ParsedRequest:
    """Parse a request that was translated from another API.

    Args:
        parse: `chat_request` or `completion_request`.
        fields: the request's fields, as in OpenAI's API.
        places: the original path of a field, by its path in `fields`; fields that are not listed
            have the same path in both.
        served: the model to answer the request.

    Raises:
        ApiError: a field is invalid or not supported; the error names the original one.
    """
    try:
        return parse(fields, served)
    except ApiError as error:
        raise moved(error, places) from None


def moved(error: ApiError, places: Mapping[str, str]) -> ApiError:
    """Return an error of a translated request that names the original field."""
    param = error.param or ""
    paths = [path for path in places if f"{param}.".startswith((f"{path}.", f"{path}["))]
    if not paths:
        return error
    path = max(paths, key=len)
    place = places[path] + param.removeprefix(path)
    message = str(error)
    if message.startswith(param):
        message = place + message.removeprefix(param)
    return ApiError(
        message,
        status=error.status,
        param=place,
        code=error.code,
        retry_after_s=error.retry_after_s,
    )
