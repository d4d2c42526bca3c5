"""Errors of the host side: one class and one exit code for each kind of failure.

Codes 7 to 9 have the same meaning as in `device_runtime.errors`, so a script needs one table.
Code 2 is click's, for an invalid command line; 130 is Ctrl-C.
"""


class PackagerError(Exception):
    """Something the user can act on.

    Attributes:
        exit_code: exit code of the process.
        hint: what to do next, one sentence; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ProfileError(PackagerError):
    """A profile is unknown or invalid."""

    exit_code = 3


class ModelSourceError(PackagerError):
    """A model cannot be found, downloaded or read, or is not supported."""

    exit_code = 4


class QuantizeError(PackagerError):
    """The model builder failed, or the model that it built does not load or generate."""

    exit_code = 5


class QualityError(PackagerError):
    """No recipe meets the profile's limits."""

    exit_code = 11


class EvaluationError(PackagerError):
    """A text or a model cannot be evaluated."""

    exit_code = 12


class KitError(PackagerError):
    """A frozen runtime cannot be built or found."""

    exit_code = 6


class FlashError(PackagerError):
    """A bundle cannot be written to this target."""

    exit_code = 8


class ResourceError(PackagerError):
    """The machine lacks something: disk space, memory, a free port."""

    exit_code = 9


class SigningError(PackagerError):
    """A key is missing, cannot be unlocked, or cannot sign."""

    exit_code = 14


class FleetError(PackagerError):
    """The devices' broker cannot be used, or not all devices did as they were told."""

    exit_code = 15


class CommandError(PackagerError):
    """A program that edgepack started failed. Callers convert it into an error of their own class.

    Attributes:
        log: last lines of the program's output.
    """

    exit_code = 10

    def __init__(self, message: str, *, log: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.log = log
