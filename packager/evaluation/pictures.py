"""The pictures that models that see are measured on, each with a question.

Without a folder of the user's, they are those of `drawings`. Pictures of a folder are untrusted:
their size is bounded before they are decoded.
"""

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packager.errors import EvaluationError
from packager.evaluation.drawings import DRAWN

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

QUESTION = "Describe this picture in a few sentences."
"""Question about a picture of a folder that has none of its own."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FEWEST = 2
"""Pictures that a folder must have: of a single one there is no confidence interval."""
MOST = 64
MAX_BYTES = 20_000_000
MAX_PIXELS = 25_000_000
MAX_RATIO = 50
"""Largest ratio of a picture's sides."""
SIDE = 2048
"""Longest side that stays, pixels: as much as a device gives to the engine."""
MAX_QUESTION = 2000
"""Largest size of a file with a question, bytes."""

_FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True, kw_only=True)
class AskedPicture:
    """A picture and a question about it.

    Attributes:
        name: name of the picture.
        question: the question.
        png: the picture, as a PNG file in RGB.
    """

    name: str
    question: str
    png: bytes


def drawn() -> Iterator[AskedPicture]:
    """Draw the pictures; the same ones each time."""
    for name, question, draw in DRAWN:
        yield AskedPicture(name=name, question=question, png=_png(draw()))


def read(folder: Path) -> Iterator[AskedPicture]:
    """Read the pictures of a folder, in the order of their names.

    The question about `NAME.jpg` is in `NAME.txt`, if there is such a file.

    Raises:
        EvaluationError: there are too few pictures or too many, one of them cannot be decoded or is
            too large, or a question is invalid.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not FEWEST <= len(paths) <= MOST:
        raise EvaluationError(
            f"{folder} has {len(paths)} pictures ({', '.join(SUFFIXES)}); from {FEWEST} to {MOST} "
            "are needed",
            hint="Give pictures like those that the device will see, a dozen or so.",
        )
    for path in paths:
        yield AskedPicture(name=path.name, question=_question(path), png=_png(_decoded(path)))


def thumbnail(png: bytes, side: int) -> bytes:
    """Make a small JPEG of a picture, at most `side` pixels wide and high."""
    from PIL import Image

    with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
        picture.thumbnail((side, side))
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _png(picture: "Picture") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _decoded(path: Path) -> "Picture":
    """Decode a picture, upright and in RGB.

    Raises:
        EvaluationError: it cannot be decoded, or is too large.
    """
    from PIL import Image, ImageOps

    if path.stat().st_size > MAX_BYTES:
        raise _too_large(path, f"larger than {MAX_BYTES // 1_000_000} MB")
    try:
        with warnings.catch_warnings():
            # Pillow warns of sizes that are checked below.
            warnings.simplefilter("ignore")
            picture = Image.open(path, formats=_FORMATS)
        with picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise _too_large(path, f"larger than {MAX_PIXELS // 1_000_000} megapixels")
            if max(width, height) > MAX_RATIO * min(width, height):
                raise _too_large(path, f"more than {MAX_RATIO} times as long as wide")
            picture.load()
            upright: Picture = ImageOps.exif_transpose(picture)
            # What is transparent becomes white, as on a page.
            canvas = Image.new("RGBA", upright.size, "white")
            canvas.alpha_composite(upright.convert("RGBA"))
            canvas.thumbnail((SIDE, SIDE))
            return canvas.convert("RGB")
    except EvaluationError:
        raise
    except Exception as error:  # decoders raise many kinds, struct.error and SyntaxError too
        raise EvaluationError(
            f"{path} cannot be decoded: {error}",
            hint="Give JPEG, PNG or WebP files, or remove it from the folder.",
        ) from None


def _too_large(path: Path, problem: str) -> EvaluationError:
    return EvaluationError(f"{path} is {problem}", hint="Scale it down or cut it.")


def _question(picture: Path) -> str:
    path = picture.with_suffix(".txt")
    if not path.exists():
        return QUESTION
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_QUESTION else b""
        question = data.decode().strip()
    except (OSError, UnicodeDecodeError):
        question = ""
    if not question:
        raise EvaluationError(
            f"{path} is not a question: UTF-8 text of at most {MAX_QUESTION} bytes",
            hint=f"Write the question about {picture.name} into it, or remove it.",
        )
    return question
