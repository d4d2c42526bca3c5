"""Recordings to measure a speech model on, each in a WAV file that was checked."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Samples = NDArray[np.int16]

INDEX = "recordings.json"
"""Name of the file that lists the recordings of a folder: JSON array of `Recording`."""

RATE = 16_000
"""Samples a second that Whisper hears."""


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """A recording.

    Attributes:
        file: name of its file in the folder: 16 bits, `RATE`, one channel.
        language: language of the text, ISO 639; empty for the one that the reference model hears.
        text: text to measure on; empty for what the reference model writes down.
    """

    file: str
    language: str = ""
    text: str = ""


def listed(folder: Path) -> list[Recording]:
    """Read the index of a folder of recordings."""
    return msgspec.json.decode((folder / INDEX).read_bytes(), type=list[Recording])


def write(path: Path, samples: Samples) -> None:
    """Write the samples of a recording."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, len(samples), "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


def read(path: Path) -> NDArray[np.float32]:
    """Read the samples of a recording, -1 to 1."""
    with wave.open(str(path), "rb") as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return frames.astype(np.float32) / np.float32(32768)
