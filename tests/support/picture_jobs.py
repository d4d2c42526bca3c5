"""The jobs that measure a model that sees, one after the other."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from packager.evaluation import pictures
from packager.jobs.job import Work
from packager.jobs.measure_pictures import MeasurePictures, PictureMeans
from packager.jobs.picture_prompts import MakePrompts
from packager.jobs.refer_pictures import ReferPictures
from packager.jobs.seeing import INDEX, Question
from packager.vision.exported import ExportedVision


@dataclass(frozen=True, kw_only=True)
class PictureJobs:
    """Jobs for one model in fp32, which share a folder.

    Attributes:
        folder: a folder for pictures and all that is made of them.
        model: ONNX GenAI folder of the model.
        text: Hugging Face folder of its text model.
        exported: what the export tells of its vision part.
        count: number of pictures.
        tokens: length of an answer.
    """

    folder: Path
    model: Path
    text: Path
    exported: ExportedVision
    count: int = 4
    tokens: int = 6

    def prepare(self) -> None:
        """Write pictures, prompts, and the answers of the reference model."""
        index = []
        for number, picture in zip(range(self.count), pictures.drawn(), strict=False):
            (self.folder / str(number)).write_bytes(picture.data)
            index.append(Question(file=str(number), picture=picture.name, text=picture.question))
        (self.folder / INDEX).write_bytes(msgspec.json.encode(index))
        job = MakePrompts(
            model=self.model, pictures=self.folder, image_token=self.exported.image_token
        )
        job.run(Work(self.folder))
        self.refer().run(Work(self.folder))

    def refer(self) -> ReferPictures:
        """Make the job of the reference model."""
        return ReferPictures(
            source=self.text,
            floats=True,
            trust_remote_code=False,
            prompts=self.folder / "prompts.npz",
            both_ways=self.exported.both_ways,
            sections=self.exported.sections,
            max_tokens=self.tokens,
        )

    def measure(self, model: Path) -> PictureMeans:
        """Measure a model."""
        return MeasurePictures(
            model=model,
            pictures=self.folder,
            prompts=self.folder / "prompts.npz",
            reference=self.folder,
            max_tokens=self.tokens,
        ).run(Work())
