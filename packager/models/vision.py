"""Models that see: the vision part of a source model, and the whole model for a device."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from device_runtime.bundle.vision import Vision
from packager import cache, console
from packager.errors import QuantizeError
from packager.jobs import keys
from packager.jobs.check_vision import CheckedVision, CheckVision
from packager.jobs.export_vision import ExportVision
from packager.jobs.harness import run_job
from packager.models.catalog import FAMILIES
from packager.models.source import ModelSource
from packager.vision import attach
from packager.vision.exported import PROCESSOR, ExportedVision


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
    """Return whether a source model has a vision part that is built."""
    return source.kind == "hf" and source.architecture in FAMILIES


def join(source: ModelSource, folder: Path, digest: str) -> VisionModel:
    """Join a built text model and the vision part of its source, and let it see (cached).

    Args:
        source: the source model, which sees.
        folder: ONNX GenAI folder of its text model.
        digest: digest of what that was made from.

    Raises:
        QuantizeError: the vision part cannot be exported or joined, or the model does not answer
            about a picture.
    """
    vision, exported = _exported(source)
    job = CheckVision()

    def make(target: Path) -> None:
        attach.attach(folder, vision / "vision", exported, target / "model")
        with console.step("Letting the model see"):
            checked = _check(job, target / "model")
        (target / "checked.json").write_bytes(msgspec.json.encode(checked))

    stage = cache.stage(
        "seeing", keys.inputs(job, modules=[attach.__name__], text=digest, vision=vision.name), make
    )
    checked = msgspec.json.decode((stage / "checked.json").read_bytes(), type=CheckedVision)
    graphs = (path for path in (vision / "vision").iterdir() if path.name != PROCESSOR)
    return VisionModel(
        folder=stage / "model",
        digest=stage.name,
        facts=Vision(family=exported.type, image_tokens=exported.image_tokens),
        memory_bytes=sum(path.stat().st_size for path in graphs) + checked.memory_bytes,
    )


def _check(job: CheckVision, folder: Path) -> CheckedVision:
    return run_job(
        job,
        folder,
        what="Answering about a picture",
        error=QuantizeError,
        hint="Build the text model alone: --text-only.",
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
