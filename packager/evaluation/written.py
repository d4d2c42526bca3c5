"""Texts that the default model has written: data that saves a first build minutes.

`written/texts.json` describes each file of token ids by everything that determines the text: the
model, the prompts, the seed, the sizes and the sampling. A text is used only where all of that is
equal; otherwise the model writes. `python -m scripts.write_texts` makes the files.
"""

import functools
import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from packager import cache
from packager.errors import EvaluationError
from packager.jobs.reference import SAMPLING, Write

FOLDER = Path(__file__).with_name("written")
INDEX = "texts.json"


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that determines a text.

    Attributes:
        model: digest of the model's source.
        prompts: digest of the prompts, in order.
        at_once: number of prompts that are answered together.
        seed: seed of the sampling.
        windows: number of windows.
        window: tokens of a window.
        sampling: options of the sampling.
    """

    model: str
    prompts: str
    at_once: int
    seed: int
    windows: int
    window: int
    sampling: dict[str, Any]


class WrittenText(msgspec.Struct, frozen=True, kw_only=True):
    """A text that comes with edgepack.

    Attributes:
        file: name of its `.npy` file, token ids uint16 `[windows, window]`.
        sha256: digest of the file.
        origin: everything that determines the text.
    """

    file: str
    sha256: str
    origin: Origin

    def unpacked(self) -> Path:
        """Return a file in the cache with the token ids as int64.

        Raises:
            EvaluationError: the file that came with edgepack is damaged.
        """

        def make(target: Path) -> None:
            data = (FOLDER / self.file).read_bytes()
            if cache.bytes_digest(data) != self.sha256:
                raise EvaluationError(
                    f"{FOLDER / self.file} is damaged", hint="Install edgepack again."
                )
            np.save(target / "windows.npy", np.load(io.BytesIO(data)).astype(np.int64))

        return cache.stage("text", {"written": self.sha256}, make) / "windows.npy"


def origin(model: str, job: Write) -> Origin:
    """Describe the text that a job writes.

    Args:
        model: digest of the model's source.
        job: the job.
    """
    return Origin(
        model=model,
        prompts=cache.bytes_digest(msgspec.json.encode(job.prompts)),
        at_once=job.at_once,
        seed=job.seed,
        windows=job.windows,
        window=job.window,
        sampling=SAMPLING,
    )


def find(model: str, job: Write) -> WrittenText | None:
    """Return the text that a job would write, if it comes with edgepack."""
    wanted = origin(model, job)
    return next((text for text in texts() if text.origin == wanted), None)


@functools.cache
def texts() -> tuple[WrittenText, ...]:
    """Return all texts that come with edgepack."""
    return msgspec.json.decode((FOLDER / INDEX).read_bytes(), type=tuple[WrittenText, ...])
