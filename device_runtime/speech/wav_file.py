"""WAV files, read without a decoder: where the samples of a recording are, and of what kind.

A file comes from anyone: lengths are compared with what is there, and nothing is allocated by what
a header says. Python's `wave` takes no floating point and no recording that was streamed, and reads
a file that is cut without a word.

The format is RIFF (Microsoft and IBM, Multimedia Programming Interface, 1991), with `fmt ` and
`data` as in Multiple Channel Audio Data and WAVE Files (Microsoft, 2007).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_runtime.speech.transcription import AudioError

MAX_CHANNELS = 16
RATES = range(4_000, 192_001)
"""Sample rates that are taken, Hz."""

MAX_CHUNKS = 1_000
"""Most chunks of a file; editors write about ten."""

CONVERT = "Convert it to WAV: ffmpeg -i IN -ar 16000 -ac 1 OUT.wav"

_PCM, _FLOAT, _EXTENSIBLE = 0x0001, 0x0003, 0xFFFE  # mmreg.h
_GUID_END = bytes.fromhex("000000001000800000aa00389b71")
"""End of a subformat of `_EXTENSIBLE` that begins with a format of two bytes (ksmedia.h)."""
_REFUSED = {
    0x0002: "ADPCM",
    0x0006: "A-law",
    0x0007: "mu-law",
    0x0011: "ADPCM",
    0x0031: "GSM",
    0x0055: "MP3",
    0x00FF: "AAC",
    0x0161: "WMA",
}

_LOUDEST = 100.0
"""Largest value of a floating-point sample."""

_STREAMED = (0, 0xFFFFFFFF)
"""Lengths that a program writes which does not know how much will follow, such as ffmpeg into a
pipe: the samples go on to the end of the file. With 0, that is not known either."""

_OTHERS = (
    (0, b"ID3", "MP3"),
    (0, b"fLaC", "FLAC"),
    (0, b"OggS", "Ogg"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (4, b"ftyp", "MP4 (M4A)"),
    (0, b"RIFX", "RIFX"),
    (0, b"RF64", "RF64"),
    (0, b"BW64", "BW64"),
    (0, b"FORM", "AIFF"),
    (0, b"caff", "CAF"),
    (0, b"#!AMR", "AMR"),
    (0, b".snd", "AU"),
    (0, b"0&\xb2u", "WMA"),
)
"""Place and first bytes of files of other formats."""


@dataclass(frozen=True, kw_only=True)
class WavFile:
    """A recording as its file has it.

    Attributes:
        rate: samples a second and channel.
        channels: number of channels.
        bits: size of a sample.
        is_float: whether samples are floating-point numbers, not integers.
        data: samples of all channels in turn.
    """

    rate: int
    channels: int
    bits: int
    is_float: bool
    data: memoryview

    def __len__(self) -> int:
        """Return the length, samples of a channel."""
        return len(self.data) // (self.channels * self.bits // 8)

    def read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Read a part: the mean of its channels, from -1 to 1.

        Args:
            start: first sample; before the beginning there is silence.
            stop: first sample behind it; likewise beyond the end.

        Returns:
            Samples, float32 [stop - start].
        """
        first, last = max(0, start), min(stop, len(self))
        if first >= last:
            return np.zeros(max(0, stop - start), np.float32)
        frame = self.channels * self.bits // 8
        samples = self._numbers(self.data[first * frame : last * frame])
        mono = samples.reshape(-1, self.channels).mean(axis=1, dtype=np.float32)
        return np.pad(mono, (first - start, stop - last))

    def _numbers(self, data: memoryview) -> npt.NDArray[np.float32]:
        """Convert samples of all channels into numbers from -1 to 1."""
        if self.is_float:
            # Some programs exceed 1 a little; a wild value would make a whole window infinite.
            floats = np.frombuffer(data, f"<f{self.bits // 8}")
            return np.asarray(np.nan_to_num(np.clip(floats, -_LOUDEST, _LOUDEST)), np.float32)
        if self.bits == 8:
            integers = np.frombuffer(data, np.uint8).astype(np.int32) - 128
        elif self.bits == 24:
            # Moved to the upper end of 32 bits, where the sign is.
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            integers = wide.view("<i4").reshape(-1) >> 8
        else:
            integers = np.frombuffer(data, f"<i{self.bits // 8}")
        return np.asarray(integers, np.float32) / np.float32(2 ** (self.bits - 1))


