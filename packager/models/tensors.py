"""Check for missing tensors.

transformers and the model builder fill missing tensors with random numbers and go on.
"""

import functools
from pathlib import Path

import msgspec

from packager import cache, console
from packager.errors import ModelSourceError
from packager.jobs import keys
from packager.jobs.compare_tensors import CompareTensors, Tensors
from packager.jobs.harness import run_job


@functools.cache
def check(folder: Path, digest: str, *, trust_remote_code: bool) -> None:
    """Check that a Hugging Face folder has all tensors that its config.json calls for.

    Args:
        folder: folder that `check_hf` accepts.
        digest: digest of the folder's files, which are compared once (cached).
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ModelSourceError: tensors are missing, or transformers cannot load the model.
    """

    job = CompareTensors(folder=folder, trust_remote_code=trust_remote_code)

    def make(target: Path) -> None:
        with console.step("Comparing the tensors with those of the model"):
            compared = run_job(
                job,
                what=f"Loading {folder.name}",
                error=ModelSourceError,
                hint="Download the model again; the log shows what transformers cannot load.",
            )
        (target / "tensors.json").write_bytes(msgspec.json.encode(compared))

    stage = cache.stage("tensors", keys.inputs(job, content={folder: digest}), make)
    compared = msgspec.json.decode((stage / "tensors.json").read_bytes(), type=Tensors)
    refuse_gaps(compared, str(folder))
    warn_unexpected(compared, folder.name)


def refuse_gaps(compared: Tensors, where: str) -> None:
    """Refuse a model that is incomplete.

    Raises:
        ModelSourceError: tensors are missing or have another shape.
    """
    problems = [
        f"{what} ({len(names)}): {_some(names)}"
        for what, names in (
            ("missing tensors", compared.missing),
            ("tensors of another shape", compared.mismatched),
        )
        if names
    ]
    if problems:
        if compared.unexpected:
            names = compared.unexpected
            problems.append(f"unexpected tensors ({len(names)}): {_some(names)}")
        raise ModelSourceError(
            f"{where} does not match its configuration; " + "; ".join(problems),
            hint="Download the model again, or from another publisher.",
        )


def warn_unexpected(compared: Tensors, where: str) -> None:
    """Warn about tensors that are left out of the model."""
    names = compared.unexpected
    if names:
        console.warn(
            f"{where} has tensors that the model does not use, which are left out "
            f"({len(names)}): {_some(names)}"
        )


def _some(names: list[str]) -> str:
    """List the first names, for messages."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
