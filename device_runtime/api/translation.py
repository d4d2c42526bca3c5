"""Errors of requests that were translated from another API: they name that API's own fields."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

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
        parsed = parse(fields, served)
    except ApiError as error:
        raise moved(error, places) from None
    ignored = tuple(_place(path, places) for path in parsed.ignored_keywords)
    links = tuple(
        msgspec.structs.replace(link, place=_place(link.place, places)) for link in parsed.links
    )
    return msgspec.structs.replace(parsed, ignored_keywords=ignored, links=links)


def continues(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a conversation ends with the start of an answer, which is to be continued."""
    last = messages[-1] if messages else {}
    is_started = last.get("role") == "assistant" and bool(last.get("content"))
    return is_started and not last.get("tool_calls")


def moved(error: ApiError, places: Mapping[str, str]) -> ApiError:
    """Return an error of a translated request that names the original field."""
    param = error.param or ""
    place = _place(param, places)
    message = str(error)
    if message.startswith(param):
        message = place + message.removeprefix(param)
    return ApiError(
        message,
        status=error.status,
        param=place or None,
        code=error.code,
        retry_after_s=error.retry_after_s,
    )


def _place(path: str, places: Mapping[str, str]) -> str:
    """Return the original path of a field, or of a part of one."""
    paths = [start for start in places if f"{path}.".startswith((f"{start}.", f"{start}["))]
    longest = max(paths, key=len, default="")
    return places.get(longest, "") + path.removeprefix(longest)
