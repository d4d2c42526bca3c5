"""Run ONNX GenAI folders: measure one, let it answer, time several. Runs as a child process, for
the memory it takes and the crashes it may have:

    python -m packager.jobs.measure measure MODEL REFERENCE
    python -m packager.jobs.measure answer MODEL REFERENCE MAX_TOKENS
    python -m packager.jobs.measure time TOKENS ROUNDS MODEL...

REFERENCE is a folder of `evaluation_text.prepare`. The result is a JSON value on the last line of
stdout; `{"refused": ...}` says why there is none.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.memory import kv_cache_length
from packager.jobs import check

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

ROWS = 64
"""Tokens whose probabilities are in memory at a time; a large vocabulary takes 1 MB for each."""


class RefusedError(Exception):
    """The model cannot be measured; the message is for the user."""


class Candidate:
    """A decoder graph in ONNX Runtime on the CPU: the kernels that serve it, in their precision."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime as ort

        decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self._session: Any = ort.InferenceSession(
            str(folder / decoder["filename"]), options, providers=["CPUExecutionProvider"]
        )
        names = decoder.get("inputs", {})
        self._ids = names.get("input_ids", "input_ids")
        self._mask = names.get("attention_mask", "attention_mask")
        self._positions = names.get("position_ids", "position_ids")
        self._head_size: int = decoder["head_size"]
        self._window = kv_cache_length(decoder, 0)
        self._logits = decoder.get("outputs", {}).get("logits", "logits")

    def logits(self, window: NDArray[np.int64]) -> Floats:
        """float32 `[tokens, vocabulary]` for a window `[tokens]`, from an empty KV cache."""
        feed = {put.name: self._input(put, window[None]) for put in self._session.get_inputs()}
        (logits,) = self._session.run([self._logits], feed)
        found: Floats = logits[0].astype(np.float32)
        return found

    def _input(self, put: Any, ids: NDArray[np.int64]) -> NDArray[Any]:
        kind = np.dtype(TYPES[put.type])
        if put.name == self._ids:
            return ids.astype(kind)
        if put.name == self._mask:
            return np.ones(ids.shape, kind)
        if put.name == self._positions:
            return np.arange(ids.shape[1], dtype=kind)[None]
        # What the model has seen before: nothing.
        return np.zeros([self._size(size) for size in put.shape], kind)

    def _size(self, size: int | str) -> int:
        """A dimension of the KV cache; those that the graph leaves open have names."""
        if isinstance(size, int):
            return size
        if "batch" in size:
            return 1
        if "sliding" in size:
            # The cache of a layer that sees a window is as long as the window, filled or not.
            return self._window
        return 0 if "length" in size else self._head_size


TYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


