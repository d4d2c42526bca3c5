"""Where options get their values: release < file < environment < flags.

All that is wrong with file and environment is reported at once. Paths in the file are relative to
the file's folder, all others to the current one. An environment variable that is empty counts as
not set; lists are separated by commas there.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_runtime.config import OPTIONS, RuntimeConfig
from device_runtime.config_option import Option
from device_runtime.errors import ServiceError
from device_runtime.manifest import Settings

FILE = Path("/etc/edgepack/runtime.toml")
MAX_FILE_BYTES = 1 << 20

FILE_VARIABLE = "EDGEPACK_CONFIG"
RELEASE_VARIABLE = "EDGEPACK_RELEASE"
API_KEY_VARIABLE = "EDGEPACK_API_KEY_FILE"
_OTHER_VARIABLES = frozenset(
    {
        *(FILE_VARIABLE, RELEASE_VARIABLE, API_KEY_VARIABLE),
        # The host's, and its tests': a developer has them set while a runtime is started.
        *("EDGEPACK_CACHE", "EDGEPACK_TESTS_REQUIRE"),
    }
)
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A configuration, and where each value came from.

    Attributes:
        config: the values.
        origins: by option, in words: `default`, `release`, `FILE: KEY`, `environment variable X`
            or `flag --x`.
    """

    config: RuntimeConfig
    origins: dict[str, str]


def resolve(
    settings: Settings | None,
    *,
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Resolved:
    """Put the configuration together.

    Args:
        settings: the release's; None where there is no release.
        file: a file that must be there; None reads the usual one if it is there.
        flags: values by option; None, and an empty list, are not given.
        environment: this process's, if none is given.

    Raises:
        ServiceError: says everything that is wrong with any of them.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    for option in OPTIONS.values():
        released = option.release_value(settings)
        values[option.name] = option.default if released is None else released
        origins[option.name] = "default" if released is None else "release"
    candidates = [
        *_from_file(file or FILE, must_exist=file is not None, problems=problems),
        *_from_environment(environment, problems),
        *_from_flags(flags or {}),
    ]
    for option, value, origin in candidates:
        problem = option.problem(value)
        if problem:
            problems.append(f"{origin}: {problem}")
        values[option.name], origins[option.name] = value, origin
    if problems:
        raise _error(problems)
    return Resolved(config=RuntimeConfig(**values), origins=origins)


_Candidate = tuple[Option, Any, str]


def _from_file(file: Path, *, must_exist: bool, problems: list[str]) -> Iterable[_Candidate]:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ServiceError(f"{file} is larger than {MAX_FILE_BYTES} bytes", hint=_HINT)
        table = tomllib.loads(data.decode())
    except FileNotFoundError:
        if must_exist:
            raise ServiceError(
                f"there is no configuration file {file}",
                hint=f"Write one, or leave --config and {FILE_VARIABLE} out.",
            ) from None
        return
    except OSError as error:
        raise ServiceError(
            f"cannot read {file}: {error.strerror or error}",
            hint=f"The service runs as a user of its own: chmod 644 {file}",
        ) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ServiceError(f"{file} is no valid TOML: {error}", hint=_HINT) from None
    for key, value in table.items():
        origin = f"{file}: {key}"
        if key not in OPTIONS:
            problems.append(f"{file}: unknown key {key!r}{_nearest(key, OPTIONS)}")
            continue
        option = OPTIONS[key]
        try:
            yield option, _from_toml(option, value, file.parent), origin
        except ValueError as error:
            problems.append(f"{origin}: {error}")


def _from_toml(option: Option, value: Any, folder: Path) -> Any:
    """The value in the option's own type.

    Raises:
        ValueError: it is of another type.
    """
    if option.kind is tuple and isinstance(value, list):
        if all(isinstance(each, str) for each in value):
            return tuple(value)
    elif option.kind is Path and isinstance(value, str) and value:
        return folder / value
    elif option.kind is float and type(value) in (int, float):
        return float(value)
    # bool is a kind of int to isinstance.
    elif type(value) is option.kind:
        return value
    shown = "a table" if isinstance(value, dict) else repr(value)
    raise ValueError(f"{shown} is not {option.wanted}")


def _from_environment(environment: Mapping[str, str], problems: list[str]) -> Iterable[_Candidate]:
    variables = {option.variable: option for option in OPTIONS.values()}
    for name in sorted(environment):
        if not name.startswith("EDGEPACK_") or name in _OTHER_VARIABLES:
            continue
        if name not in variables:
            known = [*variables, *_OTHER_VARIABLES]
            problems.append(f"unknown environment variable {name}{_nearest(name, known)}")
        elif environment[name]:
            origin = f"environment variable {name}"
            try:
                yield variables[name], _from_text(variables[name], environment[name]), origin
            except ValueError as error:
                problems.append(f"{origin}: {error}")


def _from_text(option: Option, text: str) -> Any:
    """The value that a text stands for.

    Raises:
        ValueError: it stands for none.
    """
    if option.kind is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if option.kind is bool:
        if text.lower() not in _TRUTH:
            raise ValueError(f"{text!r} is not {option.wanted}")
        return _TRUTH[text.lower()]
    try:
        return option.kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {option.wanted}") from None


def _from_flags(flags: Mapping[str, Any]) -> Iterable[_Candidate]:
    for name, value in flags.items():
        if value is not None and value != ():
            yield OPTIONS[name], value, f"flag {OPTIONS[name].flag}"


def _nearest(wrong: str, right: Iterable[str]) -> str:
    """The end of a message: `; did you mean X?`, or all there are if no name is near."""
    names = sorted(right)
    near = {name.lower(): name for name in names}
    found = difflib.get_close_matches(wrong.lower(), near, n=1, cutoff=0.6)
    return f"; did you mean {near[found[0]]}?" if found else f"; there are: {', '.join(names)}"


_HINT = "edgepack-runtime serve --help explains the options."


def _error(problems: list[str]) -> ServiceError:
    if len(problems) == 1:
        return ServiceError(problems[0], hint=_HINT)
    lines = "".join(f"\n  {problem}" for problem in problems)
    return ServiceError(f"{len(problems)} problems in the configuration:{lines}", hint=_HINT)
