"""Models that see: the vision part of a source model, and the whole model for a device."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from device_runtime.bundle.vision import Vision
from packager import cache, console
from packager.errors import QuantizeError
from packager.jobs import keys
from packager.jobs.export_vision import ExportVision
from packager.jobs.harness import run_job
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
    """

    folder: Path
    digest: str
    facts: Vision


def sees(source: ModelSource) -> bool:
    """Return whether a source model has a vision part that is built."""
    return source.kind == "hf" and source.architecture in FAMILIES


def join(source: ModelSource, folder: Path, digest: str) -> VisionModel:
    """Join a built text model and the vision part of its source (cached).

    Args:
        source: the source model, which sees.
        folder: ONNX GenAI folder of its text model.
        digest: digest of what that was made from.

    Raises:
        QuantizeError: the vision part cannot be exported, or not be joined.
    """
    vision, exported = _exported(source)

    def make(target: Path) -> None:
        attach.attach(folder, vision / "vision", exported, target / "model")

    stage = cache.stage(
        "seeing", keys.inputs(modules=[attach.__name__], text=digest, vision=vision.name), make
    )
    facts = Vision(family=exported.type, image_tokens=exported.image_tokens)
    return VisionModel(folder=stage / "model", digest=stage.name, facts=facts)


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
