"""Export the vision part of a Hugging Face folder, without code that comes with the model."""

from collections.abc import Callable
from pathlib import Path

from packager.jobs.job import Job, JobRefusedError, Work
from packager.vision import gemma3, lfm2_vl, mistral3, phi3v, qwen2_5_vl
from packager.vision.exported import ExportedVision, VisionError

EXPORTERS: dict[str, Callable[[Path, Path], ExportedVision]] = {
    "gemma3": gemma3.export,
    "lfm2_vl": lfm2_vl.export,
    "mistral3": mistral3.export,
    "phi3_v": phi3v.export,
    "qwen2_5_vl": qwen2_5_vl.export,
}
"""Exporters by the `model_type` of config.json; arguments are source and target folder."""


class ExportVision(Job[ExportedVision], frozen=True, kw_only=True):
    """Write the vision graph in fp32, and the engine's image transforms.

    Attributes:
        source: Hugging Face folder of the whole model.
        family: `model_type` of its config.json, a key of `EXPORTERS`.
    """

    source: Path
    family: str

    def run(self, work: Work) -> ExportedVision:
        """Write the files.

        Raises:
            JobRefusedError: the vision part is not as the family's exporter reads it.
        """
        try:
            return EXPORTERS[self.family](self.source, work.target)
        except VisionError as error:
            raise JobRefusedError(str(error)) from error
