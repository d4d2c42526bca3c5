"""Device profiles: the settings of builds for a device, as data.

A profile is a TOML file. Shipped profiles are referred to by name, a user's own by path; a profile
can build on another with `extends`. All problems of a file are reported at once.
"""

import platform
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from msgspec import Meta

from device_runtime.bundle import fields
from packager.errors import ProfileError
from packager.profile_rules import problems
from packager.recipes.providers import PRECISIONS
from packager.recipes.recipes import AUTO, RECIPES
from packager.shipped import shipped
from packager.suggest import suggest

Nats = Annotated[float, Meta(ge=0, le=100)]
ParameterCount = Annotated[str, Meta(pattern=r"^(?:0|[1-9][0-9]{0,2}[MB])\Z")]


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits that a recipe must meet to be chosen; None means no limit."""

    max_kl: Annotated[
        Nats | dict[ParameterCount, Nats] | None,
        Meta(
            description="KL divergence from the reference model, nats a token: one number, or one "
            "for all models from so many parameters on.",
            extra={
                "words": "a number from 0 to 100, or such numbers by parameters: "
                "{ 0 = 0.1, 500M = 0.06, 3B = 0.03 }",
                "key": "a number of parameters (0, 500M, 3B)",
                "item": "a number from 0 to 100",
            },
        ),
    ] = None
    max_kl_tail: Annotated[
        Nats | None,
        Meta(description="KL divergence that 99.9 % of the tokens do not exceed, nats."),
    ] = None
    min_top1: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Share of tokens for which both models have the same top choice."),
    ] = None
    min_agreement: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Share of short tasks for which both models give the same answer."),
    ] = None
    max_model_mb: Annotated[
        Annotated[float, Meta(ge=1, le=1 << 20)] | None,
        Meta(description="Size of the ONNX model, MB (10^6 bytes)."),
    ] = None

    def kl(self, parameters: int) -> float | None:
        """Return the limit of the KL divergence for a model, nats a token.

        Args:
            parameters: number of the model's weights.
        """
        if not isinstance(self.max_kl, dict):
            return self.max_kl
        steps = {_parameters(step): limit for step, limit in self.max_kl.items()}
        return steps[max(step for step in steps if step <= parameters)]


class Quantization(TypedDict, total=False):
    """Options of the quantized graph that depend on the device, not on the recipe."""

    block_size: Annotated[
        Literal[16, 32, 64, 128], Meta(description="Weights that share one scale.")
    ]
    accuracy_level: Annotated[
        Literal[0, 1, 2, 3, 4],
        Meta(description="Of MatMulNBits: 4 computes on int8 activations, 0 is unspecified."),
    ]
    enable_cuda_graph: Annotated[
        bool, Meta(description="Capture each decoding step as a CUDA graph.")
    ]
    use_cuda_bf16: Annotated[bool, Meta(description="Compute in bf16 on CUDA.")]
    use_webgpu_fp32: Annotated[bool, Meta(description="Compute in fp32 on WebGPU.")]


class DeviceProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Profile of a device.

    The types carry the bounds of the values; `extra` holds what else `profile_rules` needs.
    """

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,63}\Z",
            description="Name of a shipped profile, or the file's own.",
            extra={"words": "up to 64 letters, digits, spaces, '.', '_' or '-'"},
        ),
    ]
    description: Annotated[
        str,
        Meta(
            pattern=r"^[^\n]{1,200}\Z",
            description="One line for people.",
            extra={"words": "one line of up to 200 characters"},
        ),
    ]
    kit: Annotated[
        Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]*\Z")] | None,
        Meta(
            description="Frozen runtime; without one, the bundle contains only the model.",
            extra={"words": 'the name of a kit, such as "linux-aarch64-cpu"'},
        ),
    ] = None
    compatible: Annotated[
        tuple[fields.Compatible, ...],
        Meta(
            min_length=1,
            max_length=32,
            description="Compatible hardware, most specific first, as in a device tree.",
            extra={"words": 'a list of names such as "raspberrypi,5-model-b"'},
        ),
    ]
    execution_provider: Annotated[
        str,
        Meta(description="As the model builder names it.", extra={"choices": tuple(PRECISIONS)}),
    ]
    recipe: Annotated[
        str,
        Meta(
            description="How weights are quantized: a recipe, or `auto`.",
            extra={"choices": (AUTO, *RECIPES)},
        ),
    ]
    quantization: Annotated[
        Quantization, Meta(description="Options of the quantized graph for this device.")
    ]
    limits: Annotated[Limits, Meta(description="Limits that a recipe must meet to be chosen.")] = (
        Limits()
    )
    context_length: Annotated[
        int, Meta(ge=16, le=1 << 20, description="Maximum of prompt and answer together, tokens.")
    ]
    memory_budget_mb: Annotated[
        int, Meta(ge=64, le=1 << 20, description="Memory that serving may use, MiB.")
    ]
    threads: Annotated[
        int, Meta(ge=0, le=1024, description="Threads of inference; 0 for one a core.")
    ]
    listen: Annotated[
        str,
        Meta(
            pattern=fields.ADDRESS,
            description="Address of the HTTP server.",
            extra={"words": '"host:port" with a port up to 65535'},
        ),
    ]
    max_tokens: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Default of `max_tokens` in requests.",
        ),
    ]
    status_interval_s: Annotated[
        float, Meta(ge=1, le=86400, description="Seconds between two status messages.")
    ]
    min_tokens_per_s: Annotated[
        float,
        Meta(
            ge=0,
            le=10_000,
            description="Decode speed below which an update is rolled back, tokens/s.",
        ),
    ] = 0.0

    @property
    def block_size(self) -> int:
        """Weights that share one scale; the model builder's default if it is not given."""
        return self.quantization.get("block_size", 32)

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON types, without those that are None."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return {key: value for key, value in values.items() if value is not None}


