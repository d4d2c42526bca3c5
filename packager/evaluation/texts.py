"""The text that models are calibrated and measured on, and what the original model makes of it.

Without a file, the model itself writes it: answers to the prompts of `evaluation.prompts`. Nothing
must be fetched, it has the model's chat markup, and it is what the model says in use. All is cut
into windows of `WINDOW` tokens, packed, without padding.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packager import cache, console, machine, plan
from packager.errors import EvaluationError
from packager.evaluation import prompts
from packager.jobs import keys
from packager.jobs.harness import run_job
from packager.jobs.reference import Cut, Refer, Write
from packager.models.source import ModelSource, as_hf_folder, hf_folder
from packager.plan import WINDOW, Need

ANSWER_TOKENS = 48
MAX_TEXT_BYTES = 10_000_000
"""Of a text file. A few thousand tokens are taken from it, but all of it goes through the
tokenizer."""
RUN = 32
"""Tokens in a row from which on two texts have a passage in common, rather than a phrase."""
ESTIMATE_AFTER_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Set:
    """One set of windows: how many, how few a file may give, and what the model answers."""

    windows: int
    least: int
    prompts: tuple[str, ...]
    seed: int


CALIBRATION = Set(windows=32, least=1, prompts=prompts.CALIBRATION, seed=0)
EVALUATION = Set(windows=12, least=2, prompts=prompts.EVALUATION, seed=1)


def prepare(
    source: ModelSource,
    *,
    eval_text: Path | None = None,
    calibration_text: Path | None = None,
    calibrate: bool = True,
    trust_remote_code: bool = False,
    ahead: Need | None = None,
) -> Path:
    """Everything that calibration and evaluation need of the original model. Cached.

    Args:
        source: the original model; not ONNX.
        eval_text: UTF-8 text to measure on; None for text that the model writes.
        calibration_text: UTF-8 text to calibrate with; None likewise.
        calibrate: whether calibration text is needed.
        trust_remote_code: run Python code that comes with the model.
        ahead: what the work that follows takes; if this machine does not have that, the model is
            not asked in the first place.

    Returns:
        A folder with

        - `calibration.npy` if that is needed: int64 `[windows, WINDOW]`, token ids; the same for
          the same `calibration_text`, whatever `eval_text` is;
        - `evaluation.npy`: int64 `[windows, WINDOW]`, none of them in the calibration;
        - `logprobs.npy`: float16 `[windows, WINDOW - 1, vocabulary]`, natural logarithms of the
          original model's probabilities of the tokens that follow;
        - `top1.npy`: int64 `[windows, WINDOW - 1]`, its first choices;
        - `answers.json`: what it says to the fixed prompts, greedily.

    Raises:
        EvaluationError: a text is empty, too short, too large or no UTF-8, or the two overlap.
        ModelSourceError: the model cannot be read.
        ResourceError: memory or disk space ran out, or would.
    """
    wanted = {"evaluation": (EVALUATION, eval_text)}
    if calibrate:
        wanted["calibration"] = (CALIBRATION, calibration_text)
    digests = {name: _checked(path) for name, (_, path) in wanted.items() if path is not None}
    model = _Original(source, trust_remote_code, ahead)
    # What is wrong with a file is found before the model works for minutes.
    order = sorted(wanted, key=lambda name: wanted[name][1] is None)
    windows = {name: model.windows(*wanted[name], digests.get(name)) for name in order}
    if digests and calibrate:
        check_disjoint(np.load(windows["calibration"]), np.load(windows["evaluation"]))
    reference = model.reference(windows["evaluation"])
    if not calibrate:
        return reference

    def join(target: Path) -> None:
        shutil.copyfile(windows["calibration"], target / "calibration.npy")
        for path in reference.iterdir():
            (target / path.name).hardlink_to(path)

    inputs = {"reference": reference.name, "calibration": windows["calibration"].parent.name}
    return cache.stage("prepared", inputs, join)


def need(source: ModelSource) -> Need:
    """What it takes to ask the original model for everything."""
    return _need(source, floats=_in_floats(source))


def _in_floats(source: ModelSource) -> bool:
    """Whether the original can be asked in fp32 on this machine: not by the memory that is free
    just now, or the result would not be the same tomorrow."""
    return _need(source, floats=True).memory <= machine.memory_total()


def _need(source: ModelSource, *, floats: bool) -> Need:
    shape = plan.shape(source)
    asking = plan.asking(
        shape, written=CALIBRATION.windows * WINDOW, read=EVALUATION.windows, floats=floats
    )
    return asking.then(plan.converting(shape)) if source.kind == "gguf" else asking


class _Original:
    """The original model, asked in child processes."""

    def __init__(self, source: ModelSource, trust_remote_code: bool, ahead: Need | None) -> None:
        self._source = source
        self._trust = trust_remote_code
        self._ahead = ahead
        self._floats = _in_floats(source)
        self._common: dict[str, Any] = {
            "source": hf_folder(source),
            "floats": self._floats,
            "trust_remote_code": trust_remote_code,
        }

    def _ready(self) -> None:
        """Check that this machine has what it takes, and convert the model if need be."""
        own = need(self._source)
        if self._ahead is None:
            plan.check(own, "asking the original model")
        else:
            plan.check(own.then(self._ahead), "the build")
        if not self._floats:
            console.note(
                "the original is asked in the type it is stored in: fp32 does not fit here"
            )
        as_hf_folder(self._source, trust_remote_code=self._trust)

    def windows(self, of: Set, text: Path | None, digest: str | None) -> Path:
        """File with the windows of a set, from a text or written by the model."""
        content = {self._source.path: self._source.digest}
        if text is not None:
            text = text.absolute()
            content[text] = digest or cache.file_digest(text)
            job: Cut | Write = Cut(
                **self._common, text=text, least=of.least, most=of.windows, window=WINDOW
            )
        else:
            shape = plan.shape(self._source)
            job = Write(
                **self._common,
                prompts=of.prompts,
                at_once=plan.at_once(shape, len(of.prompts), of.windows * WINDOW),
                seed=of.seed,
                windows=of.windows,
                window=WINDOW,
            )

        def make(target: Path) -> None:
            self._ready()
            _run(job, target, "Writing text", of.windows * WINDOW)

        return cache.stage("text", keys.inputs(job, content=content), make) / "windows.npy"

    def reference(self, windows: Path) -> Path:
        """Folder as `prepare` returns it, without calibration."""
        job = Refer(
            **self._common, windows=windows, shown=prompts.SHOWN, answer_tokens=ANSWER_TOKENS
        )

        def make(target: Path) -> None:
            self._ready()
            shutil.copyfile(windows, target / "evaluation.npy")
            _run(job, target, "Reading text", np.load(windows).size)

        inputs = keys.inputs(job, content={self._source.path: self._source.digest})
        return cache.stage("reference", inputs, make)


OVERLAP_HINT = (
    "What a model was fitted to tells nothing of the rest: give two different texts, or leave one "
    "of them to the model."
)


def _run(job: Cut | Write | Refer, target: Path, title: str, tokens: int) -> None:
    with _progress(title, tokens) as advance:
        run_job(
            job,
            target,
            what="Asking the original model",
            error=EvaluationError,
            hint="Nothing was written. See whether transformers can load and run the model.",
            advance=advance,
        )


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over the tokens that go through the model, and a line on how long that will take."""
    done, told = 0, False
    started: float | None = None
    with console.progress(title, total, "tokens") as advance:

        def count(tokens: int) -> None:
            nonlocal done, started, told
            advance(tokens)
            # The first step reads the weights from disk; it tells nothing of the others.
            if started is None:
                started = time.monotonic()
                return
            done += tokens
            elapsed = time.monotonic() - started
            if not told and elapsed > ESTIMATE_AFTER_S:
                told = True
                console.note(f"{title}: up to {elapsed / done * total / 60:.1f} min")

        yield count


