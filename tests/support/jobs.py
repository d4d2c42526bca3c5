"""Jobs that end in every way a job can end, for the tests of what runs them."""

import errno
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec

from packager.errors import QuantizeError
from packager.jobs import messages
from packager.jobs.harness import run_job
from packager.jobs.job import Job, JobRefusedError, Work, decode
from packager.jobs.messages import Done, Message, Refused

BLOCK = 16 << 20


class Sum(msgspec.Struct, frozen=True):
    """Result of `Add`."""

    total: int
    places: tuple[Path, ...] = ()


class Add(Job[Sum], frozen=True, kw_only=True):
    """Add numbers, reporting each, while libraries print what they like."""

    numbers: tuple[int, ...]
    folder: Path

    def run(self, work: Work) -> Sum:
        for number in self.numbers:
            print('{"type":"Progress","amount":99}')
            os.system("echo noise >&2")
            work.advance(number)
        (work.target / "made").write_text(str(self.folder.name))
        return Sum(sum(self.numbers))


class Refuse(Job[None], frozen=True, kw_only=True):
    """Refuse."""

    hint: str

    def run(self, work: Work) -> None:
        raise JobRefusedError("the text is too short", hint=self.hint)


class Fail(Job[None], frozen=True, kw_only=True):
    """Fail with an error, which `cause` is behind."""

    message: str
    cause: str = ""

    def run(self, work: Work) -> None:
        try:
            if self.cause == "memory":
                raise MemoryError
            if self.cause == "disk":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except (MemoryError, OSError) as error:
            raise RuntimeError(self.message) from error
        raise RuntimeError(self.message)


class Signal(Job[None], frozen=True, kw_only=True):
    """End by a signal that somebody sends."""

    number: int

    def run(self, work: Work) -> None:
        os.kill(os.getpid(), self.number)
        signal.pause()


class Vanish(Job[None], frozen=True, kw_only=True):
    """End as if all were well, without a result."""

    def run(self, work: Work) -> None:
        os._exit(0)


class Fill(Job[None], frozen=True, kw_only=True):
    """Fill the disk, and report it as libraries do that know no error numbers."""

    def run(self, work: Work) -> None:
        try:
            with (work.target / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
        except OSError:
            pass
        raise RuntimeError("serialization failed")


class Eat(Job[None], frozen=True, kw_only=True):
    """Take memory until the kernel ends it."""

    def run(self, work: Work) -> None:
        eaten = []
        while True:
            eaten.append(b"x" * BLOCK)


class Wait(Job[None], frozen=True, kw_only=True):
    """Start a program, write down its process and one's own, and wait."""

    def run(self, work: Work) -> None:
        with subprocess.Popen(["sleep", "600"]) as child:
            (work.target / "processes").write_text(f"{os.getpid()} {child.pid}")
            work.advance(1)
            time.sleep(600)


def here(
    job: Job[Any],
    target: Path | None,
    fields: IO[bytes],
    log: IO[bytes],
    _what: str,
    advance: Callable[[int], None],
) -> tuple[int, Message | None]:
    """Run a job in this process; takes the place of `harness._process`."""
    forget_builder()
    decoded = decode(fields.read(), type(job))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in a process of its own, they are in the log
            result = decoded.run(Work(target, advance))
    except JobRefusedError as refusal:
        return 0, Refused(str(refusal), refusal.hint)
    except Exception as error:
        log.write(traceback.format_exc().encode())
        return messages.status_of(error), None
    return 0, Done(msgspec.Raw(msgspec.json.encode(result)), 0)


def forget_builder() -> None:
    """Have the model builder imported again: jobs change it for their own process."""
    folder = f"onnxruntime_genai{os.sep}models{os.sep}"
    for name, module in [*sys.modules.items()]:
        # Some of its modules have names of their own, such as `builders`.
        if folder in (getattr(module, "__file__", None) or ""):
            del sys.modules[name]


def main() -> None:
    """Run `Eat`, and print how it ended."""
    try:
        run_job(Eat(), what="Eating", error=QuantizeError, hint="")
    except Exception as error:
        print(type(error).__name__, error)


def wait_to_be_killed() -> None:
    """Run `Wait` for the folder in the arguments, and end by SIGKILL once it runs."""

    def end(_amount: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    folder = Path(sys.argv[1])
    run_job(Wait(), folder, what="Waiting", error=QuantizeError, hint="", advance=end)
