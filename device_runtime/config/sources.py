"""The sources of options' values, by precedence: release < file < environment < flags.

All problems are reported at once. Paths in the file are relative to the file's folder, all others
to the current one. An empty environment variable counts as not set; the parts of a list are
separated by commas there.
"""

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_runtime.bundle.manifest import Settings
from device_runtime.config.option import Option
from device_runtime.config.options import OPTIONS, RuntimeConfig
from device_runtime.errors import ServiceError

FILE = Path("/etc/edgepack/runtime.toml")
MAX_FILE_BYTES = 1 << 20

FILE_VARIABLE = "EDGEPACK_CONFIG"
RELEASE_VARIABLE = "EDGEPACK_RELEASE"
API_KEY_VARIABLE = "EDGEPACK_API_KEY_FILE"
_OTHER_VARIABLES = frozenset(
    {
        *(FILE_VARIABLE, RELEASE_VARIABLE, API_KEY_VARIABLE),
        # Of the host and its tests: developers have them set when they start a runtime.
        *("EDGEPACK_CACHE", "EDGEPACK_KEYS", "EDGEPACK_PASSPHRASE_FILE", "EDGEPACK_TESTS_REQUIRE"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A configuration, and the origin of each value.

    Attributes:
        config: the values.
        origins: origins by option: `default`, `release`, `FILE: KEY`, `environment variable X`
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
    """Combine all sources into the configuration.

    Args:
        settings: settings of the release; None without a release.
        file: configuration file, which must exist; None reads the default one if it exists.
        flags: values by option; None and an empty list count as not set.
        environment: environment variables; None for those of this process.

    Raises:
        ServiceError: a value is invalid; the message lists all problems.
    """
    environment = os.environ if environment is None else environment
    values = _Values(settings)
    values.take_file(file or FILE, table(file or FILE, must_exist=file is not None))
    values.take_environment(environment)
    values.take_flags(flags or {})
    if values.problems:
        raise _error(values.problems)
    return Resolved(config=RuntimeConfig(**values.values), origins=values.origins)


def problems(file: Path, table: Mapping[str, Any]) -> list[str]:
    """List what is wrong with the table of a configuration file, one message each."""
    values = _Values(None)
    values.take_file(file, table)
    return values.problems


class _Values:
    """The values of the sources read so far, beginning with the release's settings.

    Attributes:
        values: values by option, converted to the option's type.
        origins: origins by option, as in `Resolved`.
        problems: problems of all sources, one message each.
    """

    def __init__(self, settings: Settings | None) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.problems: list[str] = []
        for option in OPTIONS.values():
            # Without a release there are no settings, and most options have none.
            released = getattr(settings, option.setting, None)
            self.values[option.name] = option.default if released is None else released
            self.origins[option.name] = "default" if released is None else "release"

    def take_file(self, file: Path, table: Mapping[str, Any]) -> None:
        for key, value in table.items():
            if key not in OPTIONS:
                self.problems.append(f"{file}: unknown key {key!r}{_nearest(key, OPTIONS)}")
                continue
            self._take(OPTIONS[key], f"{file}: {key}", OPTIONS[key].read, value)
            if isinstance(path := self.values[key], Path):
                self.values[key] = file.parent / path

    def take_environment(self, environment: Mapping[str, str]) -> None:
        variables = {option.variable: option for option in OPTIONS.values()}
        for name in sorted(environment):
            if not name.startswith("EDGEPACK_") or name in _OTHER_VARIABLES:
                continue
            if name not in variables:
                known = [*variables, *_OTHER_VARIABLES]
                self.problems.append(f"unknown environment variable {name}{_nearest(name, known)}")
            elif environment[name]:
                option = variables[name]
                origin = f"environment variable {name}"
                self._take(option, origin, option.read_text, environment[name])

    def take_flags(self, flags: Mapping[str, Any]) -> None:
        for name, value in flags.items():
            if value is not None and value != ():
                option = OPTIONS[name]
                self._take(option, f"flag {option.flag}", option.read, value)

    def _take(self, option: Option, origin: str, read: Callable[[Any], Any], value: Any) -> None:
        try:
            self.values[option.name] = read(value)
        except ValueError as error:
            self.problems.append(f"{origin}: {error}")
        self.origins[option.name] = origin


def table(file: Path, *, must_exist: bool) -> dict[str, Any]:
    """Read the file; empty if it does not exist and need not.

    Raises:
        ServiceError: the file cannot be read.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ServiceError(f"{file} exceeds {MAX_FILE_BYTES} bytes", hint=_HINT)
        return tomllib.loads(data.decode())
    except FileNotFoundError:
        if must_exist:
            raise ServiceError(
                f"no such configuration file: {file}",
                hint=f"Create it, or omit --config and {FILE_VARIABLE}.",
            ) from None
        return {}
    except OSError as error:
        raise ServiceError(
            f"cannot read {file}: {error.strerror or error}",
            hint=f"The service runs as its own user: chmod 644 {file}",
        ) from None
    except (ValueError, RecursionError) as error:
        raise ServiceError(f"{file} is not valid TOML: {error}", hint=_HINT) from None


def _nearest(wrong: str, right: Iterable[str]) -> str:
    """Return the end of a message: `; did you mean X?`, or all names if none is close."""
    names = sorted(right)
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(wrong.lower(), by_lower, n=1, cutoff=0.6)
    return (
        f"; did you mean {by_lower[close[0]]}?" if close else f"; valid names: {', '.join(names)}"
    )


_HINT = "See edgepack-runtime serve --help for the options."


def _error(problems: list[str]) -> ServiceError:
    if len(problems) == 1:
        return ServiceError(problems[0], hint=_HINT)
    lines = "".join(f"\n  {problem}" for problem in problems)
    return ServiceError(f"{len(problems)} problems in the configuration:{lines}", hint=_HINT)
