"""Run onnxruntime-genai's model builder."""

import json
from collections.abc import Mapping
from pathlib import Path

from packager import console
from packager.child import run_module
from packager.errors import QuantizeError

HINT = "Try another precision in the profile; `edgepack models` lists what is supported."


def build(
    source: Path,
    target: Path,
    work: Path,
    *,
    precision: str,
    execution_provider: str,
    options: Mapping[str, str],
    trust_remote_code: bool,
) -> None:
    """Build an ONNX GenAI folder from a Hugging Face folder.

    Args:
        source: Hugging Face folder.
        target: the folder to fill.
        work: scratch folder for the builder.
        precision: `int4`, `int8`, `fp16` or `fp32`.
        execution_provider: as the builder names it (`cpu`, `cuda`).
        options: the builder's extra options.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        QuantizeError: the builder failed.
        ResourceError: memory or disk space ran out.
    """
    # The builder takes "no token" for local folders only if it is told so.
    extra = {"hf_token": "false", "hf_remote": str(trust_remote_code).lower(), **options}
    layers = json.loads((source / "config.json").read_text()).get("num_hidden_layers", 0)
    with console.progress("Reading layers", layers, "layers") as advance:
        run_module(
            "onnxruntime_genai.models.builder",
            [
                *("-i", source, "-o", target, "-c", work),
                *("-p", precision, "-e", execution_provider),
                "--extra_options",
                *(f"{name}={value}" for name, value in sorted(extra.items())),
            ],
            what="Building the ONNX model",
            error=QuantizeError,
            hint=HINT,
            on_line=lambda line: advance(1) if line.startswith("Reading layer") else None,
        )
    if not (target / "genai_config.json").is_file():
        raise QuantizeError(
            "the model builder ended without an error and without a model", hint=HINT
        )
