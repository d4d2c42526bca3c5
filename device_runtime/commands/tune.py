"""`edgepack-runtime tune`: the threads that a release is fastest with on this device."""

import asyncio
import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from device_runtime.commands.options import (
    Grouped,
    as_json,
    config_file,
    configured,
    open_or_own,
    release,
    resolve,
)
from device_runtime.errors import ResourceError, ServiceError

if TYPE_CHECKING:
    from device_runtime.bench.tuning import Outcome
    from device_runtime.bundle.release import Release
    from device_runtime.config.options import RuntimeConfig

SECONDS = 60


@click.command(cls=Grouped)
@configured("state_folder")
@release
@config_file
@click.option(
    "--seconds",
    type=click.IntRange(1, 86400),
    default=SECONDS,
    show_default=True,
    help="Time to search for; a device that needs seconds to load the model needs more.",
)
@click.option("--reset", is_flag=True, help="Return to the default.")
@as_json
def tune(
    state_folder: Path | None,
    release: Path | None,
    config_file: Path | None,
    seconds: int,
    reset: bool,
    as_json: bool,
) -> None:
    """Find the threads that the model is fastest with here, and keep them in the state folder.

    The service, generate, chat and bench use them from their next start on, unless the threads are
    configured. Nothing is kept that is not clearly faster than the default; Ctrl-C leaves all as
    it was. Stop the service before. See docs/tuning.md.

    \b
    Examples:
      edgepack-runtime tune
      edgepack-runtime tune --seconds 600 --json
      edgepack-runtime tune --reset
    """
    import msgspec

    from device_runtime.commands import tuned
    from device_runtime.worker import tuning

    opened = open_or_own(release)
    resolved = resolve(opened, config_file, state_folder=state_folder)
    folder = tuned.state_folder(resolved.config)
    if folder is None:
        raise ResourceError(
            "no state folder is set to keep the result in",
            hint="Start the service once, or set one: --state-folder FOLDER",
        )
    with _usable(folder):
        if reset:
            removed = tuning.remove(folder)
            click.echo(f"{folder / tuning.FILE_NAME} is removed" if removed else "nothing was kept")
            return
    if tuned.threads_are_set(resolved):
        raise ServiceError(
            f"the threads are configured ({resolved.origins['threads']}), and others not used",
            hint="Remove that setting first.",
        )
    with _usable(folder), tuning.measuring(folder):
        outcome = asyncio.run(_search(opened, resolved.config, folder, seconds))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(outcome)).decode())
    else:
        click.echo(_readable(outcome))


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    """Convert errors of the state folder.

    Raises:
        ResourceError: it is missing, or cannot be written to.
    """
    try:
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "it is missing, or cannot be written to")
        yield
    except OSError as error:
        raise ResourceError(
            f"cannot use the state folder {folder}: {error.strerror or error}",
            hint="Run it as root, or choose another one: --state-folder FOLDER",
        ) from None


async def _search(
    release: "Release", config: "RuntimeConfig", folder: Path, seconds: int
) -> "Outcome":
    """Search until the time is over, and keep what was chosen.

    Raises:
        DeviceError: the default fails.
        OSError: the folder cannot be written to.
    """
    from device_runtime.bench.cases import Prompts
    from device_runtime.bench.tuning import Outcome, Search, Speed, candidates, speed_of
    from device_runtime.processor import cores
    from device_runtime.worker import tuning
    from device_runtime.worker.tuning import Setting

    model = json.loads((release.model_folder / "genai_config.json").read_bytes())["model"]

    async def measure(setting: Setting) -> Speed:
        # The same prompts for all.
        prompts = Prompts(model["vocab_size"])
        return await speed_of(release, setting, prompts, kv_cache_mib=config.kv_cache_mib)

    default = Setting(threads=config.threads or cores() or 1)
    search = Search(default, candidates(default), measure, _tell)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await search.run()
    tried = search.tried()
    chosen = next((row for row in tried if row.setting == search.chosen), None)
    if chosen is not None:
        tuning.write(folder, release, chosen.setting, chosen.gain or 1.0)
    elif search.finished:
        tuning.remove(folder)
    return Outcome(
        release=release.digest,
        tried=tuple(tried),
        chosen=chosen,
        finished=search.finished,
        file=str(folder / tuning.FILE_NAME),
    )


def _readable(outcome: "Outcome") -> str:
    """Format an outcome for a terminal: a row for each setting, and what follows."""
    rows = [("", "prefill, tokens/s", "decode, tokens/s", "gain")]
    for row in outcome.tried:
        speeds = [
            f"{spread.median:.1f}, {spread.low:.1f} to {spread.high:.1f}" if spread else "-"
            for spread in (row.prefill, row.decode)
        ]
        gain = f"{row.gain:.2f}, {row.turns} turns" if row.gain is not None else row.failure
        rows.append((str(row.setting), speeds[0], speeds[1], gain or "1, the default"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if outcome.chosen is not None:
        end = f"kept: {outcome.chosen.setting}, in {outcome.file}"
    elif outcome.finished:
        end = "the default stays: nothing is clearly faster"
    else:
        end = "nothing has changed: the time was over before the search; --seconds gives it more"
    return "\n".join((*lines, "", end))


def _tell(what: str) -> None:
    click.echo(f"{what} ...", err=True)
