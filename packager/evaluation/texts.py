"""The text that models are calibrated and measured on, and the reference model's results for it.

Without a file, the model itself writes it: answers to the prompts of `evaluation.prompts`. Nothing
must be fetched, the text has the model's chat markup, and it is what the model generates in use.
All is cut into windows of `WINDOW` tokens, packed, without padding. The texts that the default
model writes come with edgepack (`written`). Calibration also gets plain text, `plain.txt`: prose in
several languages, documentation and code, which a chat model's answers have little of.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packager import cache, console, machine, plan
from packager.errors import EvaluationError
from packager.evaluation import prompts, tasks, written
from packager.jobs import keys
from packager.jobs.convert_gguf import AT_ONCE, PART
from packager.jobs.harness import run_job
from packager.jobs.reference import Cut, Questions, Refer, Write
from packager.models import gguf, shape
from packager.models.shape import WINDOW
from packager.models.source import ModelSource, as_hf_folder, hf_folder, must_convert
from packager.plan import Need
from packager.schedule import Stages

QUESTIONS = (
    Questions(prompts=prompts.SHOWN, max_tokens=48),
    Questions(prompts=tuple(task.prompt for task in tasks.TASKS), max_tokens=24),
)
TURN = 96
"""Tokens that one of these prompts takes with its markup and answer, more than most do."""
MAX_TEXT_BYTES = 10_000_000
"""Largest text file. A few thousand tokens are taken from it, but all of it goes through the
tokenizer."""
RUN = 32
"""Tokens in a row that make a passage in common of two texts, rather than a phrase."""
OVERLAP_HINT = (
    "Results on the text that a model was fitted to say nothing of other text: give two different "
    "texts, or leave one of them to the model."
)


@dataclass(frozen=True, kw_only=True)
class WindowSet:
    """A set of windows.

    Attributes:
        windows: how many.
        least: fewest windows that a file must give.
        prompts: prompts that the model answers to write them.
        seed: seed of the sampling.
    """

    windows: int
    least: int
    prompts: tuple[str, ...]
    seed: int


CALIBRATION = WindowSet(windows=32, least=1, prompts=prompts.CALIBRATION, seed=0)
PLAIN = Path(__file__).with_name("plain.txt")
PLAIN_WINDOWS = 32
"""Windows of plain text in the calibration set. With answers alone, the outputs of a calibrated
layer on other text were no closer than with weights rounded to nearest, for the widest inputs."""
LARGE = 1_000_000_000
"""Parameters above which half of each part of the calibration set is used: otherwise calibration
takes longer than the hour that a build of 4 billion is to take on two cores."""
EVALUATION = WindowSet(windows=12, least=2, prompts=prompts.EVALUATION, seed=1)


def prepare(
    source: ModelSource,
    *,
    eval_text: Path | None = None,
    calibration_text: Path | None = None,
    calibrate: bool = True,
    trust_remote_code: bool = False,
    ahead: Need | None = None,
) -> Path:
    """Prepare everything that calibration and evaluation need of the reference model. Cached.

    Args:
        source: the reference model; not ONNX.
        eval_text: UTF-8 text to measure on; None for text that the model writes.
        calibration_text: UTF-8 text to calibrate with; None likewise.
        calibrate: whether calibration text is needed.
        trust_remote_code: run Python code that comes with the model.
        ahead: resources that the work that follows takes; if this machine does not have them, the
            model is not run in the first place.

    Returns:
        A folder with

        - `calibration.npy` if that is needed: int64 `[windows, WINDOW]`, token ids; the same for
          the same `calibration_text`, whatever `eval_text` is. Without it, plain text is last;
        - `evaluation.npy`: int64 `[windows, WINDOW]`, none of them in the calibration;
        - `logprobs.npy`: float16 `[windows, WINDOW - 1, vocabulary]`, natural logarithms of the
          reference model's probabilities of the tokens that follow;
        - `top1.npy`: int64 `[windows, WINDOW - 1]`, its first choices;
        - `answers.json`: its greedy answers to the fixed prompts and the tasks.

    Raises:
        EvaluationError: a text is empty, too short, too large or not UTF-8, or the two overlap.
        ModelSourceError: the model cannot be read.
        ResourceError: memory or disk space ran out, or would.
    """
    sets = {"evaluation": (EVALUATION, eval_text)}
    if calibrate:
        sets["calibration"] = (calibration(source), calibration_text)
    digests = {name: _checked(path) for name, (_, path) in sets.items() if path is not None}
    model = _ReferenceModel(source, trust_remote_code, ahead)
    # Defects of a file are reported before the model works for minutes.
    order = sorted(sets, key=lambda name: sets[name][1] is None)
    windows = {}
    for name in order:
        with console.stage(f"{name} text"):
            windows[name] = model.windows(*sets[name], digests.get(name))
    if calibrate and calibration_text is None:
        windows["calibration"] = model.with_plain_text(windows["calibration"])
    if digests and calibrate:
        check_disjoint(np.load(windows["calibration"]), np.load(windows["evaluation"]))
    with console.stage(Stages.REFERENCE):
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
    """Estimate the resources that running the reference model takes."""
    return _need(source, floats=in_floats(source))


def calibration(source: ModelSource) -> WindowSet:
    """Return the windows that a model writes for its calibration."""
    return replace(CALIBRATION, windows=_of_size(source, CALIBRATION.windows))


def calibration_windows(source: ModelSource) -> int:
    """Return the number of windows in the calibration set that a model gets without a file."""
    return _of_size(source, CALIBRATION.windows) + _of_size(source, PLAIN_WINDOWS)


def calibrated_in_bfloat16(source: ModelSource) -> bool:
    """Return whether a model's layers run in bfloat16 to gather their inputs for calibration."""
    return source.parameters > LARGE and machine.multiplies_bfloat16()


