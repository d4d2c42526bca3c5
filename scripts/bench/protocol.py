"""The line protocol between the bench and its contestants, processes of their own.

The bench writes JSON lines to a contestant's stdin, one at a time, and reads one line for each:

    {"load": {"path": "...", "context": 2048, "threads": 2}}    {"loaded": "what it says of itself"}
    {"run": {"prompt": [1, 2, 3], "count": 64}}    {"first_s": 0.1, "tokens": 64, "decode_s": 0.5}

A failure is `{"error": "..."}`. Between two lines a contestant does nothing, so all of a comparison
can be loaded at once and take turns. Contestants run in other environments: this module needs
nothing but Python.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Protocol

ROOT = Path(__file__).parents[2]


class Run(NamedTuple):
    """A prompt that was continued.

    Attributes:
        first_s: time from the prompt to the first token, seconds.
        tokens: number of tokens after the first.
        decode_s: time for these, seconds.
    """

    first_s: float
    tokens: int
    decode_s: float


class Runner(Protocol):
    """A runtime with a model: what a contestant implements."""

    def load(self, path: str, context: int, threads: int) -> str:
        """Load a model with room for so many tokens; return the settings that matter."""
        ...

    def run(self, prompt: list[int], count: int) -> Run:
        """Continue a prompt of token ids greedily, by so many tokens after the first."""
        ...


class ContestantError(Exception):
    """A contestant failed, or ended."""


def serve(runner: Runner) -> None:
    """Carry out what comes from stdin until it ends; what libraries print goes to stderr."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        ((verb, fields),) = json.loads(line).items()
        try:
            if verb == "load":
                answer: dict[str, Any] = {"loaded": runner.load(**fields)}
            else:
                answer = runner.run(**fields)._asdict()
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        pipe.write(json.dumps(answer) + "\n")
        pipe.flush()


class Contestant:
    """The bench's end: starts a contestant's process, which ends with the block.

    Args:
        name: name of the contestant, for messages.
        command: command of the process.
        environment: variables of the process, beside those of this one.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        )

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def load(self, path: Path, context: int, threads: int) -> str:
        """See `Runner.load`.

        Raises:
            ContestantError: the model does not load.
        """
        answer = self._ask("load", {"path": str(path), "context": context, "threads": threads})
        return str(answer["loaded"])

    def run(self, prompt: Sequence[int], count: int) -> Run:
        """See `Runner.run`.

        Raises:
            ContestantError: it failed.
        """
        return Run(**self._ask("run", {"prompt": list(prompt), "count": count}))

    def _ask(self, verb: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        commands: IO[str] | None = self._process.stdin
        answers: IO[str] | None = self._process.stdout
        assert commands is not None
        assert answers is not None
        try:
            commands.write(json.dumps({verb: fields}) + "\n")
            commands.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ContestantError(f"{self.name} ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContestantError(f"{self.name}: {answer['error']}")
        return answer
