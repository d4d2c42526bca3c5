"""Image files as nobody should send them, and some that only look so: about 300 of them.

Each has a name and the size of what it decodes to; None where it must be refused.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

Size = tuple[int, int]

SIZE = (48, 32)
TURNED = (32, 48)

SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
PDF = b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"
ZIP = b"PK\x03\x04" + bytes(26)
SCRIPT = b"<script>alert(1)</script><?php system('id'); ?>"


@dataclass(frozen=True)
class Hostile:
    """A file.

    Attributes:
        name: what is odd about it.
        data: its bytes.
        size: width and height that it decodes to; None if it must be refused.
    """

    name: str
    data: bytes
    size: Size | None = None


def hostile_images() -> Iterator[Hostile]:
    """Make all files, the same each time."""
    yield from _plain()
    yield from _not_images()
    yield from _cut()
    yield from _flipped()
    yield from _bombs()
    yield from _sizes()
    yield from _animations()
    yield from _metadata()
    yield from _polyglots()
    yield from _jpeg_parts()
    yield from _png_parts()


def picture(mode: str = "RGB", size: Size = SIZE) -> Image.Image:
    """Make a picture with something everywhere."""
    values = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """Encode a picture."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def jpeg(**options: Any) -> bytes:
    return encoded(picture(), "JPEG", **options)


def png(**options: Any) -> bytes:
    return encoded(picture(), "PNG", **options)


def webp(**options: Any) -> bytes:
    return encoded(picture(), "WEBP", **options)