def _of_size(source: ModelSource, windows: int) -> int:
    return windows // 2 if source.parameters > LARGE else windows


def write_job(source: ModelSource, of: WindowSet, *, trust_remote_code: bool = False) -> Write:
    """Make the job that lets a model write a set of windows."""
    return Write(
        **_common(source, trust_remote_code),
        prompts=of.prompts,
        at_once=plan.at_once(
            shape.shape(source), len(of.prompts), of.windows * WINDOW, floats=in_floats(source)
        ),
        seed=of.seed,
        windows=of.windows,
        window=WINDOW,
    )


def run(job: Cut | Write | Refer, target: Path, title: str, tokens: int) -> None:
    """Run a job of the reference model, with its progress.

    Args:
        job: the job.
        target: folder that gets its files.
        title: of the progress.
        tokens: number of tokens that go through the model.
    """
    with console.progress(title, tokens, "tokens") as advance:
        run_job(
            job,
            target,
            what="Running the reference model",
            error=EvaluationError,
            hint="Nothing was written. Check that transformers can load and run the model.",
            advance=advance,
        )


def _common(source: ModelSource, trust_remote_code: bool) -> dict[str, Any]:
    """Return the fields that all jobs of the reference model have."""
    return {
        "source": hf_folder(source, trust_remote_code=trust_remote_code),
        "floats": in_floats(source),
        "trust_remote_code": trust_remote_code,
    }


def in_floats(source: ModelSource) -> bool:
    """Return whether the reference model generates in fp32 on this machine."""
    return plan.in_floats(shape.shape(source), _need(source, floats=True))


def _need(source: ModelSource, *, floats: bool) -> Need:
    of = shape.shape(source)
    running = plan.asking(
        of, written=calibration(source).windows * WINDOW, read=EVALUATION.windows, floats=floats
    )
    return running.then(conversion(source)) if must_convert(source) else running


def conversion(source: ModelSource) -> Need:
    """Forecast making the Hugging Face folder of a source that is not one."""
    of = shape.shape(source)
    if source.kind == "gguf" and gguf.read(source.path).architecture not in AT_ONCE:
        return plan.converting(of, PART)
    whole = source.kind == "gguf" or source.quantization
    return plan.converting(of) if whole else plan.extracting(of)


