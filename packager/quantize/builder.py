"""Run onnxruntime-genai's model builder."""

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec

from packager import console
from packager.child import run_module
from packager.errors import QuantizeError
from packager.jobs.build_onnx import WARNING, Job, Weights

HINT = "Try another recipe; `edgepack models` lists what is supported."


def build(
    source: Path,
    target: Path,
    work: Path,
    *,
    precision: str,
    execution_provider: str,
    options: Mapping[str, str],
    trust_remote_code: bool,
    weights: Weights | None = None,
) -> None:
    """Build an ONNX GenAI folder from a Hugging Face folder.

    Args:
        source: Hugging Face folder.
        target: the folder to fill.
        work: scratch folder for the builder; made and removed.
        precision: `int4`, `int8`, `fp16` or `fp32`.
        execution_provider: as the builder names it (`cpu`, `cuda`).
        options: the builder's extra options.
        trust_remote_code: run Python code that comes with the model.
        weights: how to quantize; None leaves it to the builder.

    Raises:
        QuantizeError: the builder failed.
        ResourceError: memory or disk space ran out.
    """
    # The builder takes "no token" for local folders only if it is told so.
    extra = {"hf_token": "false", "hf_remote": str(trust_remote_code).lower(), **options}
    job = Job(
        source=str(source),
        target=str(target),
        work=str(work),
        precision=precision,
        execution_provider=execution_provider,
        options=extra,
        weights=weights,
    )
    layers = json.loads((source / "config.json").read_text()).get("num_hidden_layers", 0)
    warnings: list[str] = []
    with console.progress("Reading layers", layers, "layers") as advance:

        def on_line(line: str) -> None:
            if line.startswith("Reading layer"):
                advance(1)
            elif line.startswith(WARNING):
                warnings.append(line.removeprefix(WARNING))

        run_module(
            "packager.jobs.build_onnx",
            [msgspec.json.encode(job).decode()],
            what="Building the ONNX model",
            error=QuantizeError,
            hint=HINT,
            on_line=on_line,
        )
    for warning in warnings:
        console.warn(warning)
    if not (target / "genai_config.json").is_file():
        raise QuantizeError(
            "the model builder ended without an error and without a model", hint=HINT
        )
