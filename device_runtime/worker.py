"""The inference process: holds the model, answers one request at a time over its pipes.

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
from collections.abc import Callable
from typing import Any, BinaryIO

from device_runtime.engine import Engine, PromptTooLongError
from device_runtime.errors import DeviceError, RequestError
from device_runtime.messages import (
    FOR_CHILD,
    Cancel,
    Chunk,
    Failed,
    Generate,
    Loaded,
    ToParent,
    frame,
    read,
)

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


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
        _send(outbox, _failure(error, None))
        return error.exit_code
    _send(outbox, Loaded(seconds=time.monotonic() - started))
    _Conversation(engine, inbox, outbox).run()
    return 0


class _Conversation:
    """Reads in one thread, so that a cancellation is seen while the other one works."""

    def __init__(self, engine: Engine, inbox: BinaryIO, outbox: BinaryIO) -> None:
        self._engine = engine
        self._inbox = inbox
        self._outbox = outbox
        self._requests: queue.SimpleQueue[Generate] = queue.SimpleQueue()
        self._cancelled = -1

    def run(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            self._answer(self._requests.get())

    def _listen(self) -> None:
        while (message := read(self._inbox, FOR_CHILD)) is not None:
            if isinstance(message, Generate):
                self._requests.put(message)
            elif isinstance(message, Cancel):
                self._cancelled = message.id
        # The parent is gone. Native code may be at work and nothing here needs tidying.
        os._exit(0)

    def _answer(self, message: Generate) -> None:
        try:
            for chunk in self._engine.generate(
                message.request, lambda: self._cancelled == message.id
            ):
                _send(self._outbox, Chunk(id=message.id, chunk=chunk))
        except DeviceError as error:
            _send(self._outbox, _failure(error, message.id))


def _failure(error: DeviceError, request: int | None) -> Failed:
    kind: Any = "engine"
    if isinstance(error, RequestError):
        kind = "length" if isinstance(error, PromptTooLongError) else "request"
    return Failed(id=request, kind=kind, message=str(error), hint=error.hint)


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
