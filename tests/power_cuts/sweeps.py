"""Sweeps over the moments at which a change is interrupted: all of them, or a sample."""

import errno
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from device_runtime.errors import ResourceError
from tests.power_cuts.scenarios import SCENARIOS, Device
from tests.support import syscalls
from tests.support.power_cuts import Disk

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)
_MEMORY = Path("/dev/shm")


@contextmanager
def device_before(name: str) -> Iterator[Device]:
    """A device before a scenario, in memory: the model of a disk is the tests' own."""
    folder = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=folder) as work:
        yield Device(Path(work), SCENARIOS[name])


def kill(name: str, sample: int | None = None) -> int:
    """Kill a change at each call that changes the disk, and check the device each time.

    Args:
        name: name of the scenario.
        sample: number of calls to try, from all over the change; None for all.

    Returns:
        The number of calls that were tried.
    """
    with device_before(name) as device:
        device.reset()
        calls = syscalls.run(device.change).calls
        chosen = _chosen(len(calls), sample)
        for number in chosen:
            device.reset()
            killed = syscalls.run(device.change, number)
            with _noted(f"{name}: killed at call {number}, {calls[number]}"):
                assert killed.status is None, killed.output
                device.start(repairing=name == "repair")
                device.converge()
    return len(chosen)


def lose(name: str, sample: int | None = None) -> int:
    """Cut the power before each fsync of a change and at its end, with all lost that may be.

    Two extremes each time: no name got to the disk by itself, or all did, ahead of the contents.

    Args:
        name: name of the scenario.
        sample: number of cuts to try, from all over the change; None for all.

    Returns:
        The number of cuts that were tried.
    """
    cuts: list[Path] = []
    with device_before(name) as device, pytest.MonkeyPatch.context() as patch:
        device.reset()
        disk = Disk(device.root, patch)

        def cut() -> None:
            for names in (False, True):
                cuts.append(device.root.with_name(f"cut-{len(cuts)}"))
                disk.cut(cuts[-1], names=names)

        disk.before_flush = cut
        device.quietly_change()
        cut()
        patch.undo()
        disk.close()
        chosen = _chosen(len(cuts), sample)
        for number in chosen:
            device.reset(cuts[number])
            names = "with all names" if number % 2 else "with no other names"
            with _noted(f"{name}: cut before fsync {number // 2}, {names}"):
                if number >= len(cuts) - 2:
                    assert device.is_done, "the completed change is lost"
                device.start(repairing=name == "repair")
                device.converge()
    return len(chosen)


def fail(name: str, sample: int | None = None) -> int:
    """Let each call of a change that changes the disk fail in each way, and check the device.

    A disk that becomes read-only stays so: all later calls fail as well.

    Args:
        name: name of the scenario.
        sample: number of failures to try, from all over the change; None for all.

    Returns:
        The number of failures that were tried.
    """
    with device_before(name) as device:
        device.reset()
        calls = syscalls.run(device.change).calls
        chosen = _chosen(len(calls) * len(ERRORS), sample)
        for number, error in (
            (choice // len(ERRORS), ERRORS[choice % len(ERRORS)]) for choice in chosen
        ):
            device.reset()
            failed = syscalls.run(device.change, number, error, lasts=error == errno.EROFS)
            with _noted(f"{name}: {errno.errorcode[error]} at call {number}, {calls[number]}"):
                assert failed.status is not None
                if failed.status == 0:
                    assert device.is_done, failed.output
                elif not device.scenario.by_guard:  # which is started again until it succeeds
                    assert failed.status == ResourceError.exit_code, failed.output
                    assert "error: " in failed.output
                    assert "hint: " in failed.output
                device.start(repairing=name == "repair")
                device.converge(shared=calls[number] not in ("link", "linkat"))
    return len(chosen)


def _chosen(count: int, sample: int | None) -> list[int]:
    if sample is None or sample >= count:
        return list(range(count))
    return sorted(random.Random(count).sample(range(count), sample))


@contextmanager
def _noted(where: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(where)
        raise
