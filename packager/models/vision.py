"""Models that see: the vision part of a source model, and the whole model for a device."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from device_runtime.bundle.vision import Vision
from packager import cache, console
from packager.errors import QuantizeError
from packager.genai import weight_files
from packager.jobs import keys
from packager.jobs.check_vision import CheckedVision, CheckVision
from packager.jobs.export_vision import ExportVision
from packager.jobs.harness import run_job
from packager.models import text_model
from packager.models.catalog import FAMILIES
from packager.models.source import ModelSource
from packager.vision import attach
from packager.vision.exported import ExportedVision


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


def complete(source: ModelSource, folder: Path, digest: str) -> VisionModel:
    """Join a built text model and the vision part of its source, and let it see (cached).

    Args:
        source: the source model, which sees.
        folder: ONNX GenAI folder of its text model, or of the whole of a model given as ONNX.
        digest: digest of what that was made from.

    Raises:
        QuantizeError: the vision part cannot be exported or joined, or the model does not answer
            about a picture.
    """
    vision, exported = _exported(source) if source.kind == "hf" else (None, None)
    job = CheckVision()

    def make(target: Path) -> None:
        if vision is not None and exported is not None:
            attach.attach(folder, vision / "vision", exported, target / "model")
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
        job, modules=[attach.__name__], text=digest, vision=vision.name if vision else ""
    )
    stage = cache.stage("seeing", inputs, make)
    checked = msgspec.json.decode((stage / "checked.json").read_bytes(), type=CheckedVision)
    tokens = exported.image_tokens if exported is not None else checked.image_tokens
    more = weight_files.model_bytes(stage / "model") - weight_files.model_bytes(folder)
    return VisionModel(
        folder=stage / "model",
        digest=stage.name,
        facts=Vision(family=checked.family, image_tokens=tokens),
        memory_bytes=more + checked.memory_bytes,
    )


def _exported(source: ModelSource) -> tuple[Path, ExportedVision]:
    """Export the vision part of a model (cached): a folder with the folder `vision`."""
    job = ExportVision(source=source.path, family=FAMILIES[source.architecture])

    def make(target: Path) -> None:
        (target / "vision").mkdir()
        with console.step(f"Exporting the vision part of {source.name}"):
            exported = run_job(
                job,
                target / "vision",
                what=f"Exporting the vision part of {source.name}",
                error=QuantizeError,
                hint="Build the text model alone: --text-only.",
            )
        (target / "exported.json").write_bytes(msgspec.json.encode(exported))

    stage = cache.stage("vision", keys.inputs(job, content={source.path: source.digest}), make)
    return stage, msgspec.json.decode((stage / "exported.json").read_bytes(), type=ExportedVision)
