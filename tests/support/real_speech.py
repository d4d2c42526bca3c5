"""Whisper base with its trained weights, and what it writes down of real recordings.

    python -m tests.support.real_speech [--peer PYTHON]

compares, for each type of weights, with the text that transformers writes, and with what is said.
PYTHON is an interpreter that has faster-whisper: on the same recordings, in turns, it runs the same
weights with 8 bits.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from device_runtime.bundle.speech import SpeechWeights
from device_runtime.processor import cores
from device_runtime.speech.recording import Recording
from device_runtime.speech.transcriber import WhisperTranscriber
from device_runtime.speech.transcription import TranscriptionRequest
from packager.models import speech
from tests.support import whisper_base

ROUNDS = 3
SPELT = ("en", "es", "fr", "it", "pt")
"""Languages that the model knows well enough to count words."""

NUMBERS = ("counting", "conteo", "comptage", "conteggio", "contagem")
"""Recordings of numbers, which the model writes in digits."""

_PEER = """
import json, sys, time
from faster_whisper import WhisperModel
folder, threads = sys.argv[1:]
model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=int(threads))
for line in sys.stdin:
    file, language = json.loads(line)
    began = time.perf_counter()
    parts, _ = model.transcribe(file, language=language, beam_size=1, temperature=0,
        without_timestamps=True, condition_on_previous_text=False)
    text = "".join(part.text for part in parts).strip()
    print(json.dumps([text, time.perf_counter() - began]), flush=True)
"""

Writer = Callable[[Path, str], tuple[str, float]]
"""Writes down a recording of a language; returns the text, and the seconds that it took."""


@dataclass
class Result:
    """What a program wrote down of all recordings.

    Attributes:
        texts: the texts.
        seconds: for each round, the time of all recordings.
    """

    texts: list[str]
    seconds: list[float]


def words(text: str) -> list[str]:
    """Split a text into words without punctuation and case."""
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in text.casefold())
    return "".join(kept).split()


def distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many words differ, are missing or too many (Levenshtein)."""
    row = list(range(len(second) + 1))
    for number, word in enumerate(first, 1):
        before, row[0] = row[0], number
        for place, other in enumerate(second, 1):
            before, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, before + (word != other)),
            )
    return row[-1]


def ours(folder: Path) -> Writer:
    """Write down as the device does."""
    model = WhisperTranscriber(folder, memory_bytes=0, threads=0)

    def write(file: Path, language: str) -> tuple[str, float]:
        request = TranscriptionRequest(audio=file.read_bytes(), language=language)
        began = time.perf_counter()
        text = "".join(chunk.text for chunk in model.transcribe(request, lambda: False))
        return text, time.perf_counter() - began

    return write


def peer(python: Path, folder: Path) -> Writer:
    """Write down as faster-whisper does."""
    command: list[str | Path] = [python, "-c", _PEER, folder, str(cores())]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def write(file: Path, language: str) -> tuple[str, float]:
        assert program.stdin is not None
        assert program.stdout is not None
        print(json.dumps([str(file), language]), file=program.stdin, flush=True)
        text, seconds = json.loads(program.stdout.readline())
        return text, seconds

    return write


def reference(folder: Path) -> Writer:
    """Write down as transformers does, in fp32."""
    from transformers import (
        AutoTokenizer,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    model: Any = WhisperForConditionalGeneration.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    extractor = WhisperFeatureExtractor.from_pretrained(folder)

    def write(file: Path, language: str) -> tuple[str, float]:
        recording = Recording(file.read_bytes())
        samples = recording.read(0, len(recording))
        began = time.perf_counter()
        features = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
        tokens = model.generate(features, language=language, task="transcribe")[0]
        text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return text, time.perf_counter() - began

    return write


def measure(writers: dict[str, Writer], files: Sequence[Path], rounds: int) -> dict[str, Result]:
    """Let all write down all recordings, in turns."""
    results = {name: Result(texts=[], seconds=[]) for name in writers}
    for round_number in range(rounds):
        for result in results.values():
            result.seconds.append(0.0)
        for file in files:
            for name, write in writers.items():
                text, seconds = write(file, file.parent.name)
                results[name].seconds[-1] += seconds
                if round_number == 0:
                    results[name].texts.append(text)
        print(f"round {round_number + 1} of {rounds}", file=sys.stderr)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, metavar="PYTHON")
    python = parser.parse_args().peer
    source = speech.resolve(str(whisper_base.model()))
    files = sorted(whisper_base.recordings().rglob("*.wav"))
    models = {weights: speech.export(source, weights) for weights in get_args(SpeechWeights)}
    writers = {str(weights): ours(model.folder) for weights, model in models.items()}
    with tempfile.TemporaryDirectory() as folder:
        if python is not None:
            writers["faster-whisper"] = peer(python, whisper_base.as_published(Path(folder)))
        expected = measure({"": reference(source.path)}, files, 1)[""]
        results = measure(writers, files, ROUNDS)
    spoken = sum(Recording(file.read_bytes()).seconds for file in files)
    table = Table(title=f"{len(files)} recordings, {spoken:.0f} seconds, {cores()} cores")
    for column in ("weights", "MB", "as transformers", "words wrong", "s for a second", "ratio"):
        table.add_column(column, justify="left" if column == "weights" else "right")
    told = [number for number, file in enumerate(files) if _is_told(file)]
    other = results.get("faster-whisper")
    for name, result in {"transformers": expected, **results}.items():
        model = models.get(name)
        same = sum(words(a) == words(b) for a, b in zip(result.texts, expected.texts, strict=True))
        said = [words(files[number].with_suffix(".txt").read_text()) for number in told]
        wrong = sum(
            distance(words(result.texts[number]), right)
            for number, right in zip(told, said, strict=True)
        )
        table.add_row(
            name,
            f"{model.size / 1e6:.0f}" if model is not None else "",
            f"{same}/{len(files)}",
            f"{wrong}/{sum(map(len, said))}",
            f"{statistics.median(result.seconds) / spoken:.3f}",
            f"{_ratio(result, other):.2f}" if other is not None and name in results else "",
        )
    Console().print(table)


def _is_told(file: Path) -> bool:
    """Return whether the words of a recording can be counted."""
    return file.parent.name in SPELT and file.stem not in NUMBERS


def _ratio(result: Result, other: Result) -> float:
    """Return the median of the times of rounds, each relative to another's time."""
    return statistics.median(
        mine / its for mine, its in zip(result.seconds, other.seconds, strict=True)
    )


if __name__ == "__main__":
    main()
