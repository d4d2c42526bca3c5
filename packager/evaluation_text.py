"""The text that models are calibrated and measured on, and what the original model makes of it.

Without a file, the model itself writes it: answers to the prompts of `packager.prompts`, sampled
from its own distribution. Nothing must be fetched, it has the model's chat markup, and it is what
the model will be near in use. All is cut into windows of `WINDOW` tokens, packed, without padding.
"""

import importlib.metadata
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from packager import cache, console, prompts, reference_child
from packager.child import run_module
from packager.errors import EvaluationError
from packager.reference_child import Job, Text
from packager.source import ModelSource, as_hf_folder

WINDOW = 256
CALIBRATION_WINDOWS = 32
EVALUATION_WINDOWS = 12
ANSWER_TOKENS = 48
SEED = 0
MAX_TEXT_BYTES = 10_000_000
"""Of a text file. A few thousand tokens are taken from it, but all of it goes through the
tokenizer."""


def prepare(
    source: ModelSource,
    *,
    eval_text: Path | None = None,
    calibration_text: Path | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Everything that calibration and evaluation need of the original model. Cached.

    Args:
        source: the original model; not ONNX.
        eval_text: UTF-8 text to measure on; None for text that the model writes.
        calibration_text: UTF-8 text to calibrate with; None likewise.
        trust_remote_code: run Python code that comes with the model.

    Returns:
        A folder with

        - `calibration.npy`: int64 `[windows, WINDOW]`, token ids; the same for the same
          `calibration_text`, whatever `eval_text` is;
        - `evaluation.npy`: int64 `[windows, WINDOW]`, none of them in the calibration;
        - `logprobs.npy`: float16 `[windows, WINDOW - 1, vocabulary]`, natural logarithms of the
          original model's (fp32) probabilities of the tokens that follow;
        - `top1.npy`: int64 `[windows, WINDOW - 1]`, its first choices;
        - `answers.json`: what it says to the fixed prompts, greedily.

    Raises:
        EvaluationError: a text is empty, too short, too large or no UTF-8, or the two overlap.
        ModelSourceError: the model cannot be read.
        ResourceError: memory or disk space ran out.
    """
    files = {"evaluation": eval_text, "calibration": calibration_text}
    digests = {name: _checked(path) for name, path in files.items() if path is not None}
    if len(digests) == 2 and len(set(digests.values())) == 1:
        raise EvaluationError("the texts overlap: they are the same file", hint=OVERLAP_HINT)
    job = Job(
        source="",
        window=WINDOW,
        calibration=Text(windows=CALIBRATION_WINDOWS, prompts=prompts.CALIBRATION, seed=SEED),
        evaluation=Text(windows=EVALUATION_WINDOWS, prompts=prompts.EVALUATION, seed=SEED + 1),
        shown=prompts.SHOWN,
        answer_tokens=ANSWER_TOKENS,
        trust_remote_code=trust_remote_code,
    )
    inputs = {
        "source": source.digest,
        "job": msgspec.to_builtins(job),
        "texts": digests,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "writer": cache.file_digest(Path(reference_child.__file__)),
    }

    def make(target: Path) -> None:
        folder = as_hf_folder(source, trust_remote_code=trust_remote_code)
        whole = msgspec.structs.replace(
            job,
            source=str(folder),
            calibration=_from(job.calibration, calibration_text),
            evaluation=_from(job.evaluation, eval_text),
        )
        with _progress(whole) as on_line:
            output = run_module(
                "packager.reference_child",
                [msgspec.json.encode(whole).decode(), target],
                what="Asking the original model",
                error=EvaluationError,
                hint="Nothing was written. See whether transformers can load and run the model.",
                on_line=on_line,
            )
        refused = json.loads(output.splitlines()[-1]).get("refused")
        if refused is not None:
            hint = OVERLAP_HINT if "overlap" in refused else "Give a longer text."
            raise EvaluationError(refused, hint=hint)

    return cache.stage("reference", inputs, make)


OVERLAP_HINT = (
    "What a model was fitted to tells nothing of the rest: give two different texts, or leave one "
    "of them to the model."
)


def _checked(path: Path) -> str:
    """The digest of a text file that can be used."""
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise EvaluationError(
            f"{path} has more than {MAX_TEXT_BYTES // 1_000_000} MB",
            hint=f"Cut it: {EVALUATION_WINDOWS * WINDOW} tokens are measured, a page or two.",
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


def _from(text: Text, path: Path | None) -> Text:
    return msgspec.structs.replace(text, file=str(path.absolute())) if path else text


@contextmanager
def _progress(job: Job) -> Iterator[Callable[[str], None]]:
    """A bar over the tokens that go through the model, and one line on how long that will take."""
    written = [text.windows for text in (job.calibration, job.evaluation) if text.file is None]
    total = (sum(written) + job.evaluation.windows) * job.window
    done = 0
    started: float | None = None
    told = False

    with console.progress("Writing and reading", total, "tokens") as advance:

        def on_line(line: str) -> None:
            nonlocal done, started, told
            if not line.startswith("tokens "):
                return
            tokens = int(line.removeprefix("tokens "))
            advance(tokens)
            # The first step reads the weights from disk; it tells nothing of the others.
            if started is None:
                started = time.monotonic()
                return
            done += tokens
            elapsed = time.monotonic() - started
            if not told and elapsed > ESTIMATE_AFTER_S:
                told = True
                left = elapsed / done * (total - done)
                console.note(f"the original model takes about {left / 60 + 1:.0f} min for this")

        yield on_line


ESTIMATE_AFTER_S = 5.0
