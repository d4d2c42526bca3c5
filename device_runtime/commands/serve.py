"""`edgepack-runtime serve`, and the inference process that it spawns."""

import json
from pathlib import Path
from typing import Any

import click

from device_runtime.commands.options import (
    Grouped,
    config_file,
    configured,
    open_or_own,
    release,
    resolve,
)


@click.command(cls=Grouped)
@configured()
@release
@config_file
@click.option("--json", "as_json", is_flag=True, help='Print {"url": ...} once it listens.')
def serve(release: Path | None, config_file: Path | None, as_json: bool, **flags: Any) -> None:
    """Serve the model over an OpenAI-compatible HTTP API until SIGTERM or Ctrl-C.

    Options can also be set in /etc/edgepack/runtime.toml (`queue_limit = 4` for --queue-limit 4)
    and in the environment (EDGEPACK_QUEUE_LIMIT=4). Flags override the environment, which overrides
    the file; `edgepack-runtime config show` prints the origin of each value.

    \b
    Examples:
      edgepack-runtime serve
      edgepack-runtime serve --listen 127.0.0.1:8080 --threads 4 --parallel 1
      edgepack-runtime serve --mqtt mqtt://broker.local --device-id kitchen

    \b
    For access from other machines, with an API key:
      edgepack-runtime api-key new laptop --file api-keys
      edgepack-runtime serve --listen 0.0.0.0:8443 --api-keys-file api-keys \\
        --tls-certificate cert.pem --tls-key key.pem
    """
    import asyncio

    from device_runtime import logs
    from device_runtime.commands.tuned import Tuned, tuned
    from device_runtime.service import Service

    opened = open_or_own(release)

    def announce(url: str) -> None:
        click.echo(f"listening on {url}", err=True)
        if as_json:
            click.echo(json.dumps({"url": url}))

    def read() -> Tuned:
        return tuned(opened, resolve(opened, config_file, **flags))

    def check() -> None:
        Service(opened, *read(), announce, check)

    reload = True
    while reload:
        logs.set_up(resolve(opened, config_file, **flags).config.log_format)
        service = Service(opened, *read(), announce, check)
        asyncio.run(service.run())
        reload = service.reload


@click.command(hidden=True)
@click.option("--parent", type=int, required=True)
@click.option("--release", type=click.Path(path_type=Path), required=True)
@click.option("--threads", type=int, required=True)
@click.option("--kv-cache-mib", type=int, required=True)
@click.option("--cpus", required=True)
@click.option("--processor", required=True)
@click.option("--state-folder", type=click.Path(path_type=Path))
def worker(
    parent: int,
    release: Path,
    threads: int,
    kv_cache_mib: int,
    cpus: str,
    processor: str,
    state_folder: Path | None,
) -> int:
    """Run the inference process of `serve`."""
    from device_runtime.commands.engine import embedder_of, load_engine, transcriber_of
    from device_runtime.config.options import RuntimeConfig
    from device_runtime.processor import Processor
    from device_runtime.worker import process
    from device_runtime.worker.tuning import Setting

    def load() -> process.Models:
        Setting(threads=threads, cpus=tuple(map(int, filter(None, cpus.split(","))))).pin()
        opened = open_or_own(release)
        config = RuntimeConfig(
            threads=threads, kv_cache_mib=kv_cache_mib, state_folder=state_folder
        )
        engine = load_engine(opened, config, Processor(processor))
        return process.Models(
            engine, embedder_of(opened, config, engine), transcriber_of(opened, config)
        )

    return process.run(load, parent)
