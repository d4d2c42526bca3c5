"""Run ONNX GenAI folders: measure quality, answer prompts, time decoding. Jobs because of memory
use and possible crashes.

A reference is a folder written by `texts.prepare`.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from device_runtime.memory import kv_cache_length
from device_runtime.tokenizer.tokenizer import Tokenizer
from packager.jobs import generation, session
from packager.jobs.divergence import Collected, WindowMeans, compare
from packager.jobs.job import Job, JobRefusedError, Work
from packager.jobs.logits import check as check_logits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

HINT = (
    "Pass the model that it was built from (--reference), and build models that are to be measured "
    "without prune_lm_head."
)


class Measure(Job[WindowMeans], frozen=True, kw_only=True):
    """Measure a model against its reference. Progress unit: windows.

    Attributes:
        model: ONNX GenAI folder for the CPU.
        reference: reference folder.
        most: KL divergence above which a model is not wanted: the measurement ends once the mean
            is known to be above. None measures all windows.
    """

    model: Path
    reference: Path
    most: float | None = None

    def run(self, work: Work) -> WindowMeans:
        """Measure the model.

        Raises:
            JobRefusedError: the logits are not numbers, or do not match the reference.
        """
        graph = DecoderGraph(self.model)
        windows = np.load(self.reference / "evaluation.npy")
        stored = np.load(self.reference / "logprobs.npy", mmap_mode="r")
        top1 = np.load(self.reference / "top1.npy")
        collected = Collected(self.most)
        for window, expected, choices in zip(windows, stored, top1, strict=True):
            logits = graph.logits(window)
            _check_shape(logits, window, expected)
            check_logits(logits)
            collected.add(compare(logits[:-1], expected, choices, window[1:]))
            work.advance(1)
            if collected.exceeded:
                break
        return collected.means()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of both models to a prompt."""

    prompt: str
    reference: str
    quantized: str


class AnswerPrompts(Job[tuple[Answer, ...]], frozen=True, kw_only=True):
    """Answer the prompts of the reference greedily.

    Attributes:
        model: ONNX GenAI folder for the CPU.
        reference: reference folder.
    """

    model: Path
    reference: Path

    def run(self, work: Work) -> tuple[Answer, ...]:
        """Answer the prompts.

        Raises:
            JobRefusedError: the model's tokenizer differs from the reference model's.
        """
        model = generation.load(self.model)
        tokenizer = Tokenizer(self.model)
        entries = json.loads((self.reference / "answers.json").read_text())
        for entry in entries:
            # The reference model's tokens of a prompt must decode to the same text here.
            text = tokenizer.decode(entry["tokens"])
            if text.strip() != entry["prompt"].strip():
                raise JobRefusedError(
                    "the model's tokenizer differs from the reference model's", hint=HINT
                )
        return tuple(
            Answer(
                prompt=entry["prompt"],
                reference=entry["answer"],
                quantized=generation.respond(
                    model, tokenizer, self.model, entry["prompt"], entry["max_tokens"]
                ),
            )
            for entry in entries
        )


class TimeDecoding(Job[tuple[float, ...]], frozen=True, kw_only=True):
    """Time the decoding of several models over a number of rounds.

    Attributes:
        models: ONNX GenAI folders for the CPU.
        tokens: number of tokens to decode in a round.
        rounds: number of rounds.
        together: load all models and let them alternate, in both orders of loading, so that their
            ratios are fair even on a busy machine; otherwise one after the other is in memory.
    """

    models: tuple[Path, ...]
    tokens: int
    rounds: int
    together: bool = True

    def run(self, work: Work) -> tuple[float, ...]:
        """Return each model's decoding speed, tokens a second: the median of the rounds."""
        if not self.together or len(self.models) == 1:
            alone = (self._alternate((folder,), self.rounds)[0] for folder in self.models)
            return tuple(statistics.median(measured) for measured in alone)
        # What is loaded first was up to a fifth slower, the same model twice: 0.80.
        half = math.ceil(self.rounds / 2)
        forward = self._alternate(self.models, half)
        backward = self._alternate(self.models[::-1], half)[::-1]
        return tuple(
            statistics.median(first + second)
            for first, second in zip(forward, backward, strict=True)
        )

    def _alternate(self, folders: tuple[Path, ...], rounds: int) -> list[list[float]]:
        """Return the speeds of each model, all loaded and decoding in turns."""
        models = [(generation.load(folder), folder, _prompt(folder)) for folder in folders]
        speeds: list[list[float]] = [[] for _ in models]
        for number in range(rounds + 1):
            for (model, folder, prompt), measured in zip(models, speeds, strict=True):
                speed = _decode(model, folder, prompt, self.tokens)
                if number > 0:  # the first round is a warm-up
                    measured.append(speed)
        return speeds


