"""Quality of a model that sees on pictures, against its reference model.

As on text (`evaluate`): KL divergence and top-1 agreement, here over the reference model's answers
to questions about pictures. Both models get the same pixels, from the engine's own image processor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from device_runtime.bundle.quantization import Quality
from device_runtime.bundle.vision import PictureAnswer
from packager import cache, console
from packager.errors import EvaluationError
from packager.evaluation import evaluate, pictures, texts
from packager.jobs import keys, seeing
from packager.jobs.harness import run_job
from packager.jobs.measure_pictures import MeasurePictures, PictureMeans
from packager.jobs.picture_prompts import MakePrompts
from packager.jobs.refer_pictures import ReferPictures
from packager.jobs.seeing import Question
from packager.models.source import ModelSource, as_hf_folder
from packager.models.vision import VisionModel
from packager.vision.exported import ExportedVision

MAX_TOKENS = 24
"""Longest answer to a question about a picture, tokens."""

FEWER = 6
"""Pictures of a model with more than `texts.LARGE` parameters: a picture may be 2,500 tokens."""

HINT = "See whether onnxruntime-genai can use the model, or leave the pictures out: --text-only."


@dataclass(frozen=True, kw_only=True)
class PictureResult:
    """Result of a model on one picture.

    Attributes:
        file: file with the picture.
        answer: the question, and both models' answers.
        kl: mean KL divergence over the tokens of the reference model's answer, nats.
        top1: share of these tokens that the model would choose.
    """

    file: Path
    answer: PictureAnswer
    kl: float
    top1: float


@dataclass(frozen=True, kw_only=True)
class PictureQuality:
    """Quality of a model on pictures, and its results on each."""

    quality: Quality
    results: tuple[PictureResult, ...]


@dataclass(frozen=True, kw_only=True)
class PictureReference:
    """Files of the reference model, for pictures.

    Attributes:
        pictures: folder of the pictures and `seeing.INDEX`.
        prompts: file with the prompts.
        answers: folder with the reference model's answers.
    """

    pictures: Path
    prompts: Path
    answers: Path


def prepare(source: ModelSource, folder: Path | None) -> Path:
    """Write the pictures and questions to measure a model on into a folder (cached).

    Args:
        source: the model.
        folder: the user's own pictures; None for those that are drawn.

    Raises:
        EvaluationError: a picture or a question cannot be used.
    """
    if folder is None:
        asked = list(pictures.drawn())
        if source.parameters > texts.LARGE:
            asked = asked[:FEWER]
    else:
        asked = list(pictures.read(folder))

    def make(target: Path) -> None:
        index = []
        for number, picture in enumerate(asked):
            file = f"{number}.image"
            (target / file).write_bytes(picture.data)
            index.append(Question(file=file, picture=picture.name, text=picture.question))
        (target / seeing.INDEX).write_bytes(msgspec.json.encode(index))

    listed = [[view.name, view.question, cache.bytes_digest(view.data)] for view in asked]
    return cache.stage("pictures", keys.inputs(modules=[seeing.__name__], pictures=listed), make)


def refer(
    source: ModelSource,
    model: VisionModel,
    exported: ExportedVision,
    asked: Path,
    *,
    trust_remote_code: bool,
) -> PictureReference:
    """Let the reference model answer the questions about pictures (cached).

    Args:
        source: the reference model.
        model: a model with the vision graph in fp32, whose processor makes the prompts.
        exported: what the export of its vision part tells of it.
        asked: folder of `prepare`.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        EvaluationError: a model does not run.
        ResourceError: memory or disk space ran out.
    """
    count = len(seeing.questions(asked))
    making = MakePrompts(model=model.folder, pictures=asked, image_token=exported.image_token)

    def make_prompts(target: Path) -> None:
        with console.progress("Seeing pictures", count, "pictures") as advance:
            what = "Making prompts of pictures"
            run_job(making, target, what=what, error=EvaluationError, hint=HINT, advance=advance)

    prompts = cache.stage("picture-prompts", keys.inputs(making), make_prompts) / "prompts.npz"
    job = ReferPictures(
        source=as_hf_folder(source, trust_remote_code=trust_remote_code),
        floats=texts.in_floats(source),
        trust_remote_code=trust_remote_code,
        prompts=prompts,
        both_ways=exported.both_ways,
        sections=exported.sections,
        max_tokens=MAX_TOKENS,
    )
    # The same for all recipes, whose models make the same prompts.
    content = {source.path: source.digest, prompts: cache.file_digest(prompts)}
    inputs = keys.inputs(job, content=content)

    def make(target: Path) -> None:
        unfinished = cache.unfinished(inputs)
        with console.progress("Running the reference model", count, "pictures") as advance:
            what = "Running the reference model on pictures"
            run_job(job, unfinished, what=what, error=EvaluationError, hint=HINT, advance=advance)
        for path in unfinished.glob("answer-*.npz"):
            (target / path.name).hardlink_to(path)

    answers = cache.stage("picture-reference", inputs, make)
    return PictureReference(pictures=asked, prompts=prompts, answers=answers)


def measure(model: VisionModel, reference: PictureReference) -> PictureQuality:
    """Measure a model that the CPU runs on pictures (cached).

    Raises:
        EvaluationError: the model does not run, or does not match the reference model.
    """
    questions = seeing.questions(reference.pictures)
    job = MeasurePictures(
        model=model.folder,
        pictures=reference.pictures,
        prompts=reference.prompts,
        reference=reference.answers,
        max_tokens=MAX_TOKENS,
    )

    def make(target: Path) -> None:
        with console.progress("Measuring", len(questions), "pictures") as advance:
            what = "Measuring the model on pictures"
            means = run_job(job, what=what, error=EvaluationError, hint=HINT, advance=advance)
        (target / "measured.json").write_bytes(msgspec.json.encode(means))

    stage = cache.stage("measured-pictures", keys.inputs(job), make)
    measured = msgspec.json.decode((stage / "measured.json").read_bytes(), type=PictureMeans)
    return PictureQuality(
        quality=evaluate.quality(measured.means, None),
        results=tuple(_results(measured, questions, reference.pictures)),
    )


def _results(
    measured: PictureMeans, questions: Sequence[Question], folder: Path
) -> list[PictureResult]:
    return [
        PictureResult(
            file=folder / question.file,
            answer=PictureAnswer(
                picture=question.picture,
                prompt=question.text,
                reference=reference,
                quantized=quantized,
            ),
            kl=kl,
            top1=top1,
        )
        for question, reference, quantized, kl, top1 in zip(
            questions,
            measured.reference_answers,
            measured.answers,
            measured.means.kl,
            measured.means.top1,
            strict=True,
        )
    ]