def png_of(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """Make a PNG of chunks, with a head that may lie."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    """Make a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def segment(marker: int, body: bytes) -> bytes:
    """Make a segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def after_start(data: bytes, *segments: bytes) -> bytes:
    """Put segments at the beginning of a JPEG."""
    return data[:2] + b"".join(segments) + data[2:]


def before_end(data: bytes, *chunks: bytes) -> bytes:
    """Put chunks behind the head of a PNG."""
    return data[:33] + b"".join(chunks) + data[33:]


def with_size(data: bytes, width: int, height: int) -> bytes:
    """Write another size into the frame of a baseline JPEG."""
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """Make EXIF data with an orientation."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order]
    value = struct.pack(f"{order}HHIHH", 0x0112, kind, 1, orientation & 0xFFFF, 0)
    return head + struct.pack(f"{order}IH", 8, 1) + value + bytes(4)


def exif_bomb(entries: int, size: int) -> bytes:
    """Make EXIF data whose entries all refer to the same bytes."""
    table = b"".join(struct.pack("<HHII", tag, 7, size, 8) for tag in range(entries))
    data = b"II*\0" + struct.pack("<IH", 8, entries) + table + bytes(4)
    return data + bytes(max(0, size + 8 - len(data)))


def _plain() -> Iterator[Hostile]:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = Image.new("I;16", SIZE, 40_000) if mode == "I;16" else picture(mode)
        yield Hostile(f"PNG {mode}", encoded(image, "PNG"), SIZE)
    for mode in ("L", "RGB", "CMYK"):
        for options in ({}, {"progressive": True}, {"subsampling": 2, "quality": 20}):
            name = f"JPEG {mode} {options}"
            yield Hostile(name, encoded(picture(mode), "JPEG", **options), SIZE)
    for mode in ("L", "RGB", "RGBA"):
        for lossless in (False, True):
            data = encoded(picture(mode), "WEBP", lossless=lossless)
            yield Hostile(f"WebP {mode} lossless={lossless}", data, SIZE)
    for colour, depth, channels in ((0, 16, 1), (2, 16, 3), (4, 16, 2), (6, 16, 4)):
        row = b"\0" + bytes(range(channels * 2)) * 4
        body = chunk(b"IDAT", zlib.compress(row * 4))
        data = png_of(4, 4, body, depth=depth, colour=colour)
        yield Hostile(f"PNG of 16 bits, colour type {colour}", data, (4, 4))
    yield Hostile("PNG with transparent grey", encoded(picture("L"), "PNG", transparency=7), SIZE)
    transparent = encoded(picture("P"), "PNG", transparency=bytes(range(200)))
    yield Hostile("PNG with a transparent palette", transparent, SIZE)


def _not_images() -> Iterator[Hostile]:
    image = picture()
    for form in ("GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "PCX", "SGI", "PDF"):
        yield Hostile(form, encoded(image, form))
    for name, data in {
        "nothing": b"",
        "a byte": b"\xff",
        "zeros": bytes(1000),
        "text": b"hello",
        "SVG": SVG,
        "SVG with a space": b"  " + SVG,
        "PDF by hand": PDF,
        "ZIP": ZIP,
        "HTML": b"<!DOCTYPE html>" + SCRIPT,
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "AVIF": b"\0\0\0\x1cftypavif" + bytes(40),
        "HEIC": b"\0\0\0\x1cftypheic" + bytes(40),
        "JPEG XL": b"\xff\x0a" + bytes(40),
        "WAV": b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
        "base64": b"data:image/png;base64,iVBORw0KGgo=",
        "magic of JPEG alone": b"\xff\xd8\xff",
        "magic of PNG alone": b"\x89PNG\r\n\x1a\n",
        "magic of WebP alone": b"RIFF\0\0\0\0WEBP",
    }.items():
        yield Hostile(name, data)


def _cut() -> Iterator[Hostile]:
    for name, data in (("JPEG", jpeg()), ("PNG", png()), ("WebP", webp())):
        for tenths in range(1, 20):
            part = len(data) * tenths // 20
            yield Hostile(f"{name} of which {part} bytes are there", data[:part])
    progressive = jpeg(progressive=True)
    for tenths in (2, 4):
        yield Hostile(
            f"progressive JPEG, {tenths} tenths", progressive[: len(progressive) // tenths]
        )


def _flipped() -> Iterator[Hostile]:
    """Change bytes: some of these decode to noise, and that is right; none may be refused wrongly.

    They have no size here, since it depends on the byte.
    """
    rng = np.random.default_rng(7)
    for name, data in (("JPEG", jpeg()), ("PNG", png()), ("WebP", webp(lossless=True))):
        for number in range(30):
            changed = bytearray(data)
            for place in rng.integers(12, len(data), 8):
                changed[place] = int(rng.integers(0, 256))
            yield Hostile(f"{name} with noise {number}", bytes(changed))


def _bombs() -> Iterator[Hostile]:
    for width, height in ((60_000, 60_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (7000, 6000)):
        small = chunk(b"IDAT", zlib.compress(bytes(1000)))
        yield Hostile(f"PNG of {width} x {height} with few data", png_of(width, height, small))
    rows = zlib.compressobj(9)
    zeros = b"".join([rows.compress(bytes(1 << 20)) for _ in range(200)]) + rows.flush()
    for colour in (0, 2, 6):
        data = png_of(50_000, 4_000, chunk(b"IDAT", zeros), colour=colour)
        yield Hostile(f"PNG of 200 MB of zeros, colour type {colour}", data)
    for width, height in ((65_535, 65_535), (65_535, 1_500), (60_000, 1_000)):
        data = with_size(jpeg(), width, height)
        yield Hostile(f"JPEG of {width} x {height} with few data", data)
    for width, height in ((1 << 24, 1 << 24), (16_384, 16_384), (8_192, 8_192)):
        body = struct.pack("<IHBHB", 0, (width - 1) & 0xFFFF, (width - 1) >> 16,
                           (height - 1) & 0xFFFF, (height - 1) >> 16)  # fmt: skip
        riff = b"WEBP" + b"VP8X" + struct.pack("<I", len(body)) + body + webp()[12:]
        data = b"RIFF" + struct.pack("<I", len(riff)) + riff
        yield Hostile(f"WebP with a canvas of {width} x {height}", data)
    text = zlib.compress(bytes(64 << 20), 9)
    for kind, body in ((b"zTXt", b"Comment\0\0" + text), (b"iCCP", b"icc\0\0" + text),
                       (b"iTXt", b"Comment\0\1\0\0\0" + text)):  # fmt: skip
        yield Hostile(
            f"PNG with 64 MB in {kind.decode()}", before_end(png(), chunk(kind, body)), SIZE
        )
    # Longer than the image: the decoder stops at its end.
    more = chunk(b"IDAT", zlib.compress(bytes(4 * 13) + bytes(32 << 20)))
    yield Hostile("PNG with 32 MB behind its rows", png_of(4, 4, more), (4, 4))


def _sizes() -> Iterator[Hostile]:
    for size in ((1, 100_000), (100_000, 1), (1, 60), (60, 1), (51, 1), (3, 200)):
        yield Hostile(f"PNG of {size}", encoded(Image.new("L", size), "PNG"))
        if max(size) < 65_500:
            yield Hostile(f"JPEG of {size}", encoded(Image.new("L", size), "JPEG"))
    for size in ((1, 1), (1, 50), (50, 1), (2, 3)):
        for form in ("PNG", "JPEG", "WEBP"):
            yield Hostile(f"{form} of {size}", encoded(Image.new("RGB", size), form), size)
    for width, height in ((0, 5), (5, 0), (0, 0)):
        yield Hostile(f"PNG of {width} x {height}", png_of(width, height, chunk(b"IDAT", b"")))
        yield Hostile(f"JPEG of {width} x {height}", with_size(jpeg(), width, height))
    # 4,100 x 4,100 pixels are more than the engine gets.
    for form, options in (("PNG", {"compress_level": 1}), ("JPEG", {"progressive": True})):
        large = Image.new("RGB", (4_100, 2_050), "red")
        data = encoded(large, form, **options)
        yield Hostile(f"large {form}", data, (2_896, 1_448))


def _animations() -> Iterator[Hostile]:
    frames = [picture(size=SIZE), Image.new("RGB", SIZE, "red"), Image.new("RGB", SIZE, "blue")]
    for form in ("PNG", "WEBP", "GIF"):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
        yield Hostile(f"animated {form}", data)
    # Cameras write such files: a photo and a preview of it.
    several = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    yield Hostile("JPEG with more images behind it", several, SIZE)


def _metadata() -> Iterator[Hostile]:
    for orientation in (*range(1, 9), 0, 9, 65_535):
        size = TURNED if 5 <= orientation <= 8 else SIZE
        data = exif(orientation)
        yield Hostile(f"JPEG turned by {orientation}", jpeg(exif=b"Exif\0\0" + data), size)
        yield Hostile(f"PNG turned by {orientation}", before_end(png(), chunk(b"eXIf", data)), size)
        yield Hostile(f"WebP turned by {orientation}", webp(exif=data), size)
    yield Hostile("JPEG turned, big-endian", jpeg(exif=b"Exif\0\0" + exif(6, ">")), TURNED)
    loop = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    odd = {
        "loop": loop,
        "end": b"II*\0" + struct.pack("<I", 1 << 31),
        "count": b"II*\0" + struct.pack("<IH", 8, 65_535),
        "kind": exif(6, kind=12),
        "noise": bytes(range(256)),
        "nothing": b"",
    }
    for name, data in odd.items():
        yield Hostile(
            f"JPEG, EXIF {name}", after_start(jpeg(), segment(0xE1, b"Exif\0\0" + data)), SIZE
        )
        yield Hostile(f"PNG, EXIF {name}", before_end(png(), chunk(b"eXIf", data)), SIZE)
        yield Hostile(f"WebP, EXIF {name}", webp(exif=data or b"\0"), SIZE)
    bomb = exif_bomb(5_000, 60_000)
    parts = [
        segment(0xE1, b"Exif\0\0" + bomb[start : start + 65_000])
        for start in range(0, len(bomb), 65_000)
    ]
    yield Hostile("JPEG, EXIF of 300 MB", after_start(jpeg(), *parts), SIZE)
    large = exif_bomb(65_535, 4 << 20)
    parts = [
        segment(0xE1, b"Exif\0\0" + large[start : start + 65_000])
        for start in range(0, len(large), 65_000)
    ]
    yield Hostile("JPEG, EXIF of 270 GB", after_start(jpeg(), *parts), SIZE)
    yield Hostile("PNG, EXIF of 270 GB", before_end(png(), chunk(b"eXIf", large)), SIZE)
    yield Hostile("WebP, EXIF of 270 GB", webp(exif=large), SIZE)
    for junk in (b"", b"\0" * 128, bytes(range(256)) * 200, b"acsp" * 5_000):
        name = f"with {len(junk)} bytes for a colour profile"
        yield Hostile(
            f"PNG {name}", before_end(png(), chunk(b"iCCP", b"x\0\0" + zlib.compress(junk))), SIZE
        )
        body = b"ICC_PROFILE\0\1\1" + junk[:60_000]
        yield Hostile(f"JPEG {name}", after_start(jpeg(), segment(0xE2, body)), SIZE)


def _polyglots() -> Iterator[Hostile]:
    for name, other in (("PDF", PDF), ("ZIP", ZIP), ("script", SCRIPT), ("SVG", SVG)):
        for form, data in (("JPEG", jpeg()), ("PNG", png()), ("WebP", webp())):
            yield Hostile(f"{form} with {name} behind it", data + other, SIZE)
            yield Hostile(f"{name} with {form} behind it", other + data)
        yield Hostile(f"JPEG with {name} within", after_start(jpeg(), segment(0xFE, other)), SIZE)
        yield Hostile(
            f"PNG with {name} within", before_end(png(), chunk(b"tEXt", b"a\0" + other)), SIZE
        )
    yield Hostile("JPEG and PNG", jpeg() + png(), SIZE)
    yield Hostile("PNG and JPEG", png() + jpeg(), SIZE)


def _jpeg_parts() -> Iterator[Hostile]:
    plain, progressive = jpeg(), jpeg(progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    yield Hostile(
        "JPEG of 5,000 scans", progressive[:-2] + progressive[scan:-2] * 5_000 + b"\xff\xd9"
    )
    yield Hostile("JPEG of a million segments", after_start(plain, segment(0xE0, b"") * 1_000_000))
    yield Hostile("JPEG with filling", plain[:2] + b"\xff" * 100_000 + plain[2:], SIZE)
    frame = plain.index(b"\xff\xc0")
    length = struct.unpack_from(">H", plain, frame + 2)[0] + 2
    twice = plain[:frame] + plain[frame : frame + length] * 2 + plain[frame + length :]
    yield Hostile("JPEG with two frames", twice)
    yield Hostile("JPEG without a frame", plain[:frame] + plain[frame + length :])
    tables = plain.index(b"\xff\xc4")
    for number in range(8):
        changed = bytearray(plain)
        changed[tables + 5 : tables + 21] = bytes([255 - number]) * 16
        yield Hostile(f"JPEG with broken codes {number}", bytes(changed))
    for bits in (0, 1, 12, 16):
        yield Hostile(
            f"JPEG of {bits} bits", plain[: frame + 4] + bytes([bits]) + plain[frame + 5 :]
        )
    for layers in (0, 2, 5, 255):
        yield Hostile(
            f"JPEG of {layers} layers", plain[: frame + 9] + bytes([layers]) + plain[frame + 10 :]
        )


def _png_parts() -> Iterator[Hostile]:
    plain = png()
    row = chunk(b"IDAT", zlib.compress(bytes(4 * 13)))
    yield Hostile("PNG of a million chunks", before_end(plain, chunk(b"tEXt", b"") * 1_000_000))
    yield Hostile("PNG of two heads", plain[:33] + plain[8:33] + plain[33:])
    yield Hostile("PNG without a head", plain[:8] + plain[33:])
    yield Hostile("PNG without data", png_of(4, 4))
    yield Hostile("PNG with a broken sum", plain[:29] + b"1234" + plain[33:])
    yield Hostile("PNG with a chunk of 2 GB", plain[:33] + struct.pack(">I", 2**31 - 1) + b"tEXtab")
    yield Hostile(
        "PNG without a palette",
        png_of(4, 4, chunk(b"IDAT", zlib.compress(bytes(20))), colour=3),
        (4, 4),
    )
    for depth, colour in ((3, 0), (16, 3), (1, 2), (8, 1), (8, 7), (0, 0), (255, 255)):
        yield Hostile(
            f"PNG of {depth} bits, colour type {colour}",
            png_of(4, 4, row, depth=depth, colour=colour),
        )
    broken = chunk(b"IDAT", b"\x78\x9c" + bytes(range(100)))
    yield Hostile("PNG with broken data", png_of(4, 4, broken))
