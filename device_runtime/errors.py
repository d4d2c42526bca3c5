"""Errors of the device side, and how each is reported.

Class attributes describe the report: a subclass sets only what differs from its parent. Errors of
the engine and the supervisor are defined beside the code that raises them.
"""

from typing import ClassVar

PROMPT = "prompt"
"""Value of `DeviceError.param` for the field with the prompt; its name depends on the endpoint."""


class DeviceError(Exception):
    """An error that the user can act on.

    Attributes:
        exit_code: exit code of a process that ends with the error.
        wire_name: name of the class between processes; a class without its own name arrives as
            its nearest ancestor with one.
        http_status: status of the response to a request that ends with the error.
        api_code: `error.code` in the body of that response.
        param: `error.param`: name of the invalid field, or `PROMPT`; None for none.
        refuses: whether the request was refused before it started; otherwise it failed.
        retry_after_s: seconds until the request may succeed; None if unknown.
        hint: the next action, one sentence; may be empty.
    """

    exit_code: ClassVar[int] = 1
    wire_name: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    api_code: ClassVar[str] = "engine_failed"
    param: ClassVar[str | None] = None
    refuses: ClassVar[bool] = False
    retry_after_s: int | None = None

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class BundleError(DeviceError):
    """A bundle or an installed release is damaged, hostile or of an unknown format."""

    exit_code = 7
    wire_name = "bundle"


class InstallError(DeviceError):
    """A bundle cannot be installed on this target."""

    exit_code = 8
    wire_name = "install"


class ResourceError(DeviceError):
    """The machine lacks a resource: disk space, memory, a free port."""

    exit_code = 9
    wire_name = "resource"


class EngineError(DeviceError):
    """The model cannot be loaded or cannot generate."""

    exit_code = 11
    wire_name = "engine"


class RequestError(DeviceError):
    """A request needs what the model cannot do (a prompt longer than its context, say)."""

    exit_code = 12
    wire_name = "request"
    http_status = 400
    api_code = "invalid_value"
    param = PROMPT
    refuses = True


class ServiceError(DeviceError):
    """The running service cannot be reached, or cannot start."""

    exit_code = 13
    wire_name = "service"
    http_status = 503
    api_code = "stopping"


class RegistryError(DeviceError):
    """A registry cannot be reached, refuses access, or does not have the bundle."""

    exit_code = 15
    wire_name = "registry"


def error_classes() -> list[type[DeviceError]]:
    """Return the error classes of all loaded modules, each after its parent."""
    classes: list[type[DeviceError]] = [DeviceError]
    for kind in classes:  # grows during the iteration
        classes += kind.__subclasses__()
    return classes


def error_class(wire_name: str) -> type[DeviceError]:
    """Return the class with a wire name.

    Raises:
        KeyError: no class has this name.
    """
    named = [kind for kind in error_classes() if "wire_name" in vars(kind)]
    return {kind.wire_name: kind for kind in named}[wire_name]
