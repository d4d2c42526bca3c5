"""The data of a build's report page: manifest, decode speeds, layer errors, the command."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from msgspec.structs import asdict

from packager import cache, console
from packager.evaluation import evaluate
from packager.evaluation.picture_quality import PictureResult
from packager.jobs import keys
from packager.quantize.gate import Choice
from packager.report import page
from packager.report.page import LayerError, ReportData

if TYPE_CHECKING:
    from packager.request import BuildRequest, BuildResult


def write(
    request: BuildRequest,
    result: BuildResult,
    choice: Choice,
    speeds: Mapping[str, float],
    pictures: Sequence[PictureResult] = (),
) -> Path:
    """Write `NAME.report.html` beside the bundle; return its path.

    Args:
        request: what was asked for.
        result: the bundle.
        choice: the recipes.
        speeds: decode throughput by recipe, tokens/s.
        pictures: results of a model that sees on pictures.

    Raises:
        ResourceError: the page cannot be written.
    """
    path = result.path.with_suffix(".report.html")
    parameters = result.manifest.model.parameters
    limits = asdict(request.profile.limits)
    limits["max_kl"] = request.profile.limits.kl(parameters)
    data = ReportData(
        manifest=result.manifest,
        digest=result.digest,
        bundle=result.path.name,
        bundle_bytes=result.path.stat().st_size,
        speeds=speeds,
        limits={name: value for name, value in limits.items() if value is not None},
        text=request.eval_text.name if request.eval_text else "",
        layer_errors=_layer_errors(choice),
        pictures=pictures,
        command=command(request, result.path),
        host=_host(),
    )
    page.write(path, data)
    return path


def measure_speeds(choice: Choice) -> dict[str, float]:
    """Measure the decode throughput of all tried models in one run, tokens/s (cached)."""
    models = {model.recipe: model for model, _ in choice.tried if model.measured is not None}
    if not models:
        return {}

    folders = [model.measured for model in models.values() if model.measured is not None]
    job = evaluate.timing(folders)

    def make(target: Path) -> None:
        (target / "speeds.json").write_text(json.dumps(evaluate.decode_speed(job)))

    with console.step("Measuring decode speed"):
        folder = cache.stage("speed", keys.inputs(job, host=_host()), make)
    return dict(zip(models, json.loads((folder / "speeds.json").read_text()), strict=True))


def _layer_errors(choice: Choice) -> list[LayerError]:
    """Return the layer errors of the chosen model, or else of the last calibrated one."""
    calibrated = [model for model, _ in choice.tried if model.layers]
    if choice.chosen.layers:
        calibrated.append(choice.chosen)
    return [LayerError(**layer) for layer in calibrated[-1].layers] if calibrated else []


def command(request: BuildRequest, path: Path) -> str:
    """Return the command line that builds a bundle again."""
    parts = ["edgepack", "build", "--profile", request.profile.name, "--model", request.model]
    for option, value, usual in (
        ("--recipe", request.recipe, None),
        ("--adapter", request.adapter, None),
        ("--chat-template", request.chat_template, None),
        ("--embedding-model", request.embedding_model, None),
        ("--speech-model", request.speech_model, None),
        ("--eval-text", request.eval_text, None),
        ("--eval-images", request.eval_images, None),
        ("--eval-audio", request.eval_audio, None),
        ("--calibration-text", request.calibration_text, None),
        ("--bundle-version", request.version, type(request).version),
        ("--sequence", request.sequence, type(request).sequence),
    ):
        if value != usual:
            parts += [option, str(value)]
    flags = {
        "--text-only": request.text_only,
        "--model-only": request.model_only,
        "--allow-quality-loss": request.allow_quality_loss,
        "--trust-remote-code": request.trust_remote_code,
    }
    parts += [flag for flag, on in flags.items() if on]
    return shlex.join([*parts, "-o", path.name])


def _host() -> str:
    """Describe the build machine: processor and number of cores."""
    model = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    for line in cpu.read_text().splitlines() if cpu.exists() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {psutil.cpu_count()} cores"
