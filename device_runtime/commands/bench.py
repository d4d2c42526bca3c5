"""`edgepack-runtime bench`: the speed of a release on this device, and what limits it."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from device_runtime.bench import ROUNDS
from device_runtime.commands.options import as_json, config_file, open_or_own, release, resolve
from device_runtime.errors import ResourceError

if TYPE_CHECKING:
    from device_runtime.bench.results import Benchmark
    from device_runtime.bundle.release import Release
    from device_runtime.config.options import RuntimeConfig
    from device_runtime.worker.tuning import Setting

QUESTION = "Name the capital of France."
REQUEST_S = 24 * 3600.0
"""Timeout of a request: a long prompt takes a slow board an hour."""


@click.command()
@release
@config_file
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=ROUNDS,
    show_default=True,
    help="Rounds through all that is measured: 3 take a fast device a minute.",
)
@click.option("--profile", "profiles", is_flag=True, help="Time the operators of the model, too.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.svg",
    help="Draw prefill and decode, and the limit of the memory.",
)
@as_json
def bench(
    release: Path | None,
    config_file: Path | None,
    rounds: int,
    profiles: bool,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Measure prefill, decode, start, memory and energy, and the limit that memory sets.

    The model runs in a process of its own, as under serve. Stop a service before: it would take
    part of the processor. Figures are explained in docs/benchmarks.md.

    \b
    Examples:
      edgepack-runtime bench
      edgepack-runtime bench --rounds 1 --profile
      edgepack-runtime bench --json --picture speed.svg > speed.json
    """
    import msgspec

    from device_runtime.bench import picture as drawing
    from device_runtime.bench import profiling, starts, table
    from device_runtime.commands.engine import load_engine
    from device_runtime.commands.tuned import tuned
    from device_runtime.worker import process

    opened = open_or_own(release)
    config, setting = tuned(opened, resolve(opened, config_file))
    if picture is not None:
        _check_writable(picture)
    result = asyncio.run(_measure(opened, config, setting, rounds))
    start = [*process.program(), "generate", "--release", str(opened.folder)]
    start += ["--config", str(config_file)] if config_file is not None else []
    start += ["--max-tokens", "1", "--json", QUESTION]
    more: dict[str, object] = {"starts": starts.measure(opened, start, rounds, _tell)}
    if profiles:
        _tell("timing the operators")
        more["profile"] = profiling.profile(opened, lambda linked: load_engine(linked, config))
    result = msgspec.structs.replace(result, **more)
    if picture is not None:
        _write(picture, drawing.render(result))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(result)).decode())
    else:
        click.echo(table.render(result))


async def _measure(
    release: "Release", config: "RuntimeConfig", setting: "Setting | None", rounds: int
) -> "Benchmark":
    """Start the inference process as `serve` does, and measure it.

    Raises:
        DeviceError: the model does not load, or fails.
    """
    from device_runtime.bench import benchmark
    from device_runtime.worker.placement import Placement
    from device_runtime.worker.supervisor import Supervisor

    placement = Placement.of_release(
        release,
        threads=config.threads,
        kv_cache_mib=config.kv_cache_mib,
        wanted=config.processor,
        tuned=setting,
    )
    supervisor = Supervisor(placement, timeout_s=REQUEST_S)
    _tell("loading the model")
    try:
        await supervisor.start()
        return await benchmark.run(
            release,
            supervisor,
            placement,
            threads=config.threads,
            whole=True,
            rounds=rounds,
            tell=_tell,
        )
    finally:
        await supervisor.stop()


def _check_writable(path: Path) -> None:
    """Refuse a file that could not be written, before the minutes that it takes to fill it.

    Raises:
        ResourceError: the folder does not exist, or cannot be written to.
    """
    if not os.access(path.parent, os.W_OK):
        raise _unwritable(path, "its folder does not exist, or cannot be written to")


def _write(path: Path, text: str) -> None:
    from device_runtime.durable import written_aside

    try:
        with written_aside(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from None


def _unwritable(path: Path, reason: str) -> ResourceError:
    return ResourceError(f"cannot write {path}: {reason}", hint="Choose another file.")


def _tell(what: str) -> None:
    click.echo(f"{what} ...", err=True)