def descriptions() -> dict[str, str]:
    """Return a phrase that describes each key of a profile."""
    schema = msgspec.json.schema(DeviceProfile)["$defs"]["DeviceProfile"]
    return {key: about["description"] for key, about in schema["properties"].items()}


def names() -> list[str]:
    """List the names of the shipped profiles."""
    return sorted(path.stem for path in shipped("profiles").glob("*.toml"))


def for_host() -> str:
    """Return the name of the profile for this machine.

    Raises:
        ProfileError: there is no such profile.
    """
    system, machine = platform.system(), platform.machine()
    name = f"cpu-{machine}"
    if system != "Linux" or name not in names():
        raise ProfileError(
            f"there is no profile for this machine ({system} {machine})",
            hint=suggest("", names()),
        )
    return name


def load(name_or_path: str) -> DeviceProfile:
    """Read and check a profile.

    Args:
        name_or_path: name of a shipped profile, or path of a TOML file (with `/` or `.toml`).

    Raises:
        ProfileError: the profile is unknown or invalid; the message lists all problems.
    """
    files = _chain(_find(name_or_path, Path.cwd()), ())
    path = files[-1][0]
    values: dict[str, Any] = {}
    for _, own in files:
        values = _merge(values, own)
    values["name"] = files[-1][1].get("name", path.stem)
    listed = problems(values, DeviceProfile)
    if listed:
        origins = _origins(files)
        # Within an option (`limits.max_kl.3B`), all is from the file of the option.
        files_of = {key: origins.get(".".join(key.split(".")[:2]), path) for key, _ in listed}
        lines = [f"  {files_of[key]}: {key}: {problem}" for key, problem in listed]
        raise ProfileError(
            f"the profile {name_or_path} is invalid:\n" + "\n".join(lines),
            hint="`edgepack profiles show NAME` prints a valid profile and describes each key.",
        )
    return msgspec.convert(values, DeviceProfile)


def _parameters(step: str) -> int:
    """Read a number of parameters: `0`, `500M` or `3B`."""
    return int(step.rstrip("MB")) * {"M": 10**6, "B": 10**9}.get(step[-1], 1)


def _find(name_or_path: str, folder: Path) -> Path:
    """Find the file of a profile; a path is relative to the folder of the file that names it."""
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        path = folder / Path(name_or_path).expanduser()
        if not path.is_file():
            raise ProfileError(
                f"no such profile file: {path}", hint=f"Shipped profiles: {', '.join(names())}."
            )
        return path.resolve()
    if name_or_path not in names():
        raise ProfileError(
            f"no such profile: {name_or_path!r}",
            hint=f"{suggest(name_or_path, names())} Refer to your own by path: ./mine.toml",
        )
    return shipped("profiles") / f"{name_or_path}.toml"


def _chain(path: Path, above: tuple[Path, ...]) -> list[tuple[Path, dict[str, Any]]]:
    """Read a file and all files that it extends, with their values; the base comes first."""
    if path in above:
        chain = " extends ".join(str(file) for file in (*above, path))
        raise ProfileError(f"profiles extend each other: {chain}", hint="Remove one `extends`.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also numbers too long, lists too deep
        raise ProfileError(
            f"the profile {path} is not valid TOML: {error}",
            hint='Strings must be quoted: kit = "..."',
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
            f"{path}: extends: must be the name or path of a profile, not {base!r}",
            hint='For example: extends = "mobile"',
        )
    return [*_chain(_find(base, path.parent), (*above, path)), (path, values)]


def _origins(files: list[tuple[Path, dict[str, Any]]]) -> dict[str, Path]:
    """Return for each key the file that its value comes from."""
    origins: dict[str, Path] = {}
    for path, values in files:
        for key, value in values.items():
            options = value if isinstance(value, dict) else ()
            origins.update({key: path, **{f"{key}.{option}": path for option in options}})
    return origins


def _merge(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Merge values into a base, the options of a table one by one."""
    merged = {
        key: {**base[key], **value}
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in values.items()
    }
    return {**base, **merged}
