"""The pictures that models that see are measured on, each with a question.

Without a folder of the user's, they are those of `drawings`. Pictures of a folder are untrusted:
they are decoded, and refused, as on a device.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from device_runtime.errors import DeviceError
from device_runtime.inference import image_file
from packager.errors import EvaluationError
from packager.evaluation.drawings import DRAWN

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

QUESTION = "Describe this picture in a few sentences."
"""Question about a picture of a folder that has none of its own."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FEWEST = 2
"""Least number of pictures in a folder: one gives no confidence interval."""
MOST = 64
MAX_QUESTION = 2000
"""Largest size of a file with a question, bytes."""
HINT = "Give JPEG, PNG or WebP files that a device would take, or remove it from the folder."


@dataclass(frozen=True, kw_only=True)
class AskedPicture:
    """A picture and a question about it.

    Attributes:
        name: name of the picture.
        question: the question.
        data: the picture's file.
    """

    name: str
    question: str
    data: bytes


def drawn() -> Iterator[AskedPicture]:
    """Draw the pictures; the same ones each time."""
    for name, question, draw in DRAWN:
        yield AskedPicture(name=name, question=question, data=_png(draw()))


def read(folder: Path) -> Iterator[AskedPicture]:
    """Read the pictures of a folder, in the order of their names.

    The question about `NAME.jpg` is in `NAME.txt`, if there is such a file.

    Raises:
        EvaluationError: there are too few pictures or too many, a device would not take one of
            them, or a name or a question is invalid.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not FEWEST <= len(paths) <= MOST:
        raise EvaluationError(
            f"{folder} has {len(paths)} pictures ({', '.join(SUFFIXES)}); from {FEWEST} to {MOST} "
            "are needed",
            hint="Give pictures like those that the device will see, a dozen or so.",
        )
    for path in paths:
        if not path.name.isprintable():  # nor is it then a line of a manifest
            raise EvaluationError(
                f"{folder} has a file with the name {path.name!r}",
                hint="Give it a name of letters and digits.",
            )
        yield AskedPicture(name=path.name, question=_question(path), data=_checked(path))


def thumbnail(data: bytes, side: int) -> bytes:
    """Make a small JPEG of a picture's file, at most `side` pixels wide and high."""
    from PIL import Image

    with Image.open(io.BytesIO(image_file.to_png(data))) as picture:
        picture.thumbnail((side, side))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _png(picture: "Picture") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _checked(path: Path) -> bytes:
    """Read a file whose picture the device can decode.

    Raises:
        EvaluationError: it cannot.
    """
    try:
        with path.open("rb") as file:
            data = file.read(image_file.MAX_BYTES + 1)
        image_file.to_png(data)
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror}", hint=HINT) from None
    except DeviceError as error:
        raise EvaluationError(f"{path} cannot be used: {error}", hint=HINT) from None
    return data


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
