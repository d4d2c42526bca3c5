"""Quality of a speech model on recordings, against its reference model.

As on text (`evaluate`): KL divergence and top-1 agreement, here over the texts of recordings. Both
models get the same spectrograms.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from device_runtime.bundle.quantization import Quality
from device_runtime.errors import RequestError
from device_runtime.speech import recording as device_recording
from packager import cache, console
from packager.errors import EvaluationError
from packager.evaluation import evaluate, sounds
from packager.jobs import keys, recordings
from packager.jobs.divergence import WindowMeans
from packager.jobs.harness import run_job
from packager.jobs.measure_speech import MeasureSpeech
from packager.jobs.recordings import Recording
from packager.jobs.refer_speech import ReferSpeech
from packager.models import speech
from packager.models.source import ModelSource
from packager.models.speech import SpeechModel

MAX_TOKENS = 100
"""Longest text that the reference model writes down itself, tokens."""

FEWEST = 2
"""Least number of recordings in a folder: one gives no confidence interval."""
MOST = 64
MAX_SECONDS = 30
"""Longest recording: a window of the model."""

HINT = "Use another speech model, or build without one."


@dataclass(frozen=True, kw_only=True)
class SpeechReference:
    """Probabilities that the reference of a speech model gives recordings.

    Attributes:
        folder: output folder of a `ReferSpeech` job.
        count: number of recordings.
    """

    folder: Path
    count: int


def prepare(folder: Path | None) -> Path:
    """Write the recordings to measure speech models on into a folder (cached).

    Args:
        folder: the user's own recordings; None for made sounds.

    Raises:
        EvaluationError: a recording cannot be used, or there are too few or too many.
    """
    if folder is None:
        listed = [
            (Recording(file=f"{number}.wav", language=language, text=text), samples)
            for number, (language, text, samples) in enumerate(sounds.drawn())
        ]
    else:
        listed = [
            (Recording(file=f"{number}.wav"), _read(path))
            for number, path in enumerate(_files(folder))
        ]

    def make(target: Path) -> None:
        for recording, samples in listed:
            recordings.write(target / recording.file, samples)
        index = [recording for recording, _ in listed]
        (target / recordings.INDEX).write_bytes(msgspec.json.encode(index))

    content = [
        [msgspec.to_builtins(recording), cache.bytes_digest(samples.tobytes())]
        for recording, samples in listed
    ]
    inputs = keys.inputs(modules=[recordings.__name__], recordings=content)
    return cache.stage("recordings", inputs, make)


def refer(source: ModelSource, heard: Path) -> SpeechReference:
    """Let the reference model hear recordings (cached).

    Args:
        source: the model, from `speech.resolve`.
        heard: folder of `prepare`.

    Raises:
        EvaluationError: the model does not run.
        ResourceError: memory or disk space ran out.
    """
    config = speech.read(source.path, source.name)
    count = len(recordings.listed(heard))
    job = ReferSpeech(
        source=source.path,
        generation=config.generation,
        bands=config.bands,
        recordings=heard,
        max_tokens=MAX_TOKENS,
    )

    def make(target: Path) -> None:
        with console.progress("Hearing recordings", count, "recordings") as advance:
            what = "Running the reference of the speech model"
            run_job(job, target, what=what, error=EvaluationError, hint=HINT, advance=advance)

    inputs = keys.inputs(job, content={source.path: source.digest})
    return SpeechReference(folder=cache.stage("speech-reference", inputs, make), count=count)


def measure(model: SpeechModel, reference: SpeechReference) -> Quality:
    """Measure a speech model on recordings (cached).

    Raises:
        EvaluationError: the model does not run, or does not match the reference model.
    """
    job = MeasureSpeech(model=model.folder, reference=reference.folder)

    def make(target: Path) -> None:
        with console.progress("Measuring", reference.count, "recordings") as advance:
            what = "Measuring the speech model"
            means = run_job(job, what=what, error=EvaluationError, hint=HINT, advance=advance)
        (target / "measured.json").write_bytes(msgspec.json.encode(means))

    stage = cache.stage("measured-speech", keys.inputs(job), make)
    means = msgspec.json.decode((stage / "measured.json").read_bytes(), type=WindowMeans)
    return evaluate.quality(means, None)


def _files(folder: Path) -> list[Path]:
    """List the recordings of a folder, in the order of their names.

    Raises:
        EvaluationError: there are too few or too many.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".wav")
    if not FEWEST <= len(files) <= MOST:
        raise EvaluationError(
            f"{folder} has {len(files)} recordings (*.wav); {FEWEST} to {MOST} are needed",
            hint="Give a folder with that many WAV files, each of a sentence or two.",
        )
    return files


def _read(path: Path) -> NDArray[np.int16]:
    """Read a recording of the user's as the device reads it.

    Raises:
        EvaluationError: it cannot be read, or is too long.
    """
    try:
        file = device_recording.Recording(path.read_bytes())
    except OSError as error:
        raise EvaluationError(
            f"{path} cannot be read: {error.strerror}", hint="Check its permissions."
        ) from None
    except RequestError as error:
        raise EvaluationError(f"{path}: {error}", hint=error.hint) from None
    if file.seconds > MAX_SECONDS:
        raise EvaluationError(
            f"{path} is {file.seconds:.1f} seconds long; up to {MAX_SECONDS} are heard at once",
            hint="Cut it, or remove it from the folder.",
        )
    samples = np.rint(file.read(0, len(file)) * 32768)
    return np.clip(samples, -32768, 32767).astype(np.int16)
