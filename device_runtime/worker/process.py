"""The inference process: holds the model, answers requests over its pipes.

It is a separate process since a crash in native code, or a lack of memory, then ends only this one;
and what holds the GIL here, such as the tokenizer on a long text, does not delay health checks.
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
from typing import BinaryIO, NamedTuple

from device_runtime.errors import DeviceError
from device_runtime.inference.embedding import Embedder, EmbeddingRequest
from device_runtime.inference.engine import Engine, GenerationChunk
from device_runtime.processor import Processor
from device_runtime.speech.transcription import Transcriber, TranscriptionRequest
from device_runtime.worker.messages import (
    FOR_CHILD,
    AnyChunk,
    AnyRequest,
    Cancel,
    Chunk,
    Failed,
    Generate,
    Loaded,
    Pace,
    ToParent,
    Warm,
    frame,
    read,
)

log = logging.getLogger(__name__)

MIN_STEP_S = 0.001
"""Minimum time that a step is charged, seconds."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def program() -> list[str]:
    """Return the beginning of a command that runs this program, frozen or from source."""
    if getattr(sys, "frozen", False):
        # Resolved now: after an update, the link `current` points to another release.
        return [str(Path(sys.executable).resolve())]
    return [sys.executable, "-m", "device_runtime"]


def command(
    release_folder: Path,
    threads: int,
    *,
    cpus: tuple[int, ...] = (),
    kv_cache_mib: int = 0,
    processor: Processor = Processor.CPU,
    state_folder: Path | None = None,
) -> list[str]:
    """Return the command that starts the inference process.

    Args:
        release_folder: holds the model.
        threads: number of ONNX Runtime threads; 0 for one a core.
        cpus: the only CPUs that it runs on; empty for any.
        kv_cache_mib: memory for KV caches, MiB; 0 for the engine's default.
        processor: processor that the model runs on.
        state_folder: folder for what outlives the process; None for nowhere.
    """
    return [
        *(*program(), "worker", "--parent", str(os.getpid()), "--release", str(release_folder)),
        *("--threads", str(threads), "--kv-cache-mib", str(kv_cache_mib)),
        *("--cpus", ",".join(map(str, cpus)), "--processor", str(processor)),
        *(("--state-folder", str(state_folder)) if state_folder is not None else ()),
    ]


class Models(NamedTuple):
    """The models of a release.

    Attributes:
        engine: the model that answers.
        embedder: the embedding model; None without one.
        transcriber: the speech model; None without one.
    """

    engine: Engine
    embedder: Embedder | None = None
    transcriber: Transcriber | None = None


def run(load: Callable[[], Models], parent: int) -> int:
    """Load the model, then answer requests until the parent exits.

    Args:
        load: loads the model that answers, which may take long, and creates the others.
        parent: process id of the parent.

    Returns:
        The exit code: 0, or the error's if the model does not load.
    """
    _die_with_parent(parent)
    # A signal to the whole process group (Ctrl-C in a terminal) is for the parent, which waits for
    # running answers and then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Inference takes all cores for seconds; the parent's short responses have priority.
    os.nice(5)
    inbox, outbox = _take_pipes()
    started = time.monotonic()
    try:
        models = load()
    except DeviceError as error:
        _send(outbox, Failed.of(error, None))
        return error.exit_code
    _send(outbox, Loaded(seconds=time.monotonic() - started))
    _Schedule(models, inbox, outbox).run()
    return 0


class _Task:
    """A request that is being answered.

    Attributes:
        number: number of the request.
        chunks: generator of the request's chunks.
        spent: engine time charged to the request, seconds: see `_Schedule`.
        accepted: True once the first chunk has been sent.
        waits: True while the answer waits for a run that others can share.
    """

    def __init__(self, number: int, chunks: Generator[AnyChunk], spent: float) -> None:
        self.number = number
        self.chunks = chunks
        self.spent = spent
        self.accepted = False
        self.waits = False


