"""Fuzz recordings: read as their header says, or refused."""

import random
import struct
from collections.abc import Iterator

import numpy as np

from device_runtime.speech.recording import RATE, Recording
from device_runtime.speech.transcription import AudioError
from tests.fuzz.binary import mutated
from tests.support.recordings import FLOAT, HOSTILE, PCM, chunk, extensible, fmt, riff, tone, wav

MAX_SEED = 1 << 14
MAX_SAMPLES = 4 * RATE

NUMBERS = tuple(
    struct.pack(form, number)
    for form in ("<H", "<I")
    for number in (0, 1, 2, 3, 6, 8, 24, 44_100, 0x7FFF, 0xFFFE, 0xFFFF)
) + tuple(struct.pack("<I", number) for number in (192_000, 2**31 - 1, 2**32 - 1))


def run(data: bytes) -> None:
    try:
        recording = Recording(data)
    except AudioError as error:
        assert error.hint
        return
    assert abs(len(recording) / RATE - recording.seconds) <= 1 / RATE + 1e-4 * recording.seconds
    last = max(0, len(recording) - MAX_SAMPLES)
    for start in {0, last}:
        stop = start + min(MAX_SAMPLES, len(recording)) + 5
        samples = recording.read(start, stop)
        assert samples.shape == (stop - start,)
        assert np.isfinite(samples).all()


def seeds() -> Iterator[bytes]:
    for rate in (4000, 8000, 16_000, 44_100):
        yield wav(tone(0.02, 440, rate), rate)
    for form in (fmt(bits=8), fmt(bits=24, channels=2), fmt(FLOAT, bits=32), fmt(FLOAT, bits=64)):
        yield riff(form, chunk(b"data", bytes(range(240))))
    for form in (extensible(PCM, 16), extensible(FLOAT, 32)):
        yield riff(chunk(b"LIST", b"abc"), form, chunk(b"data", bytes(64), 0xFFFFFFFF))
    for file in HOSTILE:
        if len(file.data) < MAX_SEED:
            yield file.data


def mutate(data: bytes, source: random.Random) -> bytes:
    return mutated(data, source, NUMBERS)
