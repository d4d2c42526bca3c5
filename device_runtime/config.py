"""What can be configured: the one place that declares each option.

An option's key in `/etc/edgepack/runtime.toml` is the attribute's name here, its environment
variable is `EDGEPACK_` and that name in capitals, its flag `--` and that name with dashes.
`config_sources` reads all three.
"""

import types
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

from device_runtime.config_option import About, Option, holds_password, no_address, no_origins
from device_runtime.errors import ServiceError

_HTTP, _EXPOSURE, _LIMITS = "HTTP server", "Access", "Limits"
_MODEL, _MQTT, _LOG = "Model", "MQTT reports", "Log"


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """How to run a release; times are in seconds. Each attribute is an option."""

    listen: Annotated[
        str,
        About(
            _HTTP,
            "Address of the HTTP server; port 0 takes a free one.",
            metavar="HOST:PORT",
            setting="listen",
            check=no_address,
        ),
    ] = "127.0.0.1:8080"
    tls_certificate: Annotated[
        Path | None, About(_HTTP, "Certificate chain (PEM); makes the server speak HTTPS.")
    ] = None
    tls_key: Annotated[
        Path | None, About(_HTTP, "Private key of the certificate (PEM, not encrypted).")
    ] = None
    api_keys_file: Annotated[
        Path | None,
        About(_EXPOSURE, "Require one of these API keys; made by edgepack-runtime api-key new."),
    ] = None
    insecure_no_auth: Annotated[
        bool, About(_EXPOSURE, "Serve a network without API keys: anyone there may ask.")
    ] = False
    cors_origins: Annotated[
        tuple[str, ...],
        About(
            _EXPOSURE,
            "Origin of web pages that may use the API; may be given several times.",
            metavar="ORIGIN",
            check=no_origins,
        ),
    ] = ()
    threads: Annotated[
        int,
        About(
            _MODEL, "Threads of inference; 0 leaves it to ONNX Runtime.", 0, 1024, setting="threads"
        ),
    ] = 0
    max_tokens: Annotated[
        int,
        About(
            _MODEL,
            "Length of an answer for which the request gives none.",
            1,
            1_000_000,
            setting="max_tokens",
        ),
    ] = 512
    parallel: Annotated[int, About(_MODEL, "Requests answered at once.", 1, 16)] = 2
    kv_cache_mib: Annotated[
        int,
        About(
            _MODEL,
            "Memory (MiB) for the KV caches of conversations; 0 leaves it to the runtime.",
            0,
            1 << 20,
        ),
    ] = 0
    system_prompt_file: Annotated[
        Path | None, About(_MODEL, "Text put before conversations that have no system message.")
    ] = None
    queue_limit: Annotated[int, About(_LIMITS, "Requests that may wait.", 0, 1000)] = 8
    request_timeout: Annotated[
        float, About(_LIMITS, "Seconds from a request's arrival to its end.", 1, 86400)
    ] = 600.0
    max_body_kib: Annotated[int, About(_LIMITS, "Largest body of a request (KiB).", 1, 65536)] = (
        1024
    )
    max_messages: Annotated[int, About(_LIMITS, "Most messages of a request.", 1, 100_000)] = 1000
    max_connections: Annotated[int, About(_LIMITS, "Connections at once.", 1, 65536)] = 128
    client_timeout: Annotated[
        float,
        About(
            _LIMITS,
            "Seconds a client may take to send head or body of a request, or to read a piece of "
            "the answer.",
            0.1,
            3600,
        ),
    ] = 30.0
    mqtt: Annotated[
        str | None,
        About(
            _MQTT,
            "Report to this broker: mqtt://[USER@]HOST[:PORT], mqtts:// for TLS.",
            metavar="URL",
            check=holds_password,
        ),
    ] = None
    mqtt_password_file: Annotated[Path | None, About(_MQTT, "File with the user's password.")] = (
        None
    )
    device_id: Annotated[
        str | None,
        About(
            _MQTT,
            "Name of this device in topics; without one, derived from the machine.",
            metavar="NAME",
        ),
    ] = None
    status_interval: Annotated[
        float,
        About(
            _MQTT,
            "Seconds between two telemetry messages.",
            0.1,
            86400,
            setting="status_interval_s",
        ),
    ] = 30.0
    log_format: Annotated[
        Literal["text", "json"], About(_LOG, "Form of the log on standard error.")
    ] = "text"

    def system_prompt(self) -> str:
        """The text of the file; empty without one.

        Raises:
            ServiceError: the file cannot be read.
        """
        file = self.system_prompt_file
        if file is None:
            return ""
        try:
            return file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise ServiceError(
                f"cannot read the system prompt {file}: {reason}",
                hint="Give a text file that the service's user may read.",
            ) from None


def _options() -> dict[str, Option]:
    hints = get_type_hints(RuntimeConfig, include_extras=True)
    found = {}
    for field in fields(RuntimeConfig):
        hint, about = get_args(hints[field.name])
        assert field.default is not MISSING
        if get_origin(hint) in (Union, types.UnionType):
            (hint,) = (each for each in get_args(hint) if each is not type(None))
        origin = get_origin(hint)
        found[field.name] = Option(
            name=field.name,
            kind=str if origin is Literal else origin or hint,
            choices=get_args(hint) if origin is Literal else (),
            default=field.default,
            about=about,
        )
    return found


OPTIONS = _options()
"""All options by name."""
