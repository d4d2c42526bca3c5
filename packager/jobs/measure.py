"""Run ONNX GenAI folders: measure one, let it answer, time several. These are jobs for the memory
they take and the crashes they may have.

A reference is a folder of `evaluation_text.prepare`.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from device_runtime.memory import kv_cache_length
from packager.jobs import generation
from packager.jobs.job import Job, RefusedError, Work

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

ROWS = 64
"""Tokens whose probabilities are in memory at a time; a large vocabulary takes 1 MB for each."""

HINT = (
    "Give the original that the model was made from (--reference), and build models that are to "
    "be measured without prune_lm_head."
)


class WindowMeans(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of a model: means over the tokens of each window.

    Attributes:
        kl: KL divergence from the reference, nats.
        top1: share of tokens of which both models have the same first choice.
        nll: negative log-likelihood of the tokens that follow, nats.
        reference_nll: the same of the reference.
        tokens: number of tokens in all windows.
    """

    kl: tuple[float, ...]
    top1: tuple[float, ...]
    nll: tuple[float, ...]
    reference_nll: tuple[float, ...]
    tokens: int


class Measure(Job[WindowMeans], frozen=True, kw_only=True):
    """Measure a model against its reference. Progress: windows.

    Attributes:
        model: ONNX GenAI folder for the CPU.
        reference: folder.
    """

    model: Path
    reference: Path

    def run(self, work: Work) -> WindowMeans:
        """Measure it.

        Raises:
            RefusedError: not the logits that were expected.
        """
        graph = DecoderGraph(self.model)
        windows = np.load(self.reference / "evaluation.npy")
        stored = np.load(self.reference / "logprobs.npy", mmap_mode="r")
        top1 = np.load(self.reference / "top1.npy")
        means: dict[str, list[float]] = {"kl": [], "top1": [], "nll": [], "reference_nll": []}
        for window, expected, choices in zip(windows, stored, top1, strict=True):
            logits = graph.logits(window)
            _check_shape(logits, window, expected)
            for name, values in compare(logits[:-1], expected, choices, window[1:]).items():
                means[name].append(float(values.mean(dtype=np.float64)))
            work.advance(1)
        lists = {name: tuple(values) for name, values in means.items()}
        return WindowMeans(**lists, tokens=int(top1.size))


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of both models to a prompt."""

    prompt: str
    reference: str
    quantized: str


class AnswerPrompts(Job[tuple[Answer, ...]], frozen=True, kw_only=True):
    """Answer the prompts that the reference has answered, greedily.

    Attributes:
        model: ONNX GenAI folder for the CPU.
        reference: folder.
        max_tokens: length of an answer.
    """

    model: Path
    reference: Path
    max_tokens: int

    def run(self, work: Work) -> tuple[Answer, ...]:
        """Answer them.

        Raises:
            RefusedError: the model's tokenizer is another one.
        """
        import onnxruntime_genai as og

        model = generation.load(self.model)
        tokenizer = og.Tokenizer(model)
        given = json.loads((self.reference / "answers.json").read_text())
        for shown in given:
            # A prompt's tokens, as the original splits it, must mean the same text here.
            text = tokenizer.decode(np.array(shown["tokens"], np.int32))
            if text.strip() != shown["prompt"].strip():
                raise RefusedError("the model has another tokenizer than the original", hint=HINT)
        return tuple(
            Answer(
                prompt=shown["prompt"],
                reference=shown["answer"],
                quantized=generation.say(
                    model, tokenizer, self.model, shown["prompt"], self.max_tokens
                ),
            )
            for shown in given
        )


class TimeDecoding(Job[tuple[float, ...]], frozen=True, kw_only=True):
    """Time how fast models decode: they take turns in some rounds.

    Attributes:
        models: ONNX GenAI folders for the CPU.
        tokens: to decode in a round.
        rounds: how many.
    """

    models: tuple[Path, ...]
    tokens: int
    rounds: int

    def run(self, work: Work) -> tuple[float, ...]:
        """Time them: tokens a second of each model, the median of the rounds."""
        import onnxruntime_genai as og

        models = [(generation.load(folder), folder) for folder in self.models]
        speeds: list[list[float]] = [[] for _ in models]
        for number in range(self.rounds + 1):
            for (model, folder), measured in zip(models, speeds, strict=True):
                speed = _decode(og.Tokenizer(model), model, folder, self.tokens)
                if number > 0:  # the first round warms up
                    measured.append(speed)
        return tuple(statistics.median(measured) for measured in speeds)


class DecoderGraph:
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


def _check_shape(logits: Floats, window: NDArray[np.int64], expected: NDArray[Any]) -> None:
    """Refuse logits that cannot be compared with the reference's."""
    if len(logits) != len(window):
        raise RefusedError(
            "the model gives the logits of the last token only (it was built with "
            "prune_lm_head), and all are needed",
            hint=HINT,
        )
    if logits.shape[1] != expected.shape[1]:
        raise RefusedError(
            f"the model has a vocabulary of {logits.shape[1]} tokens, the original one of "
            f"{expected.shape[1]}",
            hint=HINT,
        )


def compare(
    logits: Floats, expected: NDArray[np.float16], choices: NDArray[Any], following: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """Compare both models on each token of a window.

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


def _decode(tokenizer: Any, model: Any, folder: Path, tokens: int) -> float:
    prompt = tokenizer.encode("Once upon a time there was a")
    length = len(prompt) + tokens + 1
    # The end token must not come: all models decode the same number of tokens.
    generator = generation.generator(model, folder, length, min_length=length)
    generator.append_tokens(prompt)
    generator.generate_next_token()  # the prompt's own
    started = time.perf_counter()
    for _ in range(tokens):
        generator.generate_next_token()
    return tokens / (time.perf_counter() - started)
