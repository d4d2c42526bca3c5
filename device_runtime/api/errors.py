"""The error of a request, as the API answers it."""

from device_runtime.api.response_types import Error, ErrorFields


class ApiError(Exception):
    """An error that a request is answered with.

    Attributes:
        status: HTTP status.
        param: the field that is wrong.
        code: OpenAI's code for it.
        retry_after_s: for the Retry-After header.
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
        """The error as OpenAI words it."""
        kinds = {
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            429: "rate_limit_error",
        }
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = kinds.get(self.status, kind)
        return Error(ErrorFields(str(self), type=kind, param=self.param, code=self.code))
