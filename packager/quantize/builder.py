"""Run onnxruntime-genai's model builder."""

from collections.abc import Mapping
from pathlib import Path

from packager import console
from packager.errors import QuantizeError
from packager.jobs.build_onnx import BuildOnnx, Weights
from packager.jobs.harness import run_job
from packager.models.text_model import text_config

HINT = "Try another recipe; `edgepack models` lists what is supported."


def job(
    source: Path,
    *,
    precision: str,
    execution_provider: str,
    options: Mapping[str, str],
    trust_remote_code: bool,
    weights: Weights | None = None,
    positions: int | None = None,
) -> BuildOnnx:
    """Make the job that builds a Hugging Face folder.

    Args:
        source: Hugging Face folder.
        precision: `int4`, `int8`, `fp16` or `fp32`.
        execution_provider: as the builder names it (`cpu`, `cuda`).
        options: the builder's extra options.
        trust_remote_code: run Python code that comes with the model.
        weights: settings of the quantization pass; None leaves quantization to the builder.
        positions: longest prompt and answer, tokens; None for the model's own limit.
    """
    extra = {
        # Without this, the builder requires a hub token even for local folders.
        "hf_token": "false",
        "hf_remote": str(trust_remote_code).lower(),
        "prune_lm_head": "true",
        **options,
    }
    return BuildOnnx(
        source=source,
        precision=precision,
        execution_provider=execution_provider,
        options=extra,
        weights=weights,
        positions=positions,
    )


def build(job: BuildOnnx, target: Path) -> None:
    """Build an ONNX GenAI folder.

    Args:
        job: the build to run.
        target: empty folder for the model.

    Raises:
        QuantizeError: the builder failed.
        ResourceError: memory or disk space ran out.
    """
    layers = text_config(job.source).get("num_hidden_layers", 0)
    passes = 2 if job.weights is not None else 1
    with console.progress("Building", passes * layers, "layers") as advance:
        run_job(
            job,
            target,
            what="Building the ONNX model",
            error=QuantizeError,
            hint=HINT,
            advance=advance,
        )
    if not (target / "genai_config.json").is_file():
        raise QuantizeError("the model builder reported success but wrote no model", hint=HINT)
