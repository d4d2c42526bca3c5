"""An option of the configuration: what is said of it, and what may be its value."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from device_runtime.errors import ServiceError
from device_runtime.manifest import Settings


def host_and_port(address: str) -> tuple[str, int]:
    """Split `HOST:PORT`; an IPv6 address is in brackets, which the result does not have.

    Raises:
        ServiceError: it is no such address.
    """
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host != bare
    # isdecimal() is also true of other scripts' digits.
    valid = port.isascii() and port.isdecimal() and int(port) <= 65535
    if not bare or not valid or bracketed != (":" in bare):
        raise ServiceError(
            f"{address!r} is no address to listen on", hint="Give HOST:PORT, as 127.0.0.1:8080."
        )
    return bare, int(port)


def no_address(value: str) -> str:
    """What is wrong with an address to listen on."""
    try:
        host_and_port(value)
    except ServiceError:
        return f"{value!r} is no address to listen on: give HOST:PORT, as 127.0.0.1:8080"
    return ""


def holds_password(value: str) -> str:
    """What is wrong with an MQTT URL; it is not repeated, since there may be a secret in it."""
    try:
        found = urlsplit(value).password is not None
    except ValueError:
        return "this is no MQTT URL: give mqtt://[USER@]HOST[:PORT]"
    if found:
        return "the URL holds a password: put that into a file and set mqtt_password_file"
    return ""


def no_origins(values: tuple[str, ...]) -> str:
    """What is wrong with origins of web pages."""
    for value in values:
        try:
            parts = urlsplit(value)
            exact = f"{parts.scheme}://{parts.netloc}" == value and parts.hostname is not None
        except ValueError:
            exact = False
        if not exact or parts.scheme not in ("http", "https") or set(value) & {"@", "*"}:
            return f"{value!r} is no origin: give http[s]://HOST[:PORT], without a path or *"
        if value != value.lower():
            return f"{value!r} is no origin as browsers send it: write {value.lower()}"
    return ""


@dataclass(frozen=True)
class About:
    """What is said of an option beside its type and default.

    Attributes:
        group: heading in the help.
        help: one sentence.
        low: smallest number.
        high: largest number.
        metavar: what its value is, in the help.
        setting: attribute of the release's `Settings` with the value of this option.
        check: what is wrong with a value of the right type; empty if nothing is.
    """

    group: str
    help: str
    low: float = 0
    high: float = 0
    metavar: str | None = None
    setting: str | None = None
    check: Callable[[Any], str] = lambda _: ""


@dataclass(frozen=True, kw_only=True)
class Option:
    """An attribute of `RuntimeConfig`, as the sources of values and the help see it.

    Attributes:
        name: of the attribute, and key in the file.
        kind: `str`, `Path`, `int`, `float`, `bool`, or `tuple` for a list of texts.
        choices: the only values, for a text that has such.
        default: value where no source has one.
        about: the rest.
    """

    name: str
    kind: type
    choices: tuple[str, ...]
    default: Any
    about: About

    @property
    def variable(self) -> str:
        """Name of its environment variable."""
        return f"EDGEPACK_{self.name.upper()}"

    @property
    def flag(self) -> str:
        """Its option on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def wanted(self) -> str:
        """What a value of it is, in words."""
        low, high = f"{self.about.low:.15g}", f"{self.about.high:.15g}"
        return {
            str: " or ".join(repr(choice) for choice in self.choices) or "a text",
            Path: "the path of a file",
            int: f"a whole number from {low} to {high}",
            float: f"a number from {low} to {high}",
            bool: "true or false",
            tuple: "a list of texts",
        }[self.kind]

    def problem(self, value: Any) -> str:
        """What is wrong with a value that is already of this option's type; empty if nothing."""
        if self.kind in (int, float) and not self.about.low <= value <= self.about.high:
            return f"{value!r} is not {self.wanted}"
        if self.choices and value not in self.choices:
            return f"{value!r} is not {self.wanted}"
        if self.kind is str and not value:
            return f"an empty text is not {self.wanted}"
        return self.about.check(value)

    def release_value(self, settings: Settings | None) -> Any:
        """What the release says of it; None if nothing."""
        if settings is None or self.about.setting is None:
            return None
        return getattr(settings, self.about.setting)