def log_softmax(logits: Floats) -> Floats:
    """Natural logarithms of the probabilities, over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def divergence(reference: Floats, candidate: Floats) -> Floats:
    """KL(reference || candidate) in nats, `sum p (log p - log q)`, over the last axis.

    Args:
        reference: log-probabilities, float32 `[..., vocabulary]`.
        candidate: likewise.
    """
    p = np.exp(reference)
    # A token that the reference rules out adds nothing, whatever the candidate makes of it.
    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * (reference - candidate), 0)
    result: Floats = terms.sum(-1)
    return result


def measure(folder: Path, reference: Path) -> dict[str, Any]:
    """The means of each window: KL, top-1 agreement, both models' negative log-likelihood.

    Raises:
        RefusedError: not the logits that were expected.
    """
    candidate = Candidate(folder)
    windows = np.load(reference / "evaluation.npy")
    stored = np.load(reference / "logprobs.npy", mmap_mode="r")
    top1 = np.load(reference / "top1.npy")
    found: dict[str, list[float]] = {"kl": [], "top1": [], "nll": [], "reference_nll": []}
    for window, expected, choices in zip(windows, stored, top1, strict=True):
        logits = candidate.logits(window)
        if len(logits) != len(window):
            raise RefusedError(
                "the model gives the logits of the last token only (it was built with "
                "prune_lm_head), and all are needed"
            )
        if logits.shape[1] != expected.shape[1]:
            raise RefusedError(
                f"the model has a vocabulary of {logits.shape[1]} tokens, the original one of "
                f"{expected.shape[1]}"
            )
        for name, values in compare(logits[:-1], expected, choices, window[1:]).items():
            found[name].append(float(values.mean(dtype=np.float64)))
        sys.stdout.write("window\n")
    return {**found, "tokens": int(top1.size)}


def compare(
    logits: Floats, expected: NDArray[np.float16], choices: NDArray[Any], following: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """What is measured, for each token of a window.

    Args:
        logits: of the candidate, float32 `[tokens, vocabulary]`.
        expected: log-probabilities of the reference, of the same shape.
        choices: first choices of the reference, `[tokens]`.
        following: the tokens that really follow, `[tokens]`.
    """
    rows: dict[str, list[NDArray[Any]]] = {"kl": [], "nll": [], "reference_nll": []}
    for at in range(0, len(logits), ROWS):
        part = slice(at, at + ROWS)
        q = log_softmax(logits[part])
        # Rounding to half precision has moved the sum a little away from 1.
        p = log_softmax(expected[part].astype(np.float32))
        place = (np.arange(len(q)), following[part])
        rows["kl"].append(divergence(p, q))
        rows["nll"].append(-q[place])
        rows["reference_nll"].append(-p[place])
    values = {name: np.concatenate(parts) for name, parts in rows.items()}
    return {**values, "top1": logits.argmax(-1) == choices}


def answer(folder: Path, reference: Path, max_tokens: int) -> list[dict[str, str]]:
    """What a model says to the prompts that the reference has answered.

    Raises:
        RefusedError: its tokenizer is another one.
    """
    import onnxruntime_genai as og

    og.disable_telemetry_events()
    model = og.Model(str(folder))
    tokenizer = og.Tokenizer(model)
    asked = json.loads((reference / "answers.json").read_text())
    for one in asked:
        # A prompt's tokens, as the original splits it, must mean the same text here.
        if tokenizer.decode(np.array(one["tokens"], np.int32)).strip() != one["prompt"].strip():
            raise RefusedError("the model has another tokenizer than the original")
    return [
        {
            "prompt": one["prompt"],
            "reference": one["answer"],
            "quantized": check.say(model, tokenizer, folder, one["prompt"], max_tokens),
        }
        for one in asked
    ]


def decode_speeds(folders: list[Path], tokens: int, rounds: int) -> list[float]:
    """Tokens a second of each model: the median of some rounds in which they take turns."""
    import onnxruntime_genai as og

    og.disable_telemetry_events()
    models = [(og.Model(str(folder)), folder) for folder in folders]
    speeds: list[list[float]] = [[] for _ in models]
    for number in range(rounds + 1):
        for (model, folder), found in zip(models, speeds, strict=True):
            speed = _decode(og.Tokenizer(model), model, folder, tokens)
            if number > 0:  # the first round warms up
                found.append(speed)
    return [statistics.median(found) for found in speeds]


def _decode(tokenizer: Any, model: Any, folder: Path, tokens: int) -> float:
    prompt = tokenizer.encode("Once upon a time there was a")
    length = len(prompt) + tokens + 1
    # The end token must not come: all models decode the same number of tokens.
    generator = check.generator(model, folder, length, min_length=length)
    generator.append_tokens(prompt)
    generator.generate_next_token()  # the prompt's own
    started = time.perf_counter()
    for _ in range(tokens):
        generator.generate_next_token()
    return tokens / (time.perf_counter() - started)


def main(arguments: list[str]) -> Any:
    """Do what the command line says."""
    task, *rest = arguments
    if task == "measure":
        return measure(Path(rest[0]), Path(rest[1]))
    if task == "answer":
        return answer(Path(rest[0]), Path(rest[1]), int(rest[2]))
    return decode_speeds([Path(folder) for folder in rest[2:]], int(rest[0]), int(rest[1]))


if __name__ == "__main__":
    try:
        result = main(sys.argv[1:])
    except RefusedError as error:
        result = {"refused": str(error)}
    sys.stdout.write("\n" + json.dumps(result) + "\n")