def read_wav(data: bytes) -> WavFile:
    """Find the samples in a file; none of them is read.

    Raises:
        AudioError: the file is not a WAV file with samples that can be taken, or is damaged.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise _other_format(data)
    form: tuple[int, int, int, bool] | None = None
    for kind, place, length in _chunks(data):
        if kind == b"fmt ":
            form = _form(data[place : place + min(length, 40)])
        elif kind == b"data":
            if form is None:
                raise damaged("its samples come before their description")
            return _samples(data, place, length, form)
    raise damaged("it has no samples")


def damaged(reason: str) -> AudioError:
    """Return the error for a file that cannot be read."""
    return AudioError(f"the recording is damaged: {reason}", hint="Send a whole WAV file.")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, place and length of the contents of each chunk."""
    place = 12
    for _ in range(MAX_CHUNKS):
        if place + 8 > len(data):
            return
        kind, length = struct.unpack_from("<4sI", data, place)
        yield kind, place + 8, length
        # Chunks begin at even places.
        place += 8 + length + length % 2
    raise damaged(f"it has more than {MAX_CHUNKS} parts")


def _form(chunk: bytes) -> tuple[int, int, int, bool]:
    """Read rate, channels, bits of a sample, and whether it is a floating-point number.

    Raises:
        AudioError: samples of this kind are not taken, or the chunk is cut.
    """
    if len(chunk) < 16:
        raise damaged("its header is cut")
    kind, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", chunk)
    if kind == _EXTENSIBLE and chunk[26:40] == _GUID_END:
        (kind,) = struct.unpack_from("<H", chunk, 24)
    if kind not in (_PCM, _FLOAT):
        name = _REFUSED.get(kind, f"format {kind:#06x}")
        raise AudioError(f"the recording is a WAV file with {name} samples", hint=CONVERT)
    if bits not in ((32, 64) if kind == _FLOAT else (8, 16, 24, 32)):
        raise AudioError(f"the recording has samples of {bits} bits", hint=CONVERT)
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(
            f"the recording has {channels} channels; 1 to {MAX_CHANNELS} are taken", hint=CONVERT
        )
    if rate not in RATES:
        raise AudioError(
            f"the recording has {rate} samples a second; {RATES[0]} to {RATES[-1]} are taken",
            hint=CONVERT,
        )
    if frame != channels * bits // 8:
        raise damaged("its header contradicts itself")
    return rate, channels, bits, kind == _FLOAT


def _samples(data: bytes, place: int, length: int, form: tuple[int, int, int, bool]) -> WavFile:
    """Take the samples that follow their header.

    Raises:
        AudioError: there are none, or fewer than the header says.
    """
    rate, channels, bits, is_float = form
    there = len(data) - place
    (whole,) = struct.unpack_from("<I", data, 4)
    if length in _STREAMED and (length or whole + 8 <= place):
        length = there
    elif length > there:
        raise damaged(f"it is cut after {there} of {length} bytes of samples")
    length -= length % (channels * bits // 8)
    if not length:
        raise AudioError("the recording is empty", hint="Send a recording with sound.")
    return WavFile(
        rate=rate,
        channels=channels,
        bits=bits,
        is_float=is_float,
        data=memoryview(data)[place : place + length],
    )


def _other_format(data: bytes) -> AudioError:
    """Return the error for a file that is not a WAV file."""
    if not data:
        return AudioError("the recording is empty", hint="Send a WAV file.")
    for place, start, name in _OTHERS:
        if data[place : place + len(start)] == start:
            return AudioError(f"the recording is a file of type {name}, not WAV", hint=CONVERT)
    if data[0] == 0xFF and data[1:2] >= b"\xe0":
        # The first frame of MPEG audio; AAC has the same beginning and another layer.
        name = "AAC" if data[1] & 0xF6 == 0xF0 else "MP3"
        return AudioError(f"the recording is a file of type {name}, not WAV", hint=CONVERT)
    return AudioError("the recording is not a WAV file", hint=CONVERT)
