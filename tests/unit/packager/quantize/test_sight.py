"""The choice of a vision part: the smallest that keeps the limits and is near to fp32."""

from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from device_runtime.bundle.quantization import Quality
from device_runtime.bundle.vision import PictureAnswer, Vision, VisionWeights
from packager import profile
from packager.evaluation import picture_quality
from packager.evaluation.picture_quality import PictureQuality, PictureResult
from packager.jobs.check import Checked
from packager.models import vision
from packager.models.source import ModelSource
from packager.models.vision import VisionModel, VisionPart
from packager.profile import Limits
from packager.quantize.candidate import Candidate
from packager.quantize.sight import ChosenSight, Sight
from packager.vision.exported import ExportedVision

Figures = dict[VisionWeights, tuple[float, float]]
"""KL divergence and top-1 agreement by the weights of the vision part."""

ANSWER = PictureAnswer(picture="p", prompt="?", reference="a", quantized="b")


def quality(kl: float, top1: float) -> Quality:
    return Quality(
        kl=kl,
        kl_interval=(kl, kl),
        top1=top1,
        top1_interval=(top1, top1),
        perplexity=9.0,
        reference_perplexity=9.0,
        tokens=288,
        kl_tail=1.0,
        kl_max=1.0,
    )


class Models:
    """Stands for exporting, joining and measuring; keeps what was measured, in order."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self.measured: list[VisionWeights] = []

    def part(self, weights: VisionWeights) -> VisionPart:
        exported = ExportedVision(type="phi3v", inputs=(), image_tokens=9, image_token=None)
        return VisionPart(folder=Path(weights), digest=weights, exported=exported, weights=weights)

    def complete(self, part: VisionPart | None, folder: Path, digest: str) -> VisionModel:
        facts = Vision(family="phi3v", image_tokens=9, weights=part.weights if part else None)
        name = f"{folder} and {part.weights if part else 'its own'}"
        return VisionModel(folder=Path(name), digest=digest, facts=facts, memory_bytes=1)

    def measure(self, model: VisionModel, _reference: object) -> PictureQuality:
        weights = model.facts.weights
        assert weights is not None
        self.measured.append(weights)
        kl, top1 = self._figures[weights]
        result = PictureResult(file=Path("p.png"), answer=ANSWER, kl=kl, top1=top1)
        return PictureQuality(quality=quality(kl, top1), results=(result,))


def given(
    monkeypatch: pytest.MonkeyPatch,
    figures: Figures,
    *,
    kind: Literal["hf", "onnx"] = "hf",
    measured: bool = True,
) -> tuple[Sight, Candidate, Models]:
    """Return the sight of a model, its text model, and what stands for the work."""
    models = Models(figures)
    monkeypatch.setattr(vision, "export", lambda _source: models.part("fp32"))
    monkeypatch.setattr(vision, "stored", lambda _part, weights: models.part(weights))
    monkeypatch.setattr(vision, "complete", models.complete)
    monkeypatch.setattr(picture_quality, "refer", lambda *_, **__: None)
    monkeypatch.setattr(picture_quality, "measure", models.measure)
    source = ModelSource(
        kind=kind,
        name="tiny",
        origin="folder",
        path=Path("tiny"),
        digest="0",
        architecture="Phi3VForCausalLM",
        license="",
        parameters=1,
    )
    checked: dict[str, Any] = {"operators": {}, "quantized": (), "large_floats": ()}
    candidate = Candidate(
        recipe="int4-gptq",
        precision="int4",
        folder=Path("built/model"),
        digest="1",
        graph=Checked(execution_provider="cpu", answer=None, probe=None, **checked),
        measured=Path("measured/model") if measured else None,
        quality=None,
        answers=(),
        layers=[],
        model_bytes=1,
        memory_bytes=1,
        context_length=2048,
    )
    device = msgspec.structs.replace(
        profile.load("cpu-x86_64"), limits=Limits(max_kl=0.1, max_kl_tail=2.0, min_top1=0.8)
    )
    sight = Sight(source, device, Path("pictures"), trust_remote_code=False)
    return sight, candidate, models


def choose(
    monkeypatch: pytest.MonkeyPatch,
    figures: Figures,
    *,
    kind: Literal["hf", "onnx"] = "hf",
    measured: bool = True,
) -> tuple[ChosenSight, Models]:
    sight, candidate, models = given(monkeypatch, figures, kind=kind, measured=measured)
    return sight.choose(candidate), models


@pytest.mark.parametrize(
    ("figures", "weights"),
    [
        ({"fp32": (0.05, 0.9), "int8": (0.054, 0.885)}, "int8"),
        ({"fp32": (0.05, 0.9), "int8": (0.056, 0.9), "fp16": (0.05, 0.9)}, "fp16"),
        ({"fp32": (0.05, 0.9), "int8": (0.05, 0.87), "fp16": (0.05, 0.9)}, "fp16"),
        # Near to fp32, and above the limit.
        ({"fp32": (0.098, 0.9), "int8": (0.101, 0.9), "fp16": (0.099, 0.9)}, "fp16"),
        ({"fp32": (0.05, 0.9), "int8": (0.2, 0.5), "fp16": (0.06, 0.9)}, "fp32"),
    ],
)
def test_smallest_that_is_near_to_fp32_is_taken(
    monkeypatch: pytest.MonkeyPatch, figures: Figures, weights: VisionWeights
) -> None:
    chosen, models = choose(monkeypatch, figures)
    assert models.measured == ["fp32", *(tried for tried in figures if tried != "fp32")]
    facts = chosen.facts
    assert facts.weights == weights
    assert facts.quality == quality(*figures[weights])
    assert facts.answers == (ANSWER,)
    assert [result.kl for result in chosen.results] == [figures[weights][0]]
    assert [part.weights for part in facts.tried] == [*models.measured[1:], "fp32"]
    assert {part.weights for part in facts.tried if not part.exceeded} >= {weights}
    assert chosen.model.folder == Path(f"built/model and {weights}")


def test_limits_are_those_with_the_vision_part_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    sight, candidate, models = given(
        monkeypatch, {"fp32": (0.2, 0.5), "int8": (0.2, 0.5), "fp16": (0.2, 0.5)}
    )
    assert sight.exceeded(candidate) == ("KL 0.200 > 0.1", "top-1 0.500 < 0.8")
    sight.choose(candidate)
    assert models.measured.count("fp32") == 1
    sight, candidate, _ = given(monkeypatch, {"fp32": (0.05, 0.9)})
    assert sight.exceeded(candidate) == ()


def test_model_beyond_the_limits_gets_a_part_near_to_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, _ = choose(monkeypatch, {"fp32": (0.2, 0.5), "int8": (0.203, 0.49)})
    assert chosen.facts.weights == "int8"
    assert all(part.exceeded for part in chosen.facts.tried)


def test_model_that_cannot_be_measured_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    as_onnx, models = choose(monkeypatch, {}, kind="onnx")
    assert (as_onnx.facts.weights, as_onnx.facts.quality) == (None, None)
    for_gpu, more = choose(monkeypatch, {}, measured=False)
    assert for_gpu.facts.weights == "fp32"
    assert not models.measured + more.measured
    assert not for_gpu.results
