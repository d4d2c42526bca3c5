"""Recordings: what is taken, as which samples, and what is refused."""

import struct
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from device_runtime.speech import recording
from device_runtime.speech.recording import RATE, Recording, Samples
from device_runtime.speech.transcription import AudioError
from tests.support.recordings import (
    FLOAT,
    HOSTILE,
    PCM,
    Hostile,
    babble,
    chunk,
    extensible,
    fmt,
    riff,
    tone,
    wav,
)


def samples(data: bytes) -> Samples:
    read = Recording(data)
    return read.read(0, len(read))


@pytest.mark.parametrize("file", HOSTILE, ids=lambda file: file.name)
def test_what_cannot_be_used_is_refused(file: Hostile) -> None:
    with pytest.raises(AudioError) as caught:
        Recording(file.data)
    assert file.words in str(caught.value)
    assert caught.value.hint


def test_other_formats_are_named_with_the_way_to_convert_them() -> None:
    with pytest.raises(AudioError) as caught:
        Recording(b"fLaC" + bytes(50))
    assert caught.value.hint == "Convert it to WAV: ffmpeg -i IN -ar 16000 -ac 1 OUT.wav"


def test_too_large_a_file_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MAX_BYTES", 2 << 20)
    with pytest.raises(AudioError, match="the recording has 3 MiB; at most 2 are taken"):
        Recording(bytes(3 << 20))


def test_header_alone_allocates_nothing() -> None:
    bomb = riff(fmt(channels=16, rate=192_000, bits=32), chunk(b"data", b"", 0xFFFFFFF0))
    tracemalloc.start()
    with pytest.raises(AudioError, match="cut after 0 of 4294967280 bytes"):
        Recording(bomb)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


EXPECTED = np.array([0.0, 0.5, -0.5, -1.0], np.float32)
ENCODED = {
    "8 bits": (fmt(bits=8), np.array([128, 192, 64, 0], np.uint8).tobytes()),
    "16 bits": (fmt(), (EXPECTED * 2**15).astype("<i2").tobytes()),
    "24 bits": (fmt(bits=24), b"".join(struct.pack("<i", round(x * 2**31))[1:] for x in EXPECTED)),
    "32 bits": (fmt(bits=32), (EXPECTED * 2**31).astype("<i4").tobytes()),
    "float": (fmt(FLOAT, bits=32), EXPECTED.astype("<f4").tobytes()),
    "double": (fmt(FLOAT, bits=64), EXPECTED.astype("<f8").tobytes()),
    "16 bits, long form": (extensible(PCM, 16), (EXPECTED * 2**15).astype("<i2").tobytes()),
    "float, long form": (extensible(FLOAT, 32), EXPECTED.astype("<f4").tobytes()),
}


@pytest.mark.parametrize("kind", ENCODED)
def test_kinds_of_samples(kind: str) -> None:
    form, data = ENCODED[kind]
    np.testing.assert_array_equal(samples(riff(form, chunk(b"data", data))), EXPECTED)


def test_channels_are_averaged() -> None:
    stereo = np.stack([np.full(10, 0.5), np.full(10, -0.25)], axis=1)
    np.testing.assert_allclose(samples(wav(stereo)), np.full(10, 0.125), atol=1e-4)


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
def test_streamed_file_goes_on_to_its_end(length: int) -> None:
    data = np.arange(50, dtype="<i2").tobytes()
    file = riff(fmt(), chunk(b"data", data, length), length=length)
    assert len(samples(file)) == 50


def test_chunks_of_odd_length_and_other_kinds_are_passed_over() -> None:
    data = chunk(b"data", b"\0\x40" * 3)
    file = riff(chunk(b"JUNK", b"abc"), fmt(), chunk(b"LIST", b"x"), data, chunk(b"id3 ", b"y"))
    assert samples(file).tolist() == [0.5, 0.5, 0.5]


def test_part_of_a_sample_at_the_end_is_dropped() -> None:
    assert len(samples(riff(fmt(), chunk(b"data", b"\0\x40" * 3 + b"\1")))) == 3


def test_wild_numbers_are_bounded() -> None:
    data = np.array([np.nan, np.inf, -np.inf, 1e30, 1.5], "<f4").tobytes()
    read = samples(riff(fmt(FLOAT, bits=32), chunk(b"data", data)))
    assert read.tolist() == [0, 100, -100, 100, 1.5]


def test_beyond_its_end_there_is_silence() -> None:
    short = Recording(wav([0.5, 0.5]))
    assert (short.read(1, 5) != 0).tolist() == [True, False, False, False]
    assert not short.read(10, 12).any()


def decibels(part: npt.NDArray[Any]) -> float:
    """Loudness in comparison with that of a tone."""
    return float(20 * np.log10(np.abs(part).max() / 0.5))


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 22050, 44056, 44100, 48000, 96000, 192000])
def test_tone_stays_that_tone(rate: int) -> None:
    read = samples(wav(tone(2, 1000, rate), rate))
    assert len(read) == 2 * RATE
    # The ends ring, and 16 bits have a noise of their own.
    assert decibels((read - tone(2, 1000))[500:-500]) < -75


@pytest.mark.parametrize("rate", [22050, 44100, 48000, 96000])
def test_tone_above_what_is_kept_does_not_come_back_lower(rate: int) -> None:
    read = samples(wav(tone(1, 8200, rate), rate))
    assert decibels(read[500:-500]) < -60


@pytest.mark.parametrize("rate", [8000, 44100])
def test_pieces_are_those_of_the_whole(rate: int) -> None:
    read = Recording(wav(babble(1, 3), rate))
    whole = read.read(0, len(read))
    parts = [read.read(start, min(start + 777, len(read))) for start in range(0, len(read), 777)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def test_odd_rates_take_no_longer_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    compute = recording._filter

    def counted(fraction: float, reach: int, cutoff: float) -> Samples:
        computed.append(fraction)
        return compute(fraction, reach, cutoff)

    monkeypatch.setattr(recording, "_filter", counted)
    samples(wav(tone(2, 1000, 191_999), 191_999))
    assert len(computed) <= 6000
