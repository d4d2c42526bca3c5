"""The build's report: one self-contained HTML page beside the bundle.

Nothing in it comes from elsewhere when it is opened: styles are inline, pictures are inline SVG.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from device_runtime.bundle.manifest import Manifest
from packager.aside import written_aside
from packager.units import MEGA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOOD, BAD = "#1a7f5a", "#b3422f"
KINDS = ("#2a6fb0", "#d98a1f", "#1a7f5a", "#8a4fb0", "#b3422f", "#4c9aa8", "#7a7a3a")


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """What calibration left of a linear layer.

    Attributes:
        layer: index of the decoder layer.
        name: below the layer, `mlp.down_proj`.
        relative: energy of the error in its outputs, relative to the outputs' own.
        sensitive: whether it got 8 bits in the bundle.
    """

    layer: int
    name: str
    relative: float
    sensitive: bool


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """What the page tells beside the manifest.

    Attributes:
        manifest: of the bundle.
        digest: of the bundle.
        bundle: its file name.
        bundle_bytes: its size.
        speeds: decode speed on the build machine by recipe, tokens/s; measured in one run.
        limits: what the profile asked for, by name.
        layer_errors: of the calibration; empty if there was none.
        command: what makes this bundle again.
        host: the build machine, in words.
    """

    manifest: Manifest
    digest: str
    bundle: str
    bundle_bytes: int
    speeds: Mapping[str, float]
    limits: Mapping[str, float]
    layer_errors: Sequence[LayerError]
    command: str
    host: str


def write(path: Path, data: ReportData) -> None:
    """Write the page.

    Raises:
        ResourceError: it cannot be written.
    """
    with written_aside(path, "Free some space there, or choose another place with -o.") as file:
        file.write(render(data).encode())


def render(data: ReportData) -> str:
    """The page as HTML."""
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
        pareto=_svg(_pareto(data)) if any(one.quality for one in facts.tried) else "",
        layers=_svg(_layers(data)) if data.layer_errors else "",
    )


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _pareto(data: ReportData) -> Figure:
    """Size against KL divergence; the area of a dot is its decode speed."""
    figure = _figure(6.4, 3.9)
    axes = figure.add_subplot()
    chosen = data.manifest.quantization.recipe
    fastest = max(data.speeds.values(), default=1.0)
    for one in data.manifest.quantization.tried:
        if one.quality is None:
            continue
        size, kl = one.model_bytes / MEGA, one.quality.kl
        low, high = one.quality.kl_interval
        colour = BAD if one.exceeded else GOOD
        speed = data.speeds.get(one.recipe)
        axes.errorbar(size, kl, [[kl - low], [high - kl]], color=colour, capsize=3, zorder=2)
        axes.scatter(
            size,
            kl,
            s=260 * (speed / fastest) if speed else 60,
            color=colour,
            edgecolor="black" if one.recipe == chosen else "none",
            linewidth=1.5,
            alpha=0.85,
            zorder=3,
        )
        words = f"{one.recipe}, {speed:.0f} tokens/s" if speed else one.recipe
        axes.annotate(
            words, (size, kl), (0, 13), textcoords="offset points", ha="center", fontsize=9
        )
    if "max_kl" in data.limits:
        axes.axhline(data.limits["max_kl"], color=BAD, linestyle="--", linewidth=1)
    if "max_model_mb" in data.limits:
        axes.axvline(data.limits["max_model_mb"], color=BAD, linestyle="--", linewidth=1)
    axes.margins(x=0.25, y=0.25)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("graph and weights, MB")
    axes.set_ylabel("KL divergence, nats a token")
    axes.grid(alpha=0.25)
    return figure


def _layers(data: ReportData) -> Figure:
    """Relative error of each linear layer after calibration."""
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
    axes.set_ylabel("error of 4 bits, % of the output's energy")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, ncols=2)
    return figure


def _svg(figure: Figure) -> str:
    """The picture as an SVG element; the same data give the same text."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "edgepack"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
