"""The file of `edgepack flash --config`: settings that a device gets with its release.

Its keys are those of the device's `/etc/edgepack/runtime.toml`, and four for secrets. The options
are checked by the device's own code (`device_runtime.config`), so there is one list of them.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_runtime.config import api_key, sources
from device_runtime.errors import ServiceError
from device_runtime.update.first_boot import API_KEYS, CREDENTIAL, MAX_BYTES, FirstBoot
from packager.errors import FlashError

KEY_NAME = "flash"
"""Name of the API key among those of the device."""
MIN_KEY_CHARACTERS = 32
"""Shortest API key: the device stores a fast hash, which is safe for random keys only."""
SECRETS = {"mqtt_password_file": "mqtt_password", "api_key_file": "api_key"}
"""Keys for a file on this machine, and for the secret itself."""

_PATHS = ("tls_certificate", "tls_key", "api_keys_file", "system_prompt_file")


def read(file: Path) -> FirstBoot:
    """Read settings; files with secrets are relative to the folder of the file.

    Raises:
        FlashError: something is not valid; the message lists all problems.
    """
    try:
        values = sources.table(file, must_exist=True)
    except ServiceError as error:
        raise FlashError(str(error), hint=HINT) from None
    problems: list[str] = []
    password = _secret(values, "mqtt_password_file", file, problems)
    key = _secret(values, "api_key_file", file, problems)
    if password and not values.get("mqtt"):
        problems.append("an MQTT password requires mqtt, the URL of a broker")
    if key and not re.fullmatch(rf"[!-~]{{{MIN_KEY_CHARACTERS},}}", key):
        problems.append(
            f"the API key must be {MIN_KEY_CHARACTERS} or more random characters of ASCII without "
            "spaces (openssl rand -hex 32)"
        )
    if key and "api_keys_file" in values:
        problems.append("set either api_keys_file or an API key")
    for name in _PATHS:
        path = values.get(name)
        if isinstance(path, str) and not path.startswith("/"):
            problems.append(f"{name}: {path!r} is a path on the device: begin it with /")
    problems += sources.problems(file, values)
    if problems:
        raise FlashError(f"{file} is not valid: " + "; ".join(problems), hint=HINT)
    if password:
        values["mqtt_password_file"] = CREDENTIAL
    if key:
        values["api_keys_file"] = f"/{API_KEYS}"
    return FirstBoot(
        config=_toml(values),
        mqtt_password=password,
        api_key=api_key.entry(KEY_NAME, key) if key else "",
    )


HINT = "edgepack flash --help has an example, edgepack-runtime serve --help the options."


def _secret(values: dict[str, Any], file_key: str, file: Path, problems: list[str]) -> str:
    """Take a secret out of the values; empty if there is none. Messages do not show it."""
    secret, path = values.pop(SECRETS[file_key], None), values.pop(file_key, None)
    if secret is not None and path is not None:
        problems.append(f"set either {SECRETS[file_key]} or {file_key}")
    name = SECRETS[file_key]
    if path is not None:
        name = file_key
        try:
            with (file.parent / path).open("rb") as opened:
                secret = opened.read(MAX_BYTES).decode().rstrip("\r\n")
        except (OSError, TypeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not the path of a text file"
            problems.append(f"{name}: cannot read {path}: {reason}")
            return ""
    if secret is None:
        return ""
    if not isinstance(secret, str) or not secret or not secret.isprintable():
        problems.append(f"{name} must be one line of printable characters")
        return ""
    return secret


def _toml(values: Mapping[str, Any]) -> str:
    """Write a table of strings, numbers, booleans and lists, which TOML writes as JSON does."""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()]
    return "# Written by edgepack flash.\n" + "".join(lines).replace("\x7f", "\\u007f")
