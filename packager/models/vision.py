"""Models that see: the vision part of a source model, and the whole model for a device."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from device_runtime.bundle.vision import Vision, VisionWeights
from packager import cache, console
from packager.errors import QuantizeError
from packager.genai import weight_files
from packager.jobs import keys
from packager.jobs.check_vision import CheckedVision, CheckVision
from packager.jobs.export_vision import ExportVision
from packager.jobs.harness import Result, run_job
from packager.jobs.job import Job
from packager.jobs.store_vision import StoreVision
from packager.models import text_model
from packager.models.catalog import FAMILIES
from packager.models.source import ModelSource
from packager.vision import attach
from packager.vision.exported import GRAPH, ExportedVision


@dataclass(frozen=True, kw_only=True)
class VisionPart:
    """The vision part of a model.

    Attributes:
        folder: folder with the graph and the engine's image transforms.
        digest: digest of all that it was made from.
        exported: what the export tells of it.
        weights: type of the graph's weights.
    """

    folder: Path
    digest: str
    exported: ExportedVision
    weights: VisionWeights

    @property
    def size(self) -> int:
        """Size of the graph and its weights, bytes."""
        return sum(path.stat().st_size for path in self.folder.glob(f"{GRAPH}*"))


@dataclass(frozen=True, kw_only=True)
class VisionModel:
    """A model that sees, as the engine loads it.

    Attributes:
        folder: ONNX GenAI folder.
        digest: digest of all that it was made from.
        facts: what the manifest says of it.
        memory_bytes: estimated memory that seeing takes while serving.
    """

    folder: Path
    digest: str
    facts: Vision
    memory_bytes: int


def sees(source: ModelSource) -> bool:
    """Return whether a source model has a vision part that is built, or is built already."""
    if source.kind == "onnx":
        return "vision" in text_model.json_object(source.path / "genai_config.json")["model"]
    return source.kind == "hf" and source.architecture in FAMILIES


def parameters(source: ModelSource) -> int:
    """Count the weights of a source model's vision part."""
    tensors = text_model.tensors(source.path, source.architecture)
    return sum(tensor.elements for tensor, text in tensors if not text)


def export(source: ModelSource) -> VisionPart:
    """Export the vision part of a source model, which sees, in fp32 (cached).

    Raises:
        QuantizeError: it cannot be exported.
    """
    job = ExportVision(source=source.path, family=FAMILIES[source.architecture])
    what = f"Exporting the vision part of {source.name}"

    def make(target: Path) -> None:
        exported = _run(job, target, what)
        (target / "exported.json").write_bytes(msgspec.json.encode(exported))

    stage = cache.stage("vision", keys.inputs(job, content={source.path: source.digest}), make)
    exported = msgspec.json.decode((stage / "exported.json").read_bytes(), type=ExportedVision)
    return VisionPart(folder=stage / "vision", digest=stage.name, exported=exported, weights="fp32")


def stored(part: VisionPart, weights: VisionWeights) -> VisionPart:
    """Return a vision part that is in fp32 with weights of a smaller type (cached).

    Raises:
        QuantizeError: they cannot be written.
    """
    job = StoreVision(source=part.folder, weights=weights)
    what = f"Storing the vision part in {weights}"
    stage = cache.stage("stored-vision", keys.inputs(job), lambda target: _run(job, target, what))
    return VisionPart(
        folder=stage / "vision", digest=stage.name, exported=part.exported, weights=weights
    )


def complete(part: VisionPart | None, folder: Path, digest: str) -> VisionModel:
    """Join a built text model and the vision part of its source, and let it see (cached).

    Args:
        part: the vision part; None for a model that was given as ONNX, which has its own.
        folder: ONNX GenAI folder of its text model, or of the whole of a model given as ONNX.
        digest: digest of what that was made from.

    Raises:
        QuantizeError: they cannot be joined, or the model does not answer about a picture.
    """
    job = CheckVision()

    def make(target: Path) -> None:
        if part is not None:
            attach.attach(folder, part.folder, part.exported, target / "model")
        else:
            shutil.copytree(folder, target / "model", copy_function=os.link)
        with console.step("Letting the model see"):
            checked = run_job(
                job,
                target / "model",
                what="Answering about a picture",
                error=QuantizeError,
                hint="Build the text model alone (--text-only), or export the model again.",
            )
        (target / "checked.json").write_bytes(msgspec.json.encode(checked))

    inputs = keys.inputs(
        job, modules=[attach.__name__], text=digest, vision=part.digest if part else ""
    )
    stage = cache.stage("seeing", inputs, make)
    checked = msgspec.json.decode((stage / "checked.json").read_bytes(), type=CheckedVision)
    more = weight_files.model_bytes(stage / "model") - weight_files.model_bytes(folder)
    return VisionModel(
        folder=stage / "model",
        digest=stage.name,
        facts=Vision(
            family=checked.family,
            image_tokens=part.exported.image_tokens if part else checked.image_tokens,
            weights=part.weights if part else None,
        ),
        memory_bytes=more + checked.memory_bytes,
    )


def _run(job: Job[Result], target: Path, what: str) -> Result:
    """Run a job that fills the folder `vision` of a stage."""
    (target / "vision").mkdir()
    with console.step(what):
        return run_job(
            job,
            target / "vision",
            what=what,
            error=QuantizeError,
            hint="Build the text model alone: --text-only.",
        )
