"""`edgepack-runtime status`: how the running service is."""

import json
from contextlib import closing
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
from device_runtime.errors import ServiceError

TIMEOUT_S = 10


@click.command(cls=Grouped)
@configured("listen", "tls_certificate")
@api_key_file
@config_file
@as_json
def status(
    api_key_file: Path | None, config_file: Path | None, as_json: bool, **flags: Any
) -> None:
    """Show how the running service is; it is looked for where the configuration says.

    \b
    Examples:
      edgepack-runtime status
      edgepack-runtime status --listen 127.0.0.1:8080 --json
    """
    import http.client

    from device_runtime.client import endpoint

    where = endpoint(resolve_anywhere(None, config_file, **flags).config, api_key_file)
    try:
        with closing(where.connect(TIMEOUT_S)) as connection:
            connection.request("GET", "/v1/status", headers=where.headers)
            answer = connection.getresponse()
            found = json.load(answer)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ServiceError(
            f"no edgepack service answers on {where.url}: {error}",
            hint="Start it with edgepack-runtime serve, or give its address with --listen.",
        ) from None
    if answer.status == http.HTTPStatus.UNAUTHORIZED:
        raise ServiceError(
            f"the service on {where.url} requires an API key",
            hint="Give the file that holds yours with --api-key-file.",
        )
    if answer.status != http.HTTPStatus.OK:
        raise ServiceError(
            f"the service on {where.url} answers with status {answer.status}",
            hint="See its log.",
        )
    click.echo(json.dumps(found) if as_json else _readable(found))


def _readable(found: dict[str, Any]) -> str:
    identity, requests = found["identity"], found["requests"]
    lines = {
        "health": found["health"],
        "model": identity["model"],
        "release": f"{identity['version']} ({identity['release'][:12]}), {identity['profile']}",
        "device": found["device_id"],
        "up for": f"{found['uptime_s']:.0f} s",
        "requests": ", ".join(f"{count} {name}" for name, count in requests.items()),
        "waiting": found["queue_length"],
        "speed": _figure(found["tokens_per_s"], "tokens/s"),
        "first token": _figure(found["first_token_s"], "s"),
        "memory": f"{found['memory_bytes'] / 2**20:.0f} MiB",
        "restarts": f"{found['worker_restarts']} {found['last_error']}".strip(),
    }
    if found["temperature_c"] is not None:
        lines["temperature"] = f"{found['temperature_c']:.0f} °C"
    return "\n".join(f"{name + ':':<13}{value}" for name, value in lines.items())


def _figure(figure: dict[str, float | None], unit: str) -> str:
    if figure["last"] is None:
        return "none yet"
    return f"{figure['last']:.2f} {unit} last, {figure['average']:.2f} {unit} on average"
