"""The build's report: one self-contained HTML page beside the bundle.

It loads nothing from elsewhere: styles are inline, figures are inline SVG, pictures `data:` URLs.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from device_runtime.bundle.manifest import Manifest
from packager.aside import written_aside
from packager.evaluation import pictures
from packager.evaluation.picture_quality import PictureResult
from packager.models import tokenizers
from packager.quantize import kept
from packager.units import MEGA, parameters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOOD, BAD = "#1a7f5a", "#b3422f"
KINDS = ("#2a6fb0", "#d98a1f", "#1a7f5a", "#8a4fb0", "#b3422f", "#4c9aa8", "#7a7a3a")


THUMBNAIL = 240
"""Longest side of a picture on the page, pixels: twice as it is shown, for sharp screens."""


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """The error of a linear layer after calibration.

    Attributes:
        layer: index of the decoder layer.
        name: name of the linear layer below the decoder layer, `mlp.down_proj`.
        relative: energy of the error in the layer's outputs, relative to the outputs' own.
        sensitive: True if the layer has 8 bits in the bundle.
    """

    layer: int
    name: str
    relative: float
    sensitive: bool


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """The data of the page.

    Attributes:
        manifest: manifest of the bundle.
        digest: digest of the bundle.
        bundle: file name of the bundle.
        bundle_bytes: size of the bundle.
        speeds: decode throughput on the build machine by recipe, tokens/s; measured in one run.
        limits: the profile's limits for this model, by name.
        text: name of the file with the evaluation text; empty if the model wrote the text.
        layer_errors: layer errors of the calibration; empty without calibration.
        pictures: results of a model that sees on pictures.
        command: command that builds this bundle again.
        host: description of the build machine.
    """

    manifest: Manifest
    digest: str
    bundle: str
    bundle_bytes: int
    speeds: Mapping[str, float]
    limits: Mapping[str, float]
    text: str
    layer_errors: Sequence[LayerError]
    command: str
    host: str
    pictures: Sequence[PictureResult] = ()


def write(path: Path, data: ReportData) -> None:
    """Write the page.

    Raises:
        ResourceError: the page cannot be written.
    """
    with written_aside(path, "Free some space there, or choose another location with -o.") as file:
        file.write(render(data).encode())


def render(data: ReportData) -> str:
    """Render the page as HTML."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    facts = data.manifest.quantization
    return environment.get_template("page.html").render(
        data=data,
        manifest=data.manifest,
        facts=facts,
        mega=MEGA,
        kept=kept.summary(facts.source_types) if facts.source_types else "",
        tokenizer=tokenizers.describe(facts.tokenizer) if facts.tokenizer else "",
        thumbnails=[_thumbnail(result) for result in data.pictures],
        parameters=parameters(data.manifest.model.parameters),
        pareto=_svg(_pareto(data)) if any(model.quality for model in facts.tried) else "",
        layers=_svg(_layers(data)) if data.layer_errors else "",
    )


def _thumbnail(result: PictureResult) -> str:
    """Return a small copy of a picture as a URL."""
    small = pictures.thumbnail(result.file.read_bytes(), THUMBNAIL)
    return f"data:image/jpeg;base64,{base64.b64encode(small).decode()}"


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _pareto(data: ReportData) -> Figure:
    """Plot size against KL divergence; the area of a dot is its decode throughput."""
    figure = _figure(6.4, 3.9)
    axes = figure.add_subplot()
    chosen = data.manifest.quantization.recipe
    fastest = max(data.speeds.values(), default=1.0)
    for model in data.manifest.quantization.tried:
        if model.quality is None:
            continue
        size, kl = model.model_bytes / MEGA, model.quality.kl
        low, high = model.quality.kl_interval
        colour = BAD if model.exceeded else GOOD
        speed = data.speeds.get(model.recipe)
        axes.errorbar(size, kl, [[kl - low], [high - kl]], color=colour, capsize=3, zorder=2)
        axes.scatter(
            size,
            kl,
            s=260 * (speed / fastest) if speed else 60,
            color=colour,
            edgecolor="black" if model.recipe == chosen else "none",
            linewidth=1.5,
            alpha=0.85,
            zorder=3,
        )
        label = f"{model.recipe}, {speed:.0f} tokens/s" if speed else model.recipe
        axes.annotate(
            label, (size, high), (0, 13), textcoords="offset points", ha="center", fontsize=9
        )
    if "max_kl" in data.limits:
        axes.axhline(data.limits["max_kl"], color=BAD, linestyle="--", linewidth=1)
    if "max_model_mb" in data.limits:
        axes.axvline(data.limits["max_model_mb"], color=BAD, linestyle="--", linewidth=1)
    axes.margins(x=0.25, y=0.25)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("graph and weights, MB")
    axes.set_ylabel("KL divergence, nats per token")
    axes.grid(alpha=0.25)
    return figure


def _layers(data: ReportData) -> Figure:
    """Plot the relative error of each linear layer after calibration."""
    figure = _figure(6.4, 3.6)
    axes = figure.add_subplot()
    names = list(dict.fromkeys(error.name for error in data.layer_errors))
    for number, name in enumerate(names):
        colour = KINDS[number % len(KINDS)]
        errors = [error for error in data.layer_errors if error.name == name]
        axes.plot(
            [error.layer for error in errors],
            [100 * error.relative for error in errors],
            color=colour,
            linewidth=1.2,
            label=name,
        )
        eight = [error for error in errors if error.sensitive]
        axes.scatter(
            [error.layer for error in eight],
            [100 * error.relative for error in eight],
            color=colour,
            marker="s",
            s=22,
            zorder=3,
        )
    axes.set_yscale("log")
    axes.set_xlabel("decoder layer")
    axes.set_ylabel("error with 4 bits, % of the output's energy")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, ncols=2)
    return figure


def _svg(figure: Figure) -> str:
    """Render a figure as an SVG element; the same data give the same text."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "edgepack"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
