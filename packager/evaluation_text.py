"""The text that models are calibrated and measured on, and what the original model makes of it.

Without a file, the model itself writes it: answers to the prompts of `packager.prompts`, sampled
from its own distribution. Nothing must be fetched, it has the model's chat markup, and it is what
the model will be near in use. All is cut into windows of `WINDOW` tokens, packed, without padding.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

import msgspec

from packager import cache, console, prompts
from packager.child import run_module
from packager.errors import EvaluationError
from packager.reference_child import Job
from packager.source import ModelSource, as_hf_folder

WINDOW = 256
CALIBRATION_WINDOWS = 32
EVALUATION_WINDOWS = 12
ANSWER_TOKENS = 48
SEED = 0
MAX_TEXT_BYTES = 10_000_000


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
    raise NotImplementedError