class _ReferenceModel:
    """The reference model, run in child processes."""

    def __init__(self, source: ModelSource, trust_remote_code: bool, ahead: Need | None) -> None:
        self._source = source
        self._trust = trust_remote_code
        self._ahead = ahead
        self._common = _common(source, trust_remote_code)

    def _ready(self) -> None:
        """Check that this machine has the resources, and convert the model if need be."""
        own = need(self._source)
        if self._ahead is None:
            plan.check(own, "running the reference model")
        else:
            plan.check(own.then(self._ahead), "the build")
        if not self._common["floats"]:
            console.note("the reference model generates in its stored dtype")
        as_hf_folder(self._source, trust_remote_code=self._trust)

    def windows(self, of: WindowSet, text: Path | None, digest: str | None) -> Path:
        """Return the file with the windows of a set, from a text or written by the model."""
        content = {self._source.path: self._source.digest}
        if text is not None:
            text = text.absolute()
            content[text] = digest or cache.file_digest(text)
            job: Cut | Write = Cut(
                **self._common, text=text, least=of.least, most=of.windows, window=WINDOW
            )
        else:
            job = write_job(self._source, of, trust_remote_code=self._trust)
            known = written.find(self._source.digest, job)
            if known is not None:
                return known.unpacked()

        inputs = keys.inputs(job, content=content)

        def make(target: Path) -> None:
            self._ready()
            folder = cache.unfinished(inputs)
            run(job, folder, "Writing text", of.windows * WINDOW)
            (target / "windows.npy").hardlink_to(folder / "windows.npy")

        return cache.stage("text", inputs, make) / "windows.npy"

    def with_plain_text(self, written: Path) -> Path:
        """Return a file with the windows of another file, and those of the plain text."""
        count = _of_size(self._source, PLAIN_WINDOWS)
        plain = self.windows(replace(CALIBRATION, windows=count), PLAIN, cache.file_digest(PLAIN))

        def make(target: Path) -> None:
            np.save(target / "windows.npy", np.concatenate([np.load(written), np.load(plain)]))

        inputs = {"written": written.parent.name, "plain": plain.parent.name}
        return cache.stage("text", inputs, make) / "windows.npy"

    def reference(self, windows: Path) -> Path:
        """Return the folder that `prepare` describes, without calibration."""
        count = sum(len(asked.prompts) for asked in QUESTIONS)
        job = Refer(
            **self._common,
            windows=windows,
            questions=QUESTIONS,
            at_once=plan.at_once(
                shape.shape(self._source), count, count * TURN, floats=self._common["floats"]
            ),
        )

        inputs = keys.inputs(job, content={self._source.path: self._source.digest})

        def make(target: Path) -> None:
            self._ready()
            shutil.copyfile(windows, target / "evaluation.npy")
            answers = sum(len(asked.prompts) * asked.max_tokens for asked in QUESTIONS)
            folder = cache.unfinished(inputs)
            run(job, folder, "Reading text", np.load(windows).size + answers)
            for name in ("logprobs.npy", "top1.npy", "answers.json"):
                (target / name).hardlink_to(folder / name)

        return cache.stage("reference", inputs, make)


def _checked(path: Path) -> str:
    """Return the digest of a text file, once it is known to be valid."""
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise EvaluationError(
            f"{path} is larger than {MAX_TEXT_BYTES // 1_000_000} MB",
            hint=f"Cut it: {EVALUATION.windows * WINDOW} tokens are measured, a few pages.",
        )
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EvaluationError(
            f"{path} is not UTF-8 text (byte {error.start})",
            hint=f"Convert it: iconv -f latin1 -t utf-8 {path.name}",
        ) from None
    if not text.strip():
        raise EvaluationError(f"{path} is empty", hint="Give a text of a page or more.")
    return cache.bytes_digest(data)


def check_disjoint(calibration: NDArray[np.int64], evaluation: NDArray[np.int64]) -> None:
    """Reject an evaluation text that the calibration text contains, wherever windows begin.

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
