"""Compare recipes with llama.cpp's quantizations of the same weights, as a markdown table.

    python -m scripts.quality_peers MODEL --llama PYTHON [--gguf FILE] [--recipes A,B] [--types A,B]

The text is from outside: the topics of Python's own documentation, which no model here wrote and
nothing is calibrated on. Speed is the median of rounds in which all models take turns. A model
that is not GGUF needs the same weights as a GGUF file for the peers. What edgepack builds comes
from its cache; the peers' files stay in `--work`.
"""

import argparse
import functools
import math
import pydoc_data.topics
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from packager import profile
from packager.errors import EvaluationError
from packager.evaluation import texts
from packager.jobs import divergence
from packager.jobs.harness import run_job
from packager.jobs.measure import TimeDecoding
from packager.models.source import resolve
from packager.quantize import candidate
from packager.quantize.subject import Subject
from packager.recipes import recipes
from packager.units import MEGA

PROFILE = "cpu-x86_64"
RECIPES = "int4-rtn,int4-gptq,int4-gptq-light,int4-gptq-mixed"
TYPES = "Q4_0,IQ4_XS,Q4_K_S,Q4_K_M,Q5_K_M,Q6_K"
ROUNDS = 5
TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Metrics of a model, as `evaluation.evaluate` defines them."""

    kl: float
    top1: float
    perplexity: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """A quantized model.

    Attributes:
        name: name of the recipe or of llama.cpp's type.
        path: ONNX GenAI folder or GGUF file.
        size: size of the weights, bytes.
        figures: metrics on the text.
    """

    name: str
    path: Path
    size: int
    figures: Figures


class Llama:
    """llama.cpp in a Python environment of its own."""

    def __init__(self, python: Path) -> None:
        self._command = [str(python), str(Path(__file__).with_name("llama_peer.py"))]

    def quantize(self, source: Path, target: Path, kind: str) -> None:
        """Write a quantized file."""
        subprocess.run(
            [*self._command, "quantize", source, target, kind],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def measure(self, model: Path, reference: Path) -> Figures:
        """Measure a file against the folder that `texts.prepare` wrote."""
        windows = np.load(reference / "evaluation.npy")
        stored = np.load(reference / "logprobs.npy", mmap_mode="r")
        choices = np.load(reference / "top1.npy")
        length, vocabulary = windows.shape[1], stored.shape[2]
        command = [*self._command, "logits", str(model), str(reference / "evaluation.npy")]
        means: dict[str, list[float]] = {}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            for window, expected, best in zip(windows, stored, choices, strict=True):
                data = process.stdout.read(4 * length * vocabulary)
                logits = np.frombuffer(data, np.float32).reshape(length, vocabulary)
                compared = divergence.compare(logits[:-1], expected, best, window[1:])
                for name, values in compared.items():
                    means.setdefault(name, []).append(float(values.mean(dtype=np.float64)))
        return Figures(
            kl=statistics.fmean(means["kl"]),
            top1=statistics.fmean(means["top1"]),
            perplexity=math.exp(statistics.fmean(means["nll"])),
        )

    def speed(self, model: Path) -> float:
        """Decode once; return tokens a second."""
        printed = subprocess.run(
            [*self._command, "speed", model, str(TOKENS)], check=True, stdout=subprocess.PIPE
        ).stdout
        return float(printed)


def ours(model: str, text: Path, names: list[str]) -> tuple[Path, list[Row]]:
    """Build and measure recipes; return the reference's folder too."""
    source = resolve(model)
    reference = texts.prepare(source, eval_text=text, calibrate=False)
    subject = Subject(
        source=source,
        profile=profile.load(PROFILE),
        text=reference,
        calibration=functools.cache(
            lambda: texts.prepare(source, eval_text=text) / "calibration.npy"
        ),
        trust_remote_code=False,
        output=text,
    )
    rows = []
    for name in names:
        built = candidate.make(subject, recipes.find(name))
        assert built.quality is not None
        quality = built.quality
        figures = Figures(kl=quality.kl, top1=quality.top1, perplexity=quality.perplexity)
        rows.append(Row(name=name, path=built.folder, size=built.model_bytes, figures=figures))
    return reference, rows


def peers(llama: Llama, source: Path, kinds: list[str], work: Path, reference: Path) -> list[Row]:
    """Quantize a GGUF file with llama.cpp and measure the results."""
    floats = work / "F32.gguf"
    rows = []
    for kind in ("F32", *kinds):
        path = work / f"{kind}.gguf"
        if not path.exists():
            llama.quantize(source if kind == "F32" else floats, path, kind)
        figures = llama.measure(path, reference)
        rows.append(Row(name=kind, path=path, size=path.stat().st_size, figures=figures))
    return rows


def speed(llama: Llama, row: Row) -> float:
    """Decode once with a model; return tokens a second."""
    if row.path.suffix == ".gguf":
        return llama.speed(row.path)
    job = TimeDecoding(models=(row.path,), tokens=TOKENS, rounds=1)
    return run_job(job, what="Timing", error=EvaluationError, hint="")[0]


def table(rows: list[Row], speeds: list[float]) -> str:
    """Format the rows, smallest first."""
    lines = [
        "| model | MB | KL | top-1 | perplexity | tokens/s |",
        "|---|---|---|---|---|---|",
    ]
    for row, fast in sorted(zip(rows, speeds, strict=True), key=lambda pair: pair[0].size):
        engine = "llama.cpp" if row.path.suffix == ".gguf" else "edgepack"
        figures = row.figures
        lines.append(
            f"| {engine} {row.name} | {row.size / MEGA:.1f} | {figures.kl:.4f} | "
            f"{figures.top1:.3f} | {figures.perplexity:.2f} | {fast:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--llama", type=Path, required=True, help="python with llama-cpp-python")
    parser.add_argument("--gguf", type=Path, help="the same weights as GGUF")
    parser.add_argument("--recipes", default=RECIPES)
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--work", type=Path, required=True, help="folder for the peers' files")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    text = asked.work / "topics.txt"
    text.write_text("\n\n".join(pydoc_data.topics.topics.values()), encoding="utf-8")
    reference, rows = ours(asked.model, text, asked.recipes.split(","))
    llama = Llama(asked.llama)
    gguf = asked.gguf or resolve(asked.model).path
    rows += peers(llama, gguf, asked.types.split(","), asked.work, reference)
    rounds = [[speed(llama, row) for row in rows] for _ in range(asked.rounds)]
    speeds = [statistics.median(taken) for taken in zip(*rounds, strict=True)]
    sys.stdout.write(table(rows, speeds) + "\n")


if __name__ == "__main__":
    main()
