"""How requests end: their errors as HTTP responses."""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from device_runtime.openai_api import ApiError


def error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    """An error as an HTTP response.

    Args:
        error: gives the status, the body and the Retry-After header.
        headers: others to send.
    """
    headers = dict(headers or {})
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    body = msgspec.json.encode(error.body)
    return Response(body, error.status, headers, media_type="application/json")
