"""The inference process: holds the model, answers requests over its pipes.

It is a process of its own because ONNX Runtime GenAI holds Python's lock while it works on a
prompt: in one process, health checks and MQTT would stand still for seconds. And a crash of
native code ends only this process.
"""

import ctypes
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from device_runtime.errors import DeviceError
from device_runtime.inference.engine import Engine, GenerationChunk
from device_runtime.worker.messages import (
    FOR_CHILD,
    Cancel,
    Chunk,
    Failed,
    Generate,
    Loaded,
    ToParent,
    Warm,
    frame,
    read,
)

log = logging.getLogger(__name__)

LEAST_STEP_S = 0.001
"""What a step counts as at least."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def command(release_folder: Path, threads: int, *, kv_cache_mib: int = 0) -> list[str]:
    """Return the command that starts the inference process: this program, frozen or from source.

    Args:
        release_folder: holds the model.
        threads: of ONNX Runtime.
        kv_cache_mib: memory for KV caches; 0 leaves it to the engine.
    """
    program = [sys.executable, "-m", "device_runtime"]
    if getattr(sys, "frozen", False):
        # Resolved now: once an update has moved the link `current`, its name means another release.
        program = [str(Path(sys.executable).resolve())]
    return [
        *(*program, "worker", "--parent", str(os.getpid()), "--release", str(release_folder)),
        *("--threads", str(threads), "--kv-cache-mib", str(kv_cache_mib)),
    ]


def run(load: Callable[[], Engine], parent: int) -> int:
    """Load the model, then answer requests until the parent goes away.

    Args:
        load: makes the engine; may take long.
        parent: process id of the one that started this process.

    Returns:
        The exit code: 0, or the error's if the model does not load.
    """
    _die_with_parent(parent)
    # A signal to the whole process group (Ctrl-C in a terminal) is for the parent, which lets
    # running answers finish and then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Inference takes all cores for seconds; the parent's short answers go first.
    os.nice(5)
    inbox, outbox = _take_pipes()
    started = time.monotonic()
    try:
        engine = load()
    except DeviceError as error:
        _send(outbox, Failed.of(error, None))
        return error.exit_code
    _send(outbox, Loaded(seconds=time.monotonic() - started))
    _Schedule(engine, inbox, outbox).run()
    return 0


class _Task:
    """A request that is being answered.

    Attributes:
        spent: seconds of the engine that it has had, more or less: see `_Schedule`.
    """

    def __init__(self, number: int, chunks: Generator[GenerationChunk], spent: float) -> None:
        self.number = number
        self.chunks = chunks
        self.spent = spent
        self.accepted = False


class _Schedule:
    """Shares the engine among the requests, which come in one thread and are worked on in another.

    Always that request goes on which has had the engine for the shortest time, for one step: some
    tokens of a prompt, or one of an answer. So a short request is not kept waiting by a long prompt
    for longer than one step, and two answers come equally fast. A new request starts with as much
    time as the least of the others has had.
    """

    def __init__(self, engine: Engine, inbox: BinaryIO, outbox: BinaryIO) -> None:
        self._engine = engine
        self._inbox = inbox
        self._outbox = outbox
        self._new: queue.SimpleQueue[Warm | Generate] = queue.SimpleQueue()
        self._tasks: list[_Task] = []
        self._cancelled: set[int] = set()

    def run(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            self._take_new()
            if self._tasks:
                self._advance(min(self._tasks, key=lambda task: task.spent))

    def _listen(self) -> None:
        try:
            self._receive_all()
        except Exception:
            # Without this thread, the process would wait for requests that never reach it.
            log.exception("the inference process cannot receive requests")
            os._exit(1)
        # The parent is gone. Native code may be at work and nothing here needs tidying.
        os._exit(0)

    def _receive_all(self) -> None:
        while (message := read(self._inbox, FOR_CHILD)) is not None:
            if isinstance(message, Cancel):
                self._cancelled.add(message.id)
            else:
                self._new.put(message)

    def _take_new(self) -> None:
        """Take what has come; with nothing at all to do, wait for it."""
        wait = not self._tasks and not self._engine.idle()
        with suppress(queue.Empty):
            while True:
                message = self._new.get(block=wait)
                wait = False
                if isinstance(message, Warm):
                    self._engine.warm(message.system)
                    continue
                cancelled = partial(self._is_cancelled, message.id)
                chunks = self._engine.generate(message.request, cancelled)
                spent = min((task.spent for task in self._tasks), default=0.0)
                self._tasks.append(_Task(message.id, chunks, spent))

    def _advance(self, task: _Task) -> None:
        """One step of a request."""
        started = time.monotonic()
        try:
            chunk = next(task.chunks)
        except DeviceError as error:
            _send(self._outbox, Failed.of(error, task.number))
            self._end(task)
            return
        # A request that waits for memory takes no time, and shall not be all that is asked.
        task.spent += max(time.monotonic() - started, LEAST_STEP_S)
        if not task.accepted or chunk.text or chunk.logprobs or chunk.finish_reason is not None:
            task.accepted = True
            _send(self._outbox, Chunk(id=task.number, chunk=chunk))
        if chunk.usage is not None:
            self._end(task)

    def _end(self, task: _Task) -> None:
        # The parent takes the last message for the end, and so may nothing of it be left here.
        task.chunks.close()
        self._tasks.remove(task)
        # Numbers grow. One may have been given up when its answer had ended already.
        oldest = min((task.number for task in self._tasks), default=task.number + 1)
        self._cancelled -= {number for number in list(self._cancelled) if number < oldest}

    def _is_cancelled(self, number: int) -> bool:
        return number in self._cancelled


def _send(outbox: BinaryIO, message: ToParent) -> None:
    outbox.write(frame(message))
    outbox.flush()


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep standard input and output for messages: what native code prints goes to stderr."""
    inbox = os.fdopen(os.dup(0), "rb")
    outbox = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return inbox, outbox


def _die_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent ends, whatever the way."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It ended before the line above took effect.
        os._exit(0)
