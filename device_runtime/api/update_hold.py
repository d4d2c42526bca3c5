"""The endpoint with which an application holds updates: `/v1/update-hold`."""

from pathlib import Path

from device_runtime.api.errors import ApiError
from device_runtime.api.fields import convert, decode
from device_runtime.api.request_types import HoldBody
from device_runtime.api.response_types import UpdateHold
from device_runtime.update import hold


def current(folder: Path | None) -> UpdateHold:
    """Return the hold that was set through this endpoint.

    Args:
        folder: runtime folder of the service; None if it has none.
    """
    held = hold.get(folder) if folder is not None else None
    if held is None:
        return UpdateHold(held=False)
    reason, seconds = held
    return UpdateHold(held=True, reason=reason, seconds=round(seconds or 0, 1))


def put(folder: Path | None, data: bytes) -> UpdateHold:
    """Hold updates as the body of a request says.

    Raises:
        ApiError: the body is invalid, or the service cannot hold updates.
    """
    body = convert(decode(data), HoldBody)
    if folder is None:
        raise _unable("systemd did not start this service with a runtime folder")
    try:
        hold.put(folder, body.reason, body.seconds)
    except OSError as error:
        raise _unable(str(error)) from None
    return current(folder)


def delete(folder: Path | None) -> UpdateHold:
    """End the hold, if there is one.

    Raises:
        ApiError: the service cannot end it.
    """
    try:
        if folder is not None:
            hold.delete(folder)
    except OSError as error:
        raise _unable(str(error)) from None
    return current(folder)


def _unable(reason: str) -> ApiError:
    return ApiError(f"updates cannot be held: {reason}", status=501, code="unsupported")
