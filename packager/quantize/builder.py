"""Run onnxruntime-genai's model builder as a child process.

A child, because the builder prints to stdout, keeps gigabytes until its process ends, and may be
killed by the kernel for the memory it takes; none of that should be the packager's fate.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from packager import console
from packager.errors import CommandError, QuantizeError
from packager.run import run


def child_environment() -> dict[str, str]:
    """Environment of a child that works on local files only and reports to nobody."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "ORT_TELEMETRY_DISABLED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "TQDM_DISABLE": "1",
    }


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
        QuantizeError: the builder failed; the message ends with its last lines.
    """
    # The builder takes "no token" for local folders only if it is told so.
    extra = {"hf_token": "false", "hf_remote": str(trust_remote_code).lower(), **options}
    layers = json.loads((source / "config.json").read_text()).get("num_hidden_layers", 0)
    try:
        with console.progress("Reading layers", layers, "layers") as advance:
            run(
                [
                    *(sys.executable, "-m", "onnxruntime_genai.models.builder"),
                    *("-i", source, "-o", target, "-c", work),
                    *("-p", precision, "-e", execution_provider),
                    "--extra_options",
                    *(f"{name}={value}" for name, value in sorted(extra.items())),
                ],
                what="Building the ONNX model",
                env=child_environment(),
                on_line=lambda line: advance(1) if line.startswith("Reading layer") else None,
            )
    except CommandError as error:
        raise QuantizeError(
            f"{error}; it said:\n{error.log.rstrip()}", hint=_hint(str(error), error.log)
        ) from None
    if not (target / "genai_config.json").is_file():
        raise QuantizeError(
            "the model builder ended without an error and without a model",
            hint="Try another precision in the profile.",
        )


def _hint(message: str, log: str) -> str:
    if "signal 9" in message or "MemoryError" in log:
        return "The machine ran out of memory: close other programs, or build a smaller model."
    if "No space left" in log:
        return "The disk is full: free some space, or set EDGEPACK_CACHE to a larger disk."
    return "See the model builder's lines above; `edgepack models` lists what is supported."
