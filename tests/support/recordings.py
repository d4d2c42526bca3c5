"""Recordings: WAV files with sounds, and files that are wrong in some way."""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RATE = 16_000

PCM, FLOAT, A_LAW, MU_LAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE


def tone(seconds: float, hertz: float, rate: int = RATE) -> npt.NDArray[np.float64]:
    """A tone at half of the full loudness."""
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def babble(seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """A sound whose pitch and loudness change, with some noise."""
    source = np.random.default_rng(seed)
    count = round(seconds * RATE)
    pitch = 200 + 100 * np.cumsum(source.standard_normal(count // 2000 + 1))
    hertz = np.abs(np.repeat(pitch, 2000)[:count]) % 4000 + 80
    loudness = np.abs(np.sin(np.arange(count) / RATE * 1.3 + seed))
    noise = 0.02 * source.standard_normal(count)
    return 0.4 * np.sin(2 * np.pi * np.cumsum(hertz) / RATE) * loudness + noise


def wav(samples: npt.ArrayLike, rate: int = RATE) -> bytes:
    """A file of 16 bits with samples from -1 to 1, [samples] or [samples, channels]."""
    array = np.asarray(samples)
    channels = 1 if array.ndim == 1 else array.shape[1]
    data = np.round(array * 32767).astype("<i2").tobytes()
    return riff(fmt(channels=channels, rate=rate), chunk(b"data", data))


def fmt(
    kind: int = PCM,
    *,
    channels: int = 1,
    rate: int = RATE,
    bits: int = 16,
    frame: int | None = None,
    more: bytes = b"",
) -> bytes:
    """The chunk that describes samples."""
    frame = channels * bits // 8 if frame is None else frame
    byte_rate = rate * frame & 0xFFFFFFFF
    form = struct.pack("<HHIIHH", kind, channels, rate, byte_rate, frame & 0xFFFF, bits)
    return chunk(b"fmt ", form + more)


def extensible(kind: int, bits: int) -> bytes:
    """The chunk that describes samples in the form for any number of channels."""
    guid = struct.pack("<H", kind) + bytes.fromhex("000000001000800000aa00389b71")
    return fmt(EXTENSIBLE, bits=bits, more=struct.pack("<HHI", 22, bits, 4) + guid)


def chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    """A chunk, perhaps with a wrong length."""
    length = len(data) if length is None else length
    return struct.pack("<4sI", kind, length) + data + b"\0" * (len(data) % 2)


def riff(*chunks: bytes, kind: bytes = b"RIFF", length: int | None = None) -> bytes:
    """A file, perhaps with a wrong length."""
    body = b"WAVE" + b"".join(chunks)
    return kind + struct.pack("<I", len(body) if length is None else length) + body


@dataclass(frozen=True)
class Hostile:
    """A file that must be refused, and words of the reason."""

    name: str
    data: bytes
    words: str


_DATA = chunk(b"data", bytes(3200))

HOSTILE = (
    Hostile("no bytes", b"", "empty"),
    Hostile("garbage", bytes(range(256)), "not a WAV file"),
    Hostile("text", b"What is said here?", "not a WAV file"),
    Hostile("magic alone", b"RIFF", "not a WAV file"),
    Hostile("head alone", riff(), "no samples"),
    Hostile("no format", riff(_DATA), "before their description"),
    Hostile("format behind data", riff(_DATA, fmt()), "before their description"),
    Hostile("no data", riff(fmt()), "no samples"),
    Hostile("empty data", riff(fmt(), chunk(b"data", b"")), "empty"),
    Hostile("empty data before others", riff(fmt(), chunk(b"data", b""), _DATA), "empty"),
    Hostile("less than a sample", riff(fmt(), chunk(b"data", b"\1")), "empty"),
    Hostile("cut data", wav(tone(1, 440))[:-100], "cut after 31900 of 32000 bytes"),
    Hostile("data up to 2 GB", riff(fmt(), chunk(b"data", b"1234", 1 << 31)), "cut after 4 of"),
    Hostile("cut format", riff(chunk(b"fmt ", bytes(10)), _DATA), "header is cut"),
    Hostile("format that ends the file", riff(fmt())[:30], "header is cut"),
    Hostile("no channels", riff(fmt(channels=0), _DATA), "0 channels"),
    Hostile("65535 channels", riff(fmt(channels=65535), _DATA), "65535 channels"),
    Hostile("no rate", riff(fmt(rate=0), _DATA), "0 samples a second"),
    Hostile("rate of 4 GHz", riff(fmt(rate=2**32 - 1), _DATA), "4294967295 samples a second"),
    Hostile("no bits", riff(fmt(bits=0), _DATA), "samples of 0 bits"),
    Hostile("12 bits", riff(fmt(bits=12), _DATA), "samples of 12 bits"),
    Hostile("half floats", riff(fmt(FLOAT, bits=16), _DATA), "samples of 16 bits"),
    Hostile("wrong frame", riff(fmt(frame=3), _DATA), "contradicts itself"),
    Hostile("no frame", riff(fmt(frame=0), _DATA), "contradicts itself"),
    Hostile("A-law", riff(fmt(A_LAW, bits=8), _DATA), "A-law"),
    Hostile("mu-law", riff(fmt(MU_LAW, bits=8), _DATA), "mu-law"),
    Hostile("A-law in the long form", riff(extensible(A_LAW, 8), _DATA), "A-law"),
    Hostile("ADPCM", riff(fmt(2, bits=4), _DATA), "ADPCM"),
    Hostile("unknown form", riff(fmt(0x1234), _DATA), "format 0x1234"),
    Hostile("RIFX", riff(fmt(), _DATA, kind=b"RIFX"), "RIFX"),
    Hostile("RF64", riff(fmt(), _DATA, kind=b"RF64"), "RF64"),
    Hostile("MP3 with tags", b"ID3\4" + bytes(100), "MP3"),
    Hostile("MP3", b"\xff\xfb\x90\x00" + bytes(100), "MP3"),
    Hostile("AAC", b"\xff\xf1\x50\x80" + bytes(100), "AAC"),
    Hostile("FLAC", b"fLaC" + bytes(100), "FLAC"),
    Hostile("Ogg", b"OggS" + bytes(100), "Ogg"),
    Hostile("WebM", b"\x1aE\xdf\xa3" + bytes(100), "WebM"),
    Hostile("M4A", b"\0\0\0\x20ftypM4A " + bytes(100), "MP4"),
    Hostile("AIFF", b"FORM" + bytes(100), "AIFF"),
    Hostile("image in RIFF", b"RIFF\4\0\0\0WEBP" + bytes(100), "not a WAV file"),
    Hostile("many chunks", riff(*[chunk(b"junk", b"")] * 1001, fmt(), _DATA), "1000 parts"),
    Hostile(
        "61 minutes", riff(fmt(rate=4000, bits=8), chunk(b"data", bytes(61 * 240_000))), "61 m"
    ),
)
"""Files that must be refused."""
