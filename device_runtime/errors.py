"""Errors of the device side: one class and one exit code for each kind of trouble."""


class DeviceError(Exception):
    """Something the user can act on.

    Attributes:
        exit_code: what the process ends with.
        hint: what to do next, one sentence; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class BundleError(DeviceError):
    """A bundle or an installed release is damaged, hostile or of an unknown format."""

    exit_code = 7


class InstallError(DeviceError):
    """A bundle cannot be installed on this target."""

    exit_code = 8


class ResourceError(DeviceError):
    """The machine lacks something: disk space, memory, a free port."""

    exit_code = 9


class EngineError(DeviceError):
    """The model cannot be loaded or cannot generate."""

    exit_code = 11


class RequestError(DeviceError):
    """A request asks for what the model cannot do (a prompt longer than its context, say)."""

    exit_code = 12


class ServiceError(DeviceError):
    """The running service cannot be reached, or cannot start."""

    exit_code = 13
