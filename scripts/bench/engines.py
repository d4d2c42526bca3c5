"""The runtimes themselves, without servers: speed, and what quantization did to the weights."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import psutil

from device_runtime.processor import cores
from device_runtime.worker.child import huge_pages
from packager.evaluation import evaluate
from packager.jobs import divergence
from packager.jobs.measure import Measure
from scripts.bench import models
from scripts.bench.llama import Llama
from scripts.bench.models import Form, Model
from scripts.bench.protocol import Contestant
from scripts.bench.rounds import MeasureRound, Round, in_turn


def contestant(form: Form, llama: Llama) -> Contestant:
    """Start the contestant that runs a form of a model."""
    if form.runtime == "llama.cpp":
        return Contestant(form.name, llama.contestant, llama.environment)
    module = {
        "edgepack": "edgepack_peer",
        "onnxruntime-genai": "genai_peer",
        "transformers": "torch_peer",
    }[form.runtime]
    # As the service starts its worker; the others get what their users give them.
    environment = huge_pages() if form.runtime == "edgepack" else None
    return Contestant(form.name, [sys.executable, "-m", f"scripts.bench.{module}"], environment)


@contextmanager
def engines(model: Model, llama: Llama) -> Iterator[MeasureRound]:
    """Decode and prefill in the runtimes' own processes, without a server."""
    with ExitStack() as stack:
        loaded = []
        for form in model.forms:
            process = stack.enter_context(contestant(form, llama))
            process.load(form.path, sum(model.plan.second) + 16, cores())
            process.run(model.prompt(0, 16), 4)
            loaded.append(process)

        def measure(number: int) -> Round:
            figures: Round = {process.name: {} for process in loaded}
            for process in in_turn(loaded, number):
                others = [other.pid for other in loaded if other is not process]
                before, started = _cpu_s(others), time.monotonic()
                for name, (length, count) in _workloads(model):
                    run = process.run(model.prompt(number + 1, length), count)
                    figures[process.name][f"prefill_{name}"] = length / run.first_s
                    # An answer of edgepack can end early, as for its users.
                    if run.tokens >= count // 2:
                        figures[process.name][f"decode_{name}"] = run.tokens / run.decode_s
                elapsed = time.monotonic() - started
                figures[process.name]["others_busy"] = (_cpu_s(others) - before) / elapsed
            return figures

        yield measure


def _workloads(model: Model) -> list[tuple[str, tuple[int, int]]]:
    return [("first", model.plan.first), ("second", model.plan.second)]


def _cpu_s(pids: Sequence[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


@contextmanager
def quality(model: Model, llama: Llama) -> Iterator[MeasureRound]:
    """KL divergence from the original weights, on a text from outside; one round is enough."""
    folder = models.reference(model.source)

    def measure(number: int) -> Round:
        return {
            form.name: _divergence(form, folder, llama)
            for form in model.forms
            if form.runtime != "transformers"
        }

    yield measure


def _divergence(form: Form, folder: Path, llama: Llama) -> dict[str, float]:
    if form.runtime == "llama.cpp":
        windows = np.load(folder / "evaluation.npy")
        stored = np.load(folder / "logprobs.npy", mmap_mode="r")
        choices = np.load(folder / "top1.npy")
        collected = divergence.Collected()
        logits = llama.logits(form.path, folder / "evaluation.npy")
        for window, got, expected, best in zip(windows, logits, stored, choices, strict=True):
            shared = got[:-1, : expected.shape[1]]
            collected.add(divergence.compare(shared, expected, best, window[1:]))
        means = collected.means()
    else:
        means = evaluate.measure(Measure(model=form.path, reference=folder))
    return {
        "kl": sum(means.kl) / len(means.kl),
        "top1": sum(means.top1) / len(means.top1),
    }
