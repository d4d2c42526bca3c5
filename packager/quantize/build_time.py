"""Forecast of the time that a build takes, stage by stage.

Each stage is counted in products of weights and in bytes to read, at the pace of this machine,
which is measured in a second. The factors come from the processor times of layers of Phi-3.5-mini's
shape, and of single stages for SmolLM2-135M; a build reports at its end how close they were.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from packager import console, plan
from packager.evaluation import texts
from packager.jobs import calibrate, sensitivity
from packager.machine import Pace
from packager.models import shape
from packager.models.shape import WINDOW, Shape
from packager.models.source import ModelSource
from packager.recipes.recipes import Recipe
from packager.schedule import Stages
from packager.units import duration
from packager.weights import gptq

START_S = 6.0
"""Time for a job to import its libraries."""


def stages(
    source: ModelSource,
    recipes: Sequence[Recipe],
    pace: Pace,
    *,
    eval_text: Path | None,
    calibration_text: Path | None,
) -> dict[str, float]:
    """Forecast the time of each stage of a build that tries some recipes, seconds.

    Args:
        source: the source model; not ONNX.
        recipes: the recipes, in order.
        pace: pace of this machine.
        eval_text: text file to measure on; None for text that the model writes.
        calibration_text: text file to calibrate with; None likewise.
    """
    work = _Work(
        shape.shape(source),
        pace,
        floats=texts.in_floats(source),
        bfloat16=texts.calibrated_in_bfloat16(source),
    )
    expected = {}
    if eval_text is None:
        expected[Stages.EVALUATION_TEXT] = work.writing(texts.EVALUATION)
    expected[Stages.REFERENCE] = work.reading(texts.EVALUATION.windows)
    for recipe in recipes:
        if recipe.calibrated and Stages.CALIBRATION not in expected:
            if calibration_text is None:
                expected[Stages.CALIBRATION_TEXT] = work.writing(texts.calibration(source))
            expected[Stages.CALIBRATION] = work.calibrating(texts.calibration_windows(source))
        if recipe.calibrated and recipe.sensitive and Stages.SENSITIVITY not in expected:
            expected[Stages.SENSITIVITY] = work.differentiating()
        expected[Stages.building(recipe.name)] = work.building()
        expected[Stages.measuring(recipe.name)] = work.measuring(texts.EVALUATION.windows)
    return expected


def announce(expected: dict[str, float], recipes: Sequence[Recipe]) -> None:
    """Report how long a build takes, at least and at most."""
    whole = duration(sum(expected.values()))
    if len(recipes) > 1:
        names = list(expected)
        until = names.index(Stages.measuring(recipes[0].name)) + 1
        first = duration(sum(expected[name] for name in names[:until]))
        whole = (
            f"{first} if the first recipe, {recipes[0].name}, keeps the quality limits, up to "
            f"{whole} if all {len(recipes)} are tried"
        )
    console.note(f"takes about {whole} (less if cached)")


class _Work:
    """Work on a model, in seconds."""

    def __init__(self, of: Shape, pace: Pace, *, floats: bool, bfloat16: bool) -> None:
        self._of, self._pace = of, pace
        self._floats, self._bfloat16 = floats, bfloat16

    def writing(self, of: texts.WindowSet) -> float:
        """Forecast text that the model writes."""
        tokens = of.windows * WINDOW
        at_once = plan.at_once(self._of, len(of.prompts), tokens, floats=self._floats)
        batches = math.ceil(len(of.prompts) / at_once)
        steps = batches * tokens / len(of.prompts)
        return START_S + steps * self._step(at_once)

    def reading(self, windows: int) -> float:
        """Forecast the probabilities of the reference model, and its answers."""
        lengths = [asked.max_tokens for asked in texts.QUESTIONS for _ in asked.prompts]
        together = [sum(length > step for length in lengths) for step in range(max(lengths))]
        return 2 * START_S + self._forward(windows) + sum(map(self._step, together))

    def calibrating(self, windows: int) -> float:
        """Forecast GPTQ: each layer runs twice, and its inputs' second moments are gathered."""
        of = self._of
        inputs = (of.hidden, of.queries, of.hidden, of.intermediate)
        outputs = (of.queries + 2 * of.keys, of.hidden, 2 * of.intermediate, of.hidden)
        bands = [min(width, calibrate.band(windows * WINDOW)) for width in inputs]
        squares = [width * band for width, band in zip(inputs, bands, strict=True)]
        moments = 4 / 3 * windows * WINDOW * sum(squares) / 0.85
        factors = sum(square * band for square, band in zip(squares, bands, strict=True)) / 0.5
        rounds = 1 + gptq.SWEEPS * (1.4 if self._bfloat16 else 2)
        solving = rounds * sum(rows * square for rows, square in zip(outputs, squares, strict=True))
        layers = of.layers * (moments + factors + solving / 0.6)
        head = rounds * of.vocabulary * of.hidden**2 / 0.6
        searching = 4000 * of.parameters
        forward = self._forward(windows) / (2.5 if self._bfloat16 else 1)
        return START_S + 2 * forward + self._products(layers + head + searching)

    def differentiating(self) -> float:
        """Forecast the costs of the layers: both models, one of them again, its gradients."""
        forward = self._forward(sensitivity.WINDOWS) / (2.5 if self._bfloat16 else 1)
        return START_S + 8 * forward

    def building(self) -> float:
        """Forecast the graph, its check and the first answer."""
        return 3 * START_S + self._products(7000 * self._of.parameters)

    def measuring(self, windows: int) -> float:
        """Forecast the probabilities of a quantized model, and its answers."""
        answers = sum(len(asked.prompts) * asked.max_tokens for asked in texts.QUESTIONS)
        # At most: a model that ends its answers early is done sooner.
        reading = answers * 2.4 * self._of.parameters / self._pace.bytes_s
        return 2 * START_S + self._forward(windows) / 2 + reading

    def _forward(self, windows: int) -> float:
        return self._products(2 * self._of.parameters * windows * WINDOW / 0.8)

    def _step(self, at_once: int) -> float:
        """Return the time of a step that decodes some texts together."""
        of = self._of
        width = 4.0 if self._floats else of.stored
        products = 2 * of.parameters * at_once / 0.4
        # The processor waits for weights, or for products; and for some hundred small operations.
        waiting = max(of.parameters * width / self._pace.bytes_s, self._products(products))
        return waiting + 4e-4 * of.layers + 2e-8 * at_once * of.vocabulary

    def _products(self, count: float) -> float:
        return count / self._pace.products_s