def _checked(path: Path) -> str:
    """The digest of a text file that can be used."""
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise EvaluationError(
            f"{path} has more than {MAX_TEXT_BYTES // 1_000_000} MB",
            hint=f"Cut it: {EVALUATION.windows * WINDOW} tokens are measured, a few pages.",
        )
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EvaluationError(
            f"{path} is no UTF-8 text (byte {error.start})",
            hint=f"Convert it: iconv -f latin1 -t utf-8 {path.name}",
        ) from None
    if not text.strip():
        raise EvaluationError(f"{path} is empty", hint="Give a text of a page or more.")
    return cache.bytes_digest(data)


def check_disjoint(calibration: NDArray[np.int64], evaluation: NDArray[np.int64]) -> None:
    """Refuse an evaluation text that the calibration text contains, wherever windows begin.

    Args:
        calibration: token ids `[windows, tokens]`.
        evaluation: likewise.

    Raises:
        EvaluationError: most of an evaluation window is in the calibration windows.
    """
    known = {run for window in calibration for run in _runs(window)}
    for number, window in enumerate(evaluation):
        runs = _runs(window)
        if 2 * sum(run in known for run in runs) > len(runs):
            raise EvaluationError(
                f"the texts overlap: window {number + 1} of the evaluation text is in the "
                "calibration text",
                hint=OVERLAP_HINT,
            )


def _runs(window: NDArray[np.int64]) -> list[bytes]:
    return [window[at : at + RUN].tobytes() for at in range(len(window) - RUN + 1)]
