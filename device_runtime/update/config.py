"""The device's own rules for updates: `/etc/edgepack/update.toml`. Nothing else writes there."""

import tomllib
from typing import Annotated, Any

import msgspec

from device_runtime.errors import InstallError
from device_runtime.update.target import Target

FILE = "etc/edgepack/update.toml"
_MAX_BYTES = 64 << 10


class UpdateConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Rules for updates.

    Attributes:
        allow_unsigned: install bundles without a signature by a trusted key as well.
        threshold: number of trusted keys that must have signed a bundle.
        keep_releases: number of releases to keep, the current and the previous one included.
        start_timeout_s: time that a new release has to get ready, apart from reading its model, s.
        probation_s: time that it must then run without a fault, s.
        registry_ca_file: certificates to trust besides the system's, PEM, of a registry.
        registry_plain_http: use HTTP without encryption with a registry.
    """

    allow_unsigned: bool = False
    threshold: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    keep_releases: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 3
    start_timeout_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 120.0
    probation_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 90.0
    registry_ca_file: str = ""
    registry_plain_http: bool = False


def read(target: Target) -> UpdateConfig:
    """Read the configuration of a device; the defaults where it has none.

    Raises:
        InstallError: the file is not valid; the message lists all problems.
    """
    text = target.settings(FILE, _MAX_BYTES)
    fields = {field.name: field for field in msgspec.structs.fields(UpdateConfig)}
    values: dict[str, Any] = {}
    problems = []
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        table = {}
        problems.append(f"it is not TOML: {error}")
    for name, value in table.items():
        if name not in fields:
            problems.append(f"unknown key {name!r}")
            continue
        try:
            values[name] = msgspec.convert(value, fields[name].type)
        except msgspec.ValidationError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise InstallError(
            f"{target.root / FILE} is not valid: {'; '.join(problems)}",
            hint=f"The keys are {', '.join(fields)}.",
        )
    return UpdateConfig(**values)
