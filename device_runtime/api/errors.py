"""The error of a request, as the API responds with it."""

from contextvars import ContextVar

from device_runtime.api.response_types import Error, ErrorFields

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request that is being answered, as in the access log; None before it is known."""


class ApiError(Exception):
    """An error that becomes the response to a request.

    Attributes:
        status: HTTP status.
        param: name of the invalid field; None for none.
        code: OpenAI's code for the error; None for none.
        retry_after_s: value of the Retry-After header, seconds; None omits the header.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> Error:
        """The error as an object of OpenAI's API."""
        kinds = {
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            429: "rate_limit_error",
        }
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = kinds.get(self.status, kind)
        return Error(ErrorFields(str(self), type=kind, param=self.param, code=self.code))
