"""Services of the operating system, as an installation needs them."""

from typing import Protocol


class Services(Protocol):
    """The service manager of the running system. Each method raises ServiceError."""

    def reload(self) -> None:
        """Read unit files that have changed."""
        ...

    def restart(self, unit: str) -> None:
        """Start a unit, again if it is running, without waiting until it is ready."""
        ...

    def stop(self, unit: str) -> None:
        """Stop a unit and wait until it has stopped (an idle one is fine)."""
        ...

    def is_active(self, unit: str) -> bool:
        """Return whether a unit is running or about to."""
        ...

    def restarts(self, unit: str) -> int:
        """Return how often a unit was started again by itself, since somebody last started it."""
        ...
