"""An option of the configuration: conversion and validation of its values."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import inspect

from device_runtime.config.address import host_and_port
from device_runtime.errors import ServiceError


def check_address(value: str) -> None:
    """Raise ValueError unless this is an address to listen on."""
    try:
        host_and_port(value)
    except ServiceError as error:
        raise ValueError(f"{error}: use HOST:PORT, for example 127.0.0.1:8080") from None


def check_broker(value: str) -> None:
    """Raise ValueError, without the URL in it, if an MQTT URL contains a password."""
    _check_url(value, "mqtt://[USER@]HOST[:PORT]", "mqtt_password_file")


def check_proxy(value: str) -> None:
    """Raise ValueError, without the URL in it, if the URL of a proxy contains a password."""
    _check_url(value, "http://[USER@]HOST:PORT", "mqtt_proxy_password_file")


def _check_url(value: str, form: str, file: str) -> None:
    try:
        password = urlsplit(value).password
    except ValueError:
        raise ValueError(f"must be {form}") from None
    if password is not None:
        raise ValueError(f"must not contain a password: put it into a file, {file}")


def check_device_id(value: str) -> None:
    """Raise ValueError unless this can be a level of an MQTT topic."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
        raise ValueError(f"{value!r} must be 1 to 64 letters, digits, '.', '_' and '-'")


FOLDER = "FOLDER"
"""Placeholder of a path that is a folder's; those of others are files."""

VERBS = (
    *("restart", "reload", "update", "rollback"),
    *("generate", "cancel", "bench", "verify", "log_level", "diagnostics"),
)
"""Commands over MQTT that must be allowed."""


def check_topic(value: str) -> None:
    """Raise ValueError unless this can be the beginning of an MQTT topic."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*", value) or len(value) > 64:
        raise ValueError(f"{value!r} is not a topic: use letters, digits, '.', '_', '-' and '/'")


def check_verbs(values: tuple[str, ...]) -> None:
    """Raise ValueError unless all values are commands over MQTT that can be allowed."""
    for value in values:
        if value not in VERBS:
            raise ValueError(f"{value!r} is not a command; there are {', '.join(VERBS)}")


def check_origins(values: tuple[str, ...]) -> None:
    """Raise ValueError unless all values are origins of web pages, as browsers send them."""
    for value in values:
        try:
            parts = urlsplit(value)
            exact = f"{parts.scheme}://{parts.netloc}" == value and parts.hostname is not None
        except ValueError:
            exact = False
        if not exact or parts.scheme not in ("http", "https") or set(value) & {"@", "*"}:
            raise ValueError(
                f"{value!r} is not an origin: use http[s]://HOST[:PORT], without a path or *"
            )
        if value != value.lower():
            raise ValueError(f"{value!r} is not an origin as browsers send it: use {value.lower()}")


def check_hosts(values: tuple[str, ...]) -> None:
    """Raise ValueError unless all values are hosts, with a port or without, as URLs have them."""
    for value in values:
        if not re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[1-9][0-9]{0,4})?", value):
            raise ValueError(f"{value!r} is not a host: use HOST or HOST:PORT, without * and http:")
        if value != value.lower():
            raise ValueError(f"{value!r} is not a host as URLs are compared: use {value.lower()}")


def check_folders(values: tuple[str, ...]) -> None:
    """Raise ValueError unless all values are absolute paths."""
    for value in values:
        if not value.startswith("/") or "\0" in value:
            raise ValueError(f"{value!r} must be an absolute path")


@dataclass(frozen=True, kw_only=True)
class Option:
    """An attribute of `RuntimeConfig`, with what its sources and the help need.

    Attributes:
        name: name of the attribute, and key in the file.
        hint: type with bounds, as declared.
        kind: msgspec's description of the type, without None.
        default: value if no source sets one.
        group: heading in the help.
        help: description in the help, one sentence.
        metavar: placeholder of the value in the help; None derives it from the type.
        setting: attribute of the release's `Settings` that sets the value; empty for none.
        check: raises ValueError for a value that the type allows but that is invalid.
    """

    name: str
    hint: Any
    kind: inspect.Type
    default: Any
    group: str
    help: str
    metavar: str | None = None
    setting: str = ""
    check: Callable[[Any], None] = lambda _: None

    @classmethod
    def of(cls, name: str, hint: Any, default: Any, group: str) -> "Option":
        """Build the option that an annotated type describes."""
        info = inspect.type_info(hint)
        assert isinstance(info, inspect.Metadata)
        assert info.extra_json_schema is not None
        kind = info.type
        if isinstance(kind, inspect.UnionType):
            (kind,) = (part for part in kind.types if not isinstance(part, inspect.NoneType))
        return cls(
            name=name,
            hint=hint,
            kind=kind,
            default=default,
            group=group,
            help=info.extra_json_schema["description"],
            **info.extra or {},
        )

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return f"EDGEPACK_{self.name.upper()}"

    @property
    def flag(self) -> str:
        """Name of the command line's flag."""
        return f"--{self.name.replace('_', '-')}"

    def read(self, value: Any, *, strict: bool = True) -> Any:
        """Convert a value to the option's type.

        Args:
            value: value from TOML or the command line.
            strict: False also parses numbers and booleans from strings.

        Raises:
            ValueError: the value is invalid; the message says what it must be.
        """
        if value == "":
            raise ValueError("must not be empty")
        try:
            # Path is the only type here that msgspec does not know.
            converted = msgspec.convert(
                value, self.hint, strict=strict, dec_hook=lambda kind, text: kind(text)
            )
        except msgspec.ValidationError:
            shown = "a table" if isinstance(value, dict) else repr(value)
            raise ValueError(f"must be {_words(self.kind)}, not {shown}") from None
        self.check(converted)
        return converted

    def read_text(self, text: str) -> Any:
        """Parse a value from a string; the parts of a list are separated by commas.

        Raises:
            ValueError: the value is invalid; the message says what it must be.
        """
        if isinstance(self.kind, inspect.VarTupleType):
            return self.read([part.strip() for part in text.split(",") if part.strip()])
        if isinstance(self.kind, inspect.BoolType):
            text = {"yes": "true", "no": "false"}.get(text.lower(), text)
        return self.read(text, strict=False)


def _words(kind: inspect.Type) -> str:
    """Describe the values of a type in words."""
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=low, le=high):
            return f"a whole number between {low} and {high}"
        case inspect.FloatType(ge=low, le=high):
            return f"a number between {low:g} and {high:g}"
        case inspect.LiteralType(values=values):
            return " or ".join(map(repr, values))
        case inspect.CustomType():
            return "a file path"
        case inspect.VarTupleType():
            return "a list of strings"
        case _:
            return "a string"
