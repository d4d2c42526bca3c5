"""Check for missing tensors.

transformers and the model builder fill missing tensors with random numbers and go on.
"""

import functools
import json
import shutil
from pathlib import Path

import msgspec

from packager import cache, console
from packager.errors import ModelSourceError
from packager.jobs import keys
from packager.jobs.compare_tensors import CompareTensors, Tensors
from packager.jobs.harness import run_job
from packager.models.folder import hf_files
from packager.weights import checkpoint


@functools.cache
def checked(folder: Path, name: str, digest: str, trust_remote_code: bool) -> Path:
    """Check that a Hugging Face folder has all tensors that its config.json calls for.

    Args:
        folder: folder that `check_hf` accepts.
        name: name of the model for messages: a folder of the hub's cache is named by its commit.
        digest: digest of the folder's files, which are compared once (cached).
        trust_remote_code: run Python code that comes with the model.

    Returns:
        The folder; or one with the same files and a corrected config.json, in the cache.

    Raises:
        ModelSourceError: tensors are missing, or transformers cannot load the model.
    """

    job = CompareTensors(folder=folder, trust_remote_code=trust_remote_code)

    def make(target: Path) -> None:
        with console.step("Comparing the tensors with those of the model"):
            compared = run_job(
                job,
                what=f"Loading {name}",
                error=ModelSourceError,
                hint="Download the model again; the log shows what transformers cannot load.",
            )
        (target / "tensors.json").write_bytes(msgspec.json.encode(compared))

    stage = cache.stage("tensors", keys.inputs(job, content={folder: digest}), make)
    compared = msgspec.json.decode((stage / "tensors.json").read_bytes(), type=Tensors)
    refuse_gaps(compared, str(folder))
    warn_unexpected(compared, name)
    if not compared.untied:
        return folder
    warn_untied(name)
    inputs = {"untied": digest, "folder": str(folder)}
    return cache.stage("hf", inputs, lambda target: _untie(folder, target))


def _untie(folder: Path, target: Path) -> None:
    """Fill a folder with links to a model's files, and its configuration without tied weights."""
    for path in hf_files(folder):
        if path.name != "config.json":
            checkpoint.link(path, folder, target)
    shutil.copyfile(folder / "config.json", target / "config.json")
    untie(target / "config.json")


def untie(path: Path) -> None:
    """Let a configuration say that embedding and head are different weights."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            part["tie_word_embeddings"] = False
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


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


def warn_untied(where: str) -> None:
    """Warn about a head that is used although the configuration has none."""
    console.warn(
        f"{where} has a head of its own although its configuration ties it to the embedding; "
        "the head is used"
    )


def _some(names: list[str]) -> str:
    """List the first names, for messages."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