class _Schedule:
    """A fair scheduler of the engine; requests arrive in one thread and run in another.

    The request that has used the models least runs next, for one step: a prefill chunk, one
    decoded token, the embedding of one text, or a token of speech. So a short request waits for a
    long prompt no longer than one step, and concurrent answers decode at the same rate: those that
    wait for their next token together, in one run, whose time is charged to each of them. A new
    request starts with the smallest time of the running ones.
    """

    def __init__(self, models: Models, inbox: BinaryIO, outbox: BinaryIO) -> None:
        self._models = models
        self._inbox = inbox
        self._outbox = outbox
        self._new: queue.SimpleQueue[Warm | Generate] = queue.SimpleQueue()
        self._tasks: list[_Task] = []
        self._cancelled: set[int] = set()
        self._share = 1.0

    def run(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            self._take_new()
            if self._tasks:
                self._advance(self._next())

    def _listen(self) -> None:
        try:
            self._receive_all()
        except Exception:
            # Without this thread, the process would wait for requests that never reach it.
            log.exception("the inference process cannot receive requests")
            os._exit(1)
        # The parent is gone. Native code may still be running, and nothing here needs a cleanup.
        os._exit(0)

    def _receive_all(self) -> None:
        while (message := read(self._inbox, FOR_CHILD)) is not None:
            if isinstance(message, Cancel):
                self._cancelled.add(message.id)
            elif isinstance(message, Pace):
                self._share = message.share
            else:
                self._new.put(message)

    def _take_new(self) -> None:
        """Take new messages; block for one if there is nothing else to do."""
        # Work ahead is for a cool processor.
        wait = not self._tasks and (self._share < 1 or not self._models.engine.idle())
        with suppress(queue.Empty):
            while True:
                message = self._new.get(block=wait)
                wait = False
                if isinstance(message, Warm):
                    self._models.engine.warm(message.system)
                    continue
                cancelled = partial(self._is_cancelled, message.id)
                chunks = self._begin(message.request, cancelled)
                spent = min((task.spent for task in self._tasks), default=0.0)
                self._tasks.append(_Task(message.id, chunks, spent))

    def _begin(self, request: AnyRequest, cancelled: Callable[[], bool]) -> Generator[AnyChunk]:
        if isinstance(request, EmbeddingRequest):
            assert self._models.embedder is not None
            return self._models.embedder.embed(request, cancelled)
        if isinstance(request, TranscriptionRequest):
            assert self._models.transcriber is not None
            return self._models.transcriber.transcribe(request, cancelled)
        return self._models.engine.generate(request, cancelled)

    def _next(self) -> list[_Task]:
        """Return the request that runs next, and those that share its run."""
        first = min(self._tasks, key=lambda task: task.spent)
        others = [task for task in self._tasks if task.waits and task is not first]
        return [first, *others] if first.waits else [first]

    def _advance(self, tasks: list[_Task]) -> None:
        """Run one step of requests that share it."""
        started = time.monotonic()
        for task in tasks:
            self._take_step(task)
        # A request that waits for memory takes no time, and must not monopolise the loop.
        spent = max(time.monotonic() - started, MIN_STEP_S)
        for task in tasks:
            task.spent += spent
        time.sleep(spent * (1 / self._share - 1))

    def _take_step(self, task: _Task) -> None:
        try:
            chunk = next(task.chunks)
        except DeviceError as error:
            _send(self._outbox, Failed.of(error, task.number))
            self._end(task)
            return
        task.waits = isinstance(chunk, GenerationChunk) and chunk.waits
        if not task.accepted or not chunk.is_empty:
            task.accepted = True
            _send(self._outbox, Chunk(id=task.number, chunk=chunk))
        if chunk.usage is not None:
            self._end(task)

    def _end(self, task: _Task) -> None:
        # To the parent the last message is the end, so nothing of the request may remain here.
        task.chunks.close()
        self._tasks.remove(task)
        # Numbers grow. A request may have been cancelled after its answer had ended.
        oldest = min((task.number for task in self._tasks), default=task.number + 1)
        self._cancelled -= {number for number in list(self._cancelled) if number < oldest}

    def _is_cancelled(self, number: int) -> bool:
        return number in self._cancelled


def _send(outbox: BinaryIO, message: ToParent) -> None:
    outbox.write(frame(message))
    outbox.flush()


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Reserve stdin and stdout for messages: the output of native code goes to stderr."""
    inbox = os.fdopen(os.dup(0), "rb")
    outbox = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return inbox, outbox


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, for whatever reason."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent ended before prctl took effect.
        os._exit(0)