class DecoderGraph:
    """A decoder graph in ONNX Runtime on the CPU: the kernels and precision used for serving."""

    def __init__(self, folder: Path) -> None:
        model = json.loads((folder / "genai_config.json").read_text())["model"]
        decoder = model["decoder"]
        self._session = session.load_whole(folder / decoder["filename"])
        # A model that sees has its embedding in a graph of its own.
        embedding = model.get("embedding")
        self._embedding = session.load(folder / embedding["filename"]) if embedding else None
        names = decoder.get("inputs", {})
        self._ids = names.get("input_ids", "input_ids")
        self._embeds = names.get("inputs_embeds", "inputs_embeds")
        self._mask = names.get("attention_mask", "attention_mask")
        self._positions = names.get("position_ids", "position_ids")
        self._head_size: int = decoder["head_size"]
        self._window = kv_cache_length(decoder, 0)
        self._logits = decoder.get("outputs", {}).get("logits", "logits")

    def logits(self, window: NDArray[np.int64]) -> Floats:
        """Compute the logits, float32 `[tokens, vocabulary]`, of a window `[tokens]`."""
        feed = {node.name: self._input(node, window[None]) for node in self._session.get_inputs()}
        (batch,) = self._session.run([self._logits], feed)
        logits: Floats = batch[0].astype(np.float32)
        return logits

    def _input(self, node: Any, ids: NDArray[np.int64]) -> NDArray[Any]:
        dtype = np.dtype(TYPES[node.type])
        if node.name == self._ids:
            return ids.astype(dtype)
        if node.name == self._embeds:
            return self._embedded(ids)
        if node.name == self._mask:
            return np.ones(ids.shape, dtype)
        if node.name == self._positions:
            # Models that can see have three positions a token, which are equal in text.
            positions = np.arange(ids.shape[1], dtype=dtype)
            return np.broadcast_to(positions, (*node.shape[:-2], *ids.shape)).copy()
        # The others are the KV cache and the states of layers without one, which start empty.
        return np.zeros([self._size(size) for size in node.shape], dtype)

    def _embedded(self, ids: NDArray[np.int64]) -> NDArray[Any]:
        """Compute the embeddings of a text without images, `[1, tokens, width]`."""
        assert self._embedding is not None
        (output,) = self._embedding.get_outputs()
        none = np.zeros((0, output.shape[-1]), TYPES[output.type])
        feed = {
            node.name: ids if node.type == "tensor(int64)" else none
            for node in self._embedding.get_inputs()
        }
        (embeds,) = self._embedding.run(None, feed)
        result: NDArray[Any] = embeds
        return result

    def _size(self, size: int | str) -> int:
        """Return a dimension of the KV cache; dynamic dimensions have names."""
        if isinstance(size, int):
            return size
        if "batch" in size:
            return 1
        if "sliding" in size:
            # The cache of a sliding-window layer is as long as the window, filled or not.
            return self._window
        return 0 if "length" in size else self._head_size


TYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


def _check_shape(logits: Floats, window: NDArray[np.int64], expected: NDArray[Any]) -> None:
    """Refuse logits that cannot be compared with those of the reference."""
    if len(logits) != len(window):
        raise JobRefusedError(
            "the model outputs the logits of the last token only (it was built with "
            "prune_lm_head); those of all tokens are needed",
            hint=HINT,
        )
    if logits.shape[1] != expected.shape[1]:
        raise JobRefusedError(
            f"the model has a vocabulary of {logits.shape[1]} tokens, the reference model "
            f"{expected.shape[1]}",
            hint=HINT,
        )


def _prompt(folder: Path) -> list[int]:
    return Tokenizer(folder).encode("Once upon a time there was a", special=True)


def _decode(model: Any, folder: Path, prompt: list[int], tokens: int) -> float:
    length = len(prompt) + tokens + 1
    # Suppress the end token, so that all models decode the same number of tokens.
    generator = generation.generator(model, folder, length, min_length=length)
    generator.append_tokens(prompt)
    generator.generate_next_token()  # ends the prefill
    started = time.perf_counter()
    for _ in range(tokens):
        generator.generate_next_token()
    return tokens / (time.perf_counter() - started)
