"""The options of the configuration, all declared here.

An option's key in `/etc/edgepack/runtime.toml` is the attribute's name here, its environment
variable is `EDGEPACK_` and the name in capitals, its flag is `--` and the name with dashes. The
module `sources` reads all three.
"""

from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import msgspec
from msgspec import Meta

from device_runtime.config.option import (
    FOLDER,
    Option,
    check_address,
    check_broker,
    check_device_id,
    check_folders,
    check_hosts,
    check_origins,
    check_proxy,
    check_topic,
    check_verbs,
)
from device_runtime.errors import ServiceError

_HEADINGS = {
    "listen": "HTTP server",
    "api_keys_file": "Access",
    "threads": "Model",
    "queue_limit": "Limits",
    "mqtt": "MQTT reports",
    "log_format": "Log",
}
"""Headings in the help, by the first option below each."""


class RuntimeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of a release; times are in seconds.

    Each attribute is an option: its type has the bounds, its `extra` has the fields of `Option`.
    """

    listen: Annotated[
        str,
        Meta(
            description="Address of the HTTP server; port 0 picks a free port.",
            extra={"metavar": "HOST:PORT", "setting": "listen", "check": check_address},
        ),
    ] = "127.0.0.1:8080"
    tls_certificate: Annotated[
        Path | None, Meta(description="Certificate chain (PEM); enables HTTPS.")
    ] = None
    tls_key: Annotated[
        Path | None, Meta(description="Private key of the certificate (PEM, not encrypted).")
    ] = None
    api_keys_file: Annotated[
        Path | None,
        Meta(description="Require an API key of this file; see edgepack-runtime api-key new."),
    ] = None
    insecure_no_auth: Annotated[
        bool, Meta(description="Allow requests without an API key from other machines.")
    ] = False
    cors_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origin of web pages that may use the API; can be repeated.",
            extra={"metavar": "ORIGIN", "check": check_origins},
        ),
    ] = ()
    image_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Host whose images requests may refer to by http:// or https://; can be "
            "repeated.",
            extra={"metavar": "HOST[:PORT]", "check": check_hosts},
        ),
    ] = ()
    image_folders: Annotated[
        tuple[str, ...],
        Meta(
            description="Folder whose images requests may refer to by path; can be repeated.",
            extra={"metavar": "PATH", "check": check_folders},
        ),
    ] = ()
    threads: Annotated[
        int,
        Meta(
            ge=0,
            le=1024,
            description="Threads for inference; 0 for one a core.",
            extra={"setting": "threads"},
        ),
    ] = 0
    processor: Annotated[
        Literal["auto", "cpu", "gpu"],
        Meta(
            description="Processor that the model runs on, if the release supports GPUs: auto "
            "takes the faster one. A GPU that fails is given up for the CPU.",
        ),
    ] = "auto"
    max_tokens: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Maximum tokens of an answer if the request sets none.",
            extra={"setting": "max_tokens"},
        ),
    ] = 512
    parallel: Annotated[int, Meta(ge=1, le=16, description="Requests answered concurrently.")] = 8
    kv_cache_mib: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 20,
            description="Memory (MiB) for the KV caches of conversations; 0 lets the runtime "
            "choose.",
        ),
    ] = 0
    system_prompt_file: Annotated[
        Path | None,
        Meta(description="File with the system prompt of conversations that have none."),
    ] = None
    queue_limit: Annotated[
        int, Meta(ge=0, le=1000, description="Maximum number of queued requests.")
    ] = 8
    request_timeout: Annotated[
        float,
        Meta(ge=1, le=86400, description="Seconds a request may take, queueing included."),
    ] = 600.0
    unload_after: Annotated[
        float,
        Meta(
            ge=0,
            le=1e9,
            description="Seconds without a request after which the model leaves the memory; 0 for "
            "never.",
        ),
    ] = 0.0
    max_body_kib: Annotated[
        int,
        Meta(
            ge=0,
            le=65536,
            description="Maximum size of a request body (KiB); 0 for 1 MiB, 16 MiB if the model "
            "sees, and 25 MiB for a recording if there is a speech model.",
        ),
    ] = 0
    max_messages: Annotated[
        int, Meta(ge=1, le=100_000, description="Maximum messages of a request.")
    ] = 1000
    stored_responses: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="Responses that are kept in memory for previous_response_id, the latest "
            "ones; 0 keeps none.",
        ),
    ] = 256
    stored_responses_mib: Annotated[
        int, Meta(ge=1, le=65536, description="Memory (MiB) for the responses that are kept.")
    ] = 8
    max_connections: Annotated[
        int, Meta(ge=1, le=65536, description="Maximum concurrent connections.")
    ] = 128
    client_timeout: Annotated[
        float,
        Meta(
            ge=0.1,
            le=3600,
            description="Seconds a client may take to send the head or the body of a request, or "
            "to read a chunk of the answer.",
        ),
    ] = 30.0
    mqtt: Annotated[
        str | None,
        Meta(
            description="Report to this broker: mqtt://[USER@]HOST[:PORT], mqtts:// for TLS, "
            "ws:// and wss:// for websockets.",
            extra={"metavar": "URL", "check": check_broker},
        ),
    ] = None
    mqtt_password_file: Annotated[
        Path | None, Meta(description="File with the password for the broker.")
    ] = None
    mqtt_ca_file: Annotated[
        Path | None,
        Meta(description="Certificates (PEM) to check the broker's with; default: the system's."),
    ] = None
    mqtt_certificate: Annotated[
        Path | None, Meta(description="Certificate (PEM) to show the broker.")
    ] = None
    mqtt_key: Annotated[
        Path | None, Meta(description="Private key of that certificate (PEM, not encrypted).")
    ] = None
    mqtt_proxy: Annotated[
        str | None,
        Meta(
            description="Reach the broker through this proxy: http://[USER@]HOST:PORT, or socks5://.",
            extra={"metavar": "URL", "check": check_proxy},
        ),
    ] = None
    mqtt_proxy_password_file: Annotated[
        Path | None, Meta(description="File with the password for the proxy.")
    ] = None
    mqtt_commands: Annotated[
        tuple[str, ...],
        Meta(
            description="Command over MQTT to carry out, besides ping; can be repeated.",
            extra={"metavar": "VERB", "check": check_verbs},
        ),
    ] = ()
    mqtt_discovery: Annotated[
        str | None,
        Meta(
            description="Announce this device to Home Assistant below this topic: homeassistant, "
            "unless it is configured otherwise.",
            extra={"metavar": "TOPIC", "check": check_topic},
        ),
    ] = None
    state_folder: Annotated[
        Path | None,
        Meta(
            description="Folder for events that wait for the broker, for what was measured, and "
            "for the KV cache of the system prompt; default: systemd's state folder, or memory.",
            extra={"metavar": FOLDER},
        ),
    ] = None
    device_id: Annotated[
        str | None,
        Meta(
            description="Name of this device in topics; the default is derived from the machine.",
            extra={"metavar": "NAME", "check": check_device_id},
        ),
    ] = None
    status_interval: Annotated[
        float,
        Meta(
            ge=0.1,
            le=86400,
            description="Seconds between telemetry messages.",
            extra={"setting": "status_interval_s"},
        ),
    ] = 30.0
    log_format: Annotated[
        Literal["text", "json"], Meta(description="Format of the log on standard error.")
    ] = "text"

    def max_body_bytes(self, *, sees: bool) -> int:
        """Return the maximum size of a request body.

        A photo of a phone has 2 to 5 MB, and a third more in base64. A text needs less, and each
        of `max_connections` can make the service hold a body.

        Args:
            sees: whether the model takes images.
        """
        return self.max_body_kib << 10 or (16 << 20 if sees else 1 << 20)

    def max_form_bytes(self) -> int:
        """Return the maximum size of a request body with a recording.

        Such a recording can have 25 MiB in OpenAI's API, without the form around it.
        """
        return self.max_body_kib << 10 or (25 << 20) + (64 << 10)

    def system_prompt(self) -> str:
        """Read the file with the system prompt; empty without one.

        Raises:
            ServiceError: the file cannot be read, or is not text.
        """
        file = self.system_prompt_file
        if file is None:
            return ""
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise ServiceError(
                f"cannot read the system prompt {file}: {reason}",
                hint="Use a text file that the service's user can read.",
            ) from None
        if "\0" in text:
            raise ServiceError(
                f"the system prompt {file} must not contain U+0000", hint="Use a text file."
            )
        return text


def _options() -> dict[str, Option]:
    hints = get_type_hints(RuntimeConfig, include_extras=True)
    options, group = {}, ""
    for field in msgspec.structs.fields(RuntimeConfig):
        group = _HEADINGS.get(field.name, group)
        options[field.name] = Option.of(field.name, hints[field.name], field.default, group)
    return options


OPTIONS = _options()
"""All options by name."""
