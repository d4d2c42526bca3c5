"""The threads that a release's model is fastest with here, as `tune` has measured it.

They are kept in the state folder, with everything that they depend on. If any of it is another one,
they are ignored: a setting for another model or processor may be slower than the default.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

import device_runtime
from device_runtime.bundle.release import Release
from device_runtime.durable import open_folder
from device_runtime.errors import ServiceError
from device_runtime.logs import event
from device_runtime.processor import fingerprint

log = logging.getLogger(__name__)

FILE_NAME = "tuning.json"
MAX_BYTES = 64 << 10
MAX_CPU = 8191
"""Highest number of a CPU that Linux can be built for (NR_CPUS on x86-64)."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """Threads of the inference process.

    Attributes:
        threads: their number.
        cpus: the only CPUs that they run on; empty for any.
    """

    threads: Annotated[int, Meta(ge=1, le=1024)]
    cpus: tuple[Annotated[int, Meta(ge=0, le=MAX_CPU)], ...] = ()

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{threads} on CPU {','.join(map(str, self.cpus))}" if self.cpus else threads

    def pin(self) -> None:
        """Keep this process, and the threads that it will start, on the CPUs."""
        if self.cpus:
            # One may have gone offline: the model then runs on any.
            with suppress(OSError):
                os.sched_setaffinity(0, self.cpus)


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """A setting, and everything that it depends on.

    Attributes:
        release: digest of the release.
        runtime: version of the program.
        processor: fingerprint of the processor.
        setting: the setting.
        gain: seconds of a request with the default, divided by those with the setting.
    """

    release: str
    runtime: str
    processor: str
    setting: Setting
    gain: float


def read(folder: Path, release: Release) -> Setting | None:
    """Return the setting for a release; None for the default."""
    try:
        with open_folder(folder) as opened, opened.file(FILE_NAME) as file:
            tuning = msgspec.json.decode(file.read(MAX_BYTES), type=Tuning)
        reason = _differs(tuning, release)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = f"it cannot be read: {error}"
    if reason:
        event(log, logging.WARNING, "tuning_ignored", file=folder / FILE_NAME, reason=reason)
        return None
    return tuning.setting


def _differs(tuning: Tuning, release: Release) -> str:
    """Describe why a setting does not apply here; empty if it does."""
    for name, value, now in (
        ("release", tuning.release, release.digest),
        ("version of the program", tuning.runtime, device_runtime.__version__),
        ("processor, or another part of it", tuning.processor, fingerprint()),
    ):
        if value != now:
            return f"it was measured with another {name}"
    return ""


def write(folder: Path, release: Release, setting: Setting, gain: float) -> None:
    """Keep a setting for a release, in place of an earlier one.

    Raises:
        OSError: the folder cannot be written to.
    """
    tuning = Tuning(
        release=release.digest,
        runtime=device_runtime.__version__,
        processor=fingerprint(),
        setting=setting,
        gain=round(gain, 3),
    )
    # The service's user reads what root has written.
    with open_folder(folder) as opened:
        opened.write(FILE_NAME, msgspec.json.encode(tuning))


def remove(folder: Path) -> bool:
    """Return to the default; return False if it applies already.

    Raises:
        OSError: the folder cannot be written to.
    """
    with open_folder(folder) as opened:
        if opened.stat(FILE_NAME) is None:
            return False
        opened.remove(FILE_NAME)
    return True


@contextmanager
def measuring(folder: Path) -> Iterator[None]:
    """Have the processor to oneself, as far as services with this state folder go.

    Raises:
        OSError: the folder cannot be opened.
        ServiceError: such a service runs, or another one measures.
    """
    with open_folder(folder) as opened:
        try:
            fcntl.flock(opened.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(
                f"a service that uses {folder} is running, or another tune: both would measure "
                "each other",
                hint="Stop it first: systemctl stop edgepack",
            ) from None
        yield


@contextmanager
def serving(folder: Path | None) -> Iterator[None]:
    """Have `measuring` refused while a service runs; a measurement does not keep one from it.

    Args:
        folder: the service's state folder; None without one.
    """
    descriptor = None
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY) if folder is not None else None
    try:
        if descriptor is not None:
            _share(descriptor)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _share(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        event(log, logging.WARNING, "tune_is_running", reason=error)
