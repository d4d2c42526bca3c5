"""The command line `edgepack-runtime`: options in, one call, results out."""

import json
import logging
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from msgspec.structs import asdict

import device_runtime
from device_runtime.errors import DeviceError, ResourceError, ServiceError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(device_runtime.__version__, prog_name="edgepack-runtime")
def cli() -> None:
    """Serve a language model from an installed edgepack release.

    \b
    Examples:
      edgepack-runtime serve
      edgepack-runtime generate "What is the capital of France?"
      edgepack-runtime status

    Options with an environment variable can be set in /etc/edgepack/runtime.env.
    """


def main() -> int:
    """Run the command line; the process's exit code."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="ts=%(asctime)s level=%(levelname)s %(message)s",
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        return cli.main(standalone_mode=False, prog_name="edgepack-runtime") or 0
    except DeviceError as error:
        click.echo(f"error: {error}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED


_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_release = click.option(
    "--release",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="EDGEPACK_RELEASE",
    show_envvar=True,
    help="Folder of the release.  [default: the one this program is part of]",
)
_listen = click.option(
    "--listen",
    metavar="HOST:PORT",
    envvar="EDGEPACK_LISTEN",
    show_envvar=True,
    help="Address of the HTTP server; port 0 takes a free one.  [default: the release's]",
)


@cli.command()
@_release
@_listen
@click.option(
    "--mqtt",
    metavar="URL",
    envvar="EDGEPACK_MQTT",
    show_envvar=True,
    help="Report to this broker: mqtt://[USER@]HOST[:PORT], mqtts:// for TLS.",
)
@click.option(
    "--mqtt-password-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="EDGEPACK_MQTT_PASSWORD_FILE",
    show_envvar=True,
    help="File with the user's password.",
)
@click.option(
    "--device-id",
    metavar="NAME",
    envvar="EDGEPACK_DEVICE_ID",
    show_envvar=True,
    help="Name of this device in MQTT topics.  [default: derived from the machine]",
)
@click.option(
    "--status-interval",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    envvar="EDGEPACK_STATUS_INTERVAL",
    show_envvar=True,
    help="Time between two MQTT telemetry messages.  [default: the release's]",
)
@click.option("--json", "as_json", is_flag=True, help='Print {"url": ...} when it answers.')
def serve(
    release: Path | None,
    listen: str | None,
    mqtt: str | None,
    mqtt_password_file: Path | None,
    device_id: str | None,
    status_interval: float | None,
    as_json: bool,
) -> None:
    """Serve the model over an OpenAI-compatible HTTP API until SIGTERM or Ctrl-C.

    \b
    Examples:
      edgepack-runtime serve --listen 127.0.0.1:8080
      edgepack-runtime serve --mqtt mqtt://broker.local --device-id kitchen
    """
    import asyncio

    from device_runtime import identity, mqtt_status, service

    opened = _open(release)
    settings = opened.manifest.settings

    def announce(url: str) -> None:
        click.echo(f"listening on {url}", err=True)
        if as_json:
            click.echo(json.dumps({"url": url}))

    options = service.ServeOptions(
        listen=listen or settings.listen,
        broker=mqtt_status.broker(mqtt, mqtt_password_file) if mqtt else None,
        device_id=identity.device_id(device_id),
        status_interval_s=status_interval or settings.status_interval_s,
        announce=announce,
    )
    asyncio.run(service.Service(opened, options).run())


@cli.command()
@click.argument("prompt")
@_release
@click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens of the answer.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    default=0.0,
    show_default=True,
    help="0 takes the most likely token each time.",
)
@click.option("--top-p", type=click.FloatRange(0, 1), default=1.0, show_default=True)
@click.option("--top-k", type=click.IntRange(min=0), default=0, help="0 for all tokens.")
@click.option("--seed", type=int, help="Same seed, same answer.")
@click.option("--raw", is_flag=True, help="Continue the text; do not use the chat template.")
@_json
def generate(
    prompt: str,
    release: Path | None,
    max_tokens: int | None,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int | None,
    raw: bool,
    as_json: bool,
) -> None:
    """Answer one PROMPT and end; the text is printed as it comes.

    \b
    Examples:
      edgepack-runtime generate "What is the capital of France?"
      edgepack-runtime generate --raw --max-tokens 20 "Once upon a time"
    """
    from device_runtime.engine import GenerationRequest, Message
    from device_runtime.genai_engine import GenAIEngine

    opened = _open(release)
    manifest = opened.manifest
    request = GenerationRequest(
        prompt=prompt if raw else (Message(role="user", content=prompt),),
        max_tokens=max_tokens or manifest.settings.max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
    )
    engine = GenAIEngine(
        opened.model_folder,
        context_length=manifest.context_length,
        threads=manifest.settings.threads,
    )
    text = ""
    first_at = 0.0
    for chunk in engine.generate(request, lambda: False):
        text += chunk.text
        if not as_json:
            click.echo(chunk.text, nl=False)
        elif chunk.tokens and not first_at:
            first_at = _since_process_start()
    if not as_json:
        click.echo()
        return
    assert chunk.usage is not None
    assert chunk.finish_reason is not None
    result = {
        "text": text,
        "finish_reason": chunk.finish_reason.value,
        "prompt_tokens": chunk.usage.prompt_tokens,
        "completion_tokens": chunk.usage.completion_tokens,
        "start_to_first_token_s": round(first_at, 3),
        "first_token_s": round(chunk.usage.first_token_s, 3),
        "tokens_per_s": chunk.usage.tokens_per_s and round(chunk.usage.tokens_per_s, 1),
    }
    click.echo(json.dumps(result))


@cli.command()
@_listen
@_json
def status(listen: str | None, as_json: bool) -> None:
    """Show how the running service is.

    \b
    Examples:
      edgepack-runtime status
      edgepack-runtime status --listen 127.0.0.1:8080 --json
    """
    import http.client

    where = listen or _open(None).manifest.settings.listen
    try:
        with closing(http.client.HTTPConnection(where, timeout=10)) as connection:
            connection.request("GET", "/v1/status")
            found = json.load(connection.getresponse())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ServiceError(
            f"no edgepack service answers on {where}: {error}",
            hint="Start it with edgepack-runtime serve, or give its address with --listen.",
        ) from None
    click.echo(json.dumps(found) if as_json else _readable(found))


@cli.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@_json
def verify(path: Path | None, as_json: bool) -> None:
    """Check every byte of a bundle or a release against its manifest.

    PATH is a .epk file or the folder of a release; without it, the release of this program.
    """
    from device_runtime.bundle import open_bundle

    if path is None or path.is_dir():
        opened = _open(path)
        opened.verify()
        manifest, digest = opened.manifest, opened.digest
    else:
        with open_bundle(path) as bundle:
            bundle.verify()
            manifest, digest = bundle.manifest, bundle.digest
    if as_json:
        result = {"ok": True, "id": manifest.id, "version": manifest.version, "digest": digest}
        click.echo(json.dumps(result))
    else:
        click.echo(
            f"{manifest.id} {manifest.version} is whole: {len(manifest.records)} files, "
            f"digest {digest}"
        )


@cli.command()
@_release
@_json
def doctor(release: Path | None, as_json: bool) -> int:
    """Check that this device can run the release; says what to do where it cannot."""
    from device_runtime.doctor import examine

    checks = examine(_open(release))
    well = all(check.status != "fail" for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": well, "checks": [asdict(check) for check in checks]}))
    else:
        for check in checks:
            click.echo(f"{check.status:<5} {check.name:<15} {check.found}")
            if check.advice:
                click.echo(f"{'':<21} -> {check.advice}")
    return 0 if well else ResourceError.exit_code


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default="/",
    show_default=True,
    help="Root file system to install into: this device's, or a mounted one.",
)
@_json
def install(bundle: Path, root: Path, as_json: bool) -> None:
    """Verify a BUNDLE and make it this device's current release; the old one stays until then.

    \b
    Example:
      sudo edgepack-runtime install new.epk && sudo systemctl restart edgepack
    """
    from device_runtime.install import install as put

    release = put(bundle, root)
    manifest = release.manifest
    if as_json:
        result = {"id": manifest.id, "version": manifest.version, "digest": release.digest}
        click.echo(json.dumps(result))
    else:
        click.echo(f"{manifest.id} {manifest.version} is installed: {release.digest}")


@cli.command(hidden=True)
@click.option("--parent", type=int, required=True)
@click.option("--model", type=click.Path(path_type=Path), required=True)
@click.option("--context-length", type=int, required=True)
@click.option("--threads", type=int, required=True)
@click.option("--kv-cache-mib", type=int, required=True)
@click.option("--system-prompt-file", type=click.Path(path_type=Path))
def worker(
    parent: int,
    model: Path,
    context_length: int,
    threads: int,
    kv_cache_mib: int,
    system_prompt_file: Path | None,
) -> int:
    """Hold the model for a `serve` process."""
    from device_runtime import worker as process
    from device_runtime.engine import Engine

    def load() -> Engine:
        from device_runtime.genai_engine import GenAIEngine

        engine = GenAIEngine(
            model,
            context_length=context_length,
            threads=threads,
            kv_cache_bytes=kv_cache_mib << 20,
        )
        engine.warm(system_prompt_file.read_text() if system_prompt_file else "")
        return engine

    return process.run(load, parent)


def _open(folder: Path | None) -> Any:
    from device_runtime.bundle import open_release, own_release

    return open_release(folder) if folder is not None else own_release()


def _since_process_start() -> float:
    """Seconds since the kernel started this process, loading of the program included."""
    # Field 22 of stat (man 5 proc), counted after the name, which may hold anything.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


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
