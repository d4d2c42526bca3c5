"""Device profiles: what a bundle for a device is made of, as data.

A profile is a TOML file. The shipped ones are known by name; a user's own is given by path and
may start from another with `extends`. All mistakes in a file are reported at once.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packager.errors import ProfileError
from packager.profile_rules import problems
from packager.shipped import shipped
from packager.suggest import suggest


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What quantization may cost and a model may take; None means no limit.

    Attributes:
        max_kl: KL divergence from the original model, nats a token.
        min_top1: share of tokens for which both models' first choice is the same.
        max_model_mb: size of the ONNX model, MB (10^6 bytes).
    """

    max_kl: float | None = None
    min_top1: float | None = None
    max_model_mb: float | None = None


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """A device, as the build sees it.

    Attributes:
        name: of a shipped profile, or the file's own.
        description: for people, one line.
        kit: the frozen runtime; None for a bundle of the model alone.
        compatible: hardware it fits, most specific first, as in a device tree.
        execution_provider: as the model builder names it.
        recipe: how weights are quantized: the name of a recipe, or `auto`.
        quantization: what of the quantized graph the device asks for (`block_size`,
            `accuracy_level`, ...).
        limits: what a recipe must keep to be chosen.
        context_length: prompt and answer together, tokens.
        memory_budget_mb: what serving may take, MiB.
        threads: of the inference process; 0 leaves it to ONNX Runtime.
        listen: `host:port` of the HTTP server.
        max_tokens: length of an answer for which the request gives none, tokens.
        status_interval_s: seconds between two status messages.
    """

    name: str
    description: str
    kit: str | None
    compatible: tuple[str, ...]
    execution_provider: str
    recipe: str
    quantization: Mapping[str, Any]
    limits: Limits
    context_length: int
    memory_budget_mb: int
    threads: int
    listen: str
    max_tokens: int
    status_interval_s: float

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON has them; what is None is left out."""
        values = asdict(self)
        values["compatible"] = list(self.compatible)
        values["limits"] = {k: v for k, v in values["limits"].items() if v is not None}
        return {key: value for key, value in values.items() if value is not None}


def names() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(path.stem for path in shipped("profiles").glob("*.toml"))


def for_host() -> str:
    """Name of the profile for the machine this runs on.

    Raises:
        ProfileError: there is none.
    """
    name = f"cpu-{os.uname().machine}"
    if name not in names():
        raise ProfileError(
            f"there is no profile for this machine ({os.uname().machine})",
            hint=suggest("", names()),
        )
    return name


def load(name_or_path: str) -> DeviceProfile:
    """Read and check a profile.

    Args:
        name_or_path: a shipped one's name, or the path of a TOML file (with `/` or `.toml`).

    Raises:
        ProfileError: it is unknown or not valid; the message has everything that is wrong.
    """
    files = _chain(_find(name_or_path, Path.cwd()), ())
    path = files[-1][0]
    values: dict[str, Any] = {}
    for _, own in files:
        values = _over(values, own)
    values["name"] = files[-1][1].get("name", path.stem)
    found = problems(values)
    if found:
        origins = _origins(files)
        lines = [f"  {origins.get(key, path)}: {key}: {wrong}" for key, wrong in found]
        raise ProfileError(
            f"the profile {name_or_path} is not valid:\n" + "\n".join(lines),
            hint="`edgepack profiles show NAME` shows a valid one, key by key.",
        )
    values["limits"] = Limits(**values.get("limits", {}))
    values["compatible"] = tuple(values["compatible"])
    return DeviceProfile(**{"kit": None, **values})


def _find(name_or_path: str, folder: Path) -> Path:
    """The file of a profile; a path is relative to the folder of the file that names it."""
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        path = folder / Path(name_or_path).expanduser()
        if not path.is_file():
            raise ProfileError(
                f"there is no profile file {path}", hint=f"By name: {', '.join(names())}."
            )
        return path.resolve()
    if name_or_path not in names():
        raise ProfileError(
            f"there is no profile {name_or_path!r}",
            hint=f"{suggest(name_or_path, names())} Your own goes by its path: ./mine.toml",
        )
    return shipped("profiles") / f"{name_or_path}.toml"


def _chain(path: Path, above: tuple[Path, ...]) -> list[tuple[Path, dict[str, Any]]]:
    """A file and all that it extends, with their values; what is extended comes first."""
    if path in above:
        chain = " extends ".join(str(each) for each in (*above, path))
        raise ProfileError(f"profiles extend each other: {chain}", hint="Remove one `extends`.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(
            f"the profile {path} is no TOML: {error}", hint='Strings need quotes: kit = "..."'
        ) from None
    except OSError as error:
        raise ProfileError(
            f"the profile {path} cannot be read: {error.strerror}", hint="Check its permissions."
        ) from None
    base = values.pop("extends", None)
    if base is None:
        return [(path, values)]
    if not isinstance(base, str):
        raise ProfileError(
            f"{path}: extends: must be a profile's name or path, not {base!r}",
            hint='For example: extends = "mobile"',
        )
    return [*_chain(_find(base, path.parent), (*above, path)), (path, values)]


def _origins(files: list[tuple[Path, dict[str, Any]]]) -> dict[str, Path]:
    """For each key, the file whose value counts."""
    origins: dict[str, Path] = {}
    for path, values in files:
        for key, value in values.items():
            options = value if isinstance(value, dict) else ()
            origins.update({key: path, **{f"{key}.{option}": path for option in options}})
    return origins


def _over(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Values over a base; tables are merged key by key."""
    both = {
        key: _over(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in values.items()
    }
    return {**base, **both}
