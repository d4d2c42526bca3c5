"""An option of the configuration: how its values are read, and what is wrong with others."""

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
        raise ValueError(f"{error}: give HOST:PORT, as 127.0.0.1:8080") from None


def check_broker(value: str) -> None:
    """Raise ValueError, without the URL, where an MQTT URL holds a password."""
    try:
        password = urlsplit(value).password
    except ValueError:
        raise ValueError("must be mqtt://[USER@]HOST[:PORT]") from None
    if password is not None:
        raise ValueError("must not hold a password: put that into a file, mqtt_password_file")


def check_origins(values: tuple[str, ...]) -> None:
    """Raise ValueError unless all are origins of web pages, as browsers send them."""
    for value in values:
        try:
            parts = urlsplit(value)
            exact = f"{parts.scheme}://{parts.netloc}" == value and parts.hostname is not None
        except ValueError:
            exact = False
        if not exact or parts.scheme not in ("http", "https") or set(value) & {"@", "*"}:
            raise ValueError(
                f"{value!r} is not an origin: give http[s]://HOST[:PORT], without a path or *"
            )
        if value != value.lower():
            raise ValueError(
                f"{value!r} is not an origin as browsers send it: write {value.lower()}"
            )


@dataclass(frozen=True, kw_only=True)
class Option:
    """An attribute of `RuntimeConfig`, as the sources of values and the help see it.

    Attributes:
        name: of the attribute, and key in the file.
        hint: its type with bounds, as declared.
        kind: the same as msgspec describes it, without None.
        default: value where no source has one.
        group: heading in the help.
        help: one sentence.
        metavar: what its value is, in the help; None for what its type says.
        setting: attribute of the release's `Settings` with its value there; empty for none.
        check: raises ValueError for a value that its type allows and that is wrong.
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
        """The option that an annotated type describes."""
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
        """Name of its environment variable."""
        return f"EDGEPACK_{self.name.upper()}"

    @property
    def flag(self) -> str:
        """Its option on the command line."""
        return f"--{self.name.replace('_', '-')}"

    def read(self, value: Any, *, strict: bool = True) -> Any:
        """Convert a value to the option's own type.

        Args:
            value: as TOML or the command line has it.
            strict: false for a text that stands for a value.

        Raises:
            ValueError: says what it must be.
        """
        if value == "":
            raise ValueError("must not be empty")
        try:
            # Path is the one type that msgspec does not know.
            own = msgspec.convert(
                value, self.hint, strict=strict, dec_hook=lambda kind, text: kind(text)
            )
        except msgspec.ValidationError:
            shown = "a table" if isinstance(value, dict) else repr(value)
            raise ValueError(f"must be {_words(self.kind)}, not {shown}") from None
        self.check(own)
        return own

    def read_text(self, text: str) -> Any:
        """Convert a text to the value that it stands for; a list has commas between its parts.

        Raises:
            ValueError: says what it must be.
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
            return "the path of a file"
        case inspect.VarTupleType():
            return "a list of texts"
        case _:
            return "a text"
