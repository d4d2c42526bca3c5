"""Command that evaluates a finished model: `eval`."""

from pathlib import Path

import click

from packager import console
from packager.commands.options import as_json, eval_text_option, trust_option


@click.command("eval")
@click.argument("model", metavar="MODEL_OR_BUNDLE", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--reference",
    metavar="MODEL",
    help="Reference model: catalog name, hub id (ORG/NAME), Hugging Face folder or GGUF file.  "
    "[default: the bundle's source, or else the default model]",
)
@eval_text_option
@trust_option
@as_json
def evaluate(
    model: Path,
    reference: str | None,
    eval_text: Path | None,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """Measure the quality loss of a quantized model: an ONNX GenAI folder or a bundle.

    It runs on the CPU, over the same text as the reference model in fp32. The text is UTF-8, of two
    windows of 256 tokens or more; by default, the reference model generates it. Intervals have 95 %
    confidence.

    \b
    Examples:
      edgepack eval smollm2-135m-1.0.0-raspberry-pi.epk
      edgepack eval ./onnx --reference ./my-finetune --eval-text manual.txt
      edgepack eval BUNDLE.epk --json | jq .quality.kl
    """
    import msgspec

    from packager.evaluation import evaluate as evaluation
    from packager.report import tables

    result = evaluation.compare(
        evaluation.EvaluateRequest(
            model=model,
            reference=reference,
            eval_text=eval_text,
            trust_remote_code=trust_remote_code,
        )
    )
    if as_json:
        console.result_json({"model": str(model), **msgspec.to_builtins(result)})
    else:
        tables.evaluation_text(model, result)
