"""Let the default model write its texts: `python -m scripts.write_texts`.

Fills `packager/evaluation/written`, in some minutes. The same model, prompts, seed and
sampling give the same files on the same versions of torch and transformers; nothing but the texts'
own quality depends on that.
"""

import tempfile
from pathlib import Path

import msgspec
import numpy as np

from packager import cache
from packager.evaluation import texts, written
from packager.evaluation.written import WrittenText
from packager.models.catalog import DEFAULT_MODEL
from packager.models.shape import WINDOW
from packager.models.source import ModelSource, as_hf_folder, resolve

SETS = {"calibration": texts.CALIBRATION, "evaluation": texts.EVALUATION}


def write(source: ModelSource, name: str) -> WrittenText:
    """Let a model write one set of windows, and store them."""
    job = texts.write_job(source, SETS[name])
    with tempfile.TemporaryDirectory() as folder:
        texts.run(job, Path(folder), f"Writing {name}", job.windows * WINDOW)
        windows = np.load(Path(folder, "windows.npy"))
    assert windows.min() >= 0
    assert windows.max() <= np.iinfo(np.uint16).max
    path = written.FOLDER / f"{source.name}-{name}.npy"
    np.save(path, windows.astype(np.uint16))
    return WrittenText(
        file=path.name,
        sha256=cache.file_digest(path),
        origin=written.origin(source.digest, job),
    )


def main() -> None:
    """Write all texts."""
    written.FOLDER.mkdir(exist_ok=True)
    source = resolve(DEFAULT_MODEL)
    as_hf_folder(source)
    index = [write(source, kind) for kind in SETS]
    data = msgspec.json.format(msgspec.json.encode(index), indent=2)
    (written.FOLDER / written.INDEX).write_bytes(data + b"\n")


if __name__ == "__main__":
    main()
