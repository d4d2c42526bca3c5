"""`edgepack-runtime status`: the status of the running service."""

import json
from pathlib import Path
from typing import Any

import click

from device_runtime.commands.options import (
    Grouped,
    api_key_file,
    as_json,
    config_file,
    configured,
    resolve_anywhere,
)

TIMEOUT_S = 10


@click.command(cls=Grouped)
@configured("listen", "tls_certificate")
@api_key_file
@config_file
@as_json
def status(
    api_key_file: Path | None, config_file: Path | None, as_json: bool, **flags: Any
) -> None:
    """Show the status of the running service, at the address in the configuration.

    \b
    Examples:
      edgepack-runtime status
      edgepack-runtime status --listen 127.0.0.1:8080 --json
    """
    from msgspec import to_builtins

    from device_runtime.chat.client import endpoint
    from device_runtime.status.report import RuntimeStatus

    service = endpoint(resolve_anywhere(None, config_file, **flags).config, api_key_file)
    status = to_builtins(service.get("/v1/status", RuntimeStatus, TIMEOUT_S))
    click.echo(json.dumps(status) if as_json else readable(status))


def readable(status: dict[str, Any]) -> str:
    """Format a status for a terminal, a line for each fact."""
    identity, requests = status["identity"], status["requests"]
    lines = {
        "health": status["health"],
        "model": identity["model"],
        "release": f"{identity['version']} ({identity['release'][:12]}), {identity['profile']}",
        "device": status["device_id"],
        "processor": _processor(status["processor"]),
        "up for": f"{status['uptime_s']:.0f} s",
        "requests": ", ".join(f"{count} {name}" for name, count in requests.items()),
        "waiting": status["queue_length"],
        "speed": _figure(status["tokens_per_s"], "tokens/s"),
        "first token": _figure(status["first_token_s"], "s"),
        "memory": f"{status['memory_bytes'] / 2**20:.0f} MiB",
        "restarts": f"{status['worker_restarts']} {status['last_error']}".strip(),
    }
    update = status["update"]
    if update["state"] != "none":
        reason = f": {update['reason']}" if update["reason"] else ""
        name = f"{update['version']} ({update['release'][:12]})"
        lines["update"] = f"{name} {update['state']}{reason}"
    if status["self_check"] is not None:
        lines["self-check"] = status["self_check"]["detail"]
    if status["damage"]:
        lines["damage"] = status["damage"]
    if status["compute_share"] < 1:
        lines["heat"] = f"it computes for {100 * status['compute_share']:.0f} % of the time"
    if status["board"]["temperature_c"] is not None:
        lines["temperature"] = f"{status['board']['temperature_c']:.0f} °C"
    if status["mqtt"] is not None:
        mqtt = status["mqtt"]
        state = "connected to" if mqtt["connected"] else "not connected to"
        lines["mqtt"] = f"{state} {mqtt['broker']}: {mqtt['detail']}"
    return "\n".join(f"{name + ':':<13}{value}" for name, value in lines.items())


def _processor(choice: dict[str, str]) -> str:
    return f"{choice['name']}: {choice['reason']}" if choice["reason"] else choice["name"]


def _figure(figure: dict[str, float | None], unit: str) -> str:
    if figure["last"] is None:
        return "none yet"
    return f"{figure['last']:.2f} {unit} last, {figure['average']:.2f} {unit} on average"
