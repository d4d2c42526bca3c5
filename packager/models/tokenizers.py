"""Checks of tokenizers and chat templates, before anything is built."""

import json
from pathlib import Path

import msgspec

from device_runtime.bundle.quantization import TokenizerComparison
from device_runtime.errors import EngineError
from device_runtime.tokenizer.files import chat_templates
from device_runtime.tokenizer.tokenizer import Tokenizer
from packager import cache, console
from packager.errors import ModelSourceError
from packager.genai import tokenizer_files
from packager.jobs import gguf_tokenizer, keys
from packager.jobs.compare_tokenizers import ComparedTokenizers, CompareTokenizers
from packager.jobs.harness import run_job
from packager.models import gguf
from packager.models.source import ModelSource, as_hf_folder

_HINT = "Use the tokenizer that belongs to the model."


def check(source: ModelSource, *, trust_remote_code: bool = False) -> TokenizerComparison | None:
    """Check a model's tokenizer; warn about what its users must know.

    Returns:
        The comparison with transformers; None for an ONNX model, whose tokenizer is used as it is.

    Raises:
        ModelSourceError: the tokenizer cannot be used with this model.
    """
    compared = None
    if source.kind == "onnx":
        folder = source.path
        rows = json.loads((folder / "genai_config.json").read_text())["model"].get("vocab_size")
        try:
            tokenizer = Tokenizer(folder)
        except EngineError as error:
            raise ModelSourceError(str(error), hint="Download the file again.") from None
        if rows and (needed := tokenizer_files.needed_unknown(tokenizer, folder, rows)):
            raise ModelSourceError(
                f"{source.name} needs the tokens {', '.join(needed)}, and its embedding has no "
                f"rows for them (it has {rows})",
                hint=_HINT,
            )
    else:
        folder = as_hf_folder(source, trust_remote_code=trust_remote_code)
        if source.kind == "gguf":
            _warn_of_unknown_cut(source)
        compared = _compared(source, folder, trust_remote_code=trust_remote_code)
        _warn(compared)
    if not chat_templates(folder):
        console.warn(
            f"{source.name} has no chat template: it can continue texts (/v1/completions), and "
            "refuses conversations. If it was trained for them, add --chat-template FILE."
        )
    return compared.counts if compared is not None else None


def describe(counts: TokenizerComparison) -> str:
    """Say in one line what the comparison with transformers found."""
    left_out = counts.tokens_left_out
    more = f"; {left_out} tokens that the model does not know are plain text" if left_out else ""
    equal = (
        f"reads {counts.texts} odd texts and {counts.conversations} conversations as transformers "
        "does"
    )
    return (_differences(counts) or equal) + more


def _compared(source: ModelSource, folder: Path, *, trust_remote_code: bool) -> ComparedTokenizers:
    """Compare the tokenizers on the fixed corpus (cached)."""
    job = CompareTokenizers(folder=folder, trust_remote_code=trust_remote_code)
    inputs = keys.inputs(job, content={source.path: source.digest})
    name = "compared.json"

    def make(target: Path) -> None:
        with console.step("Comparing the tokenizer with that of transformers"):
            compared = run_job(
                job,
                what=f"Loading the tokenizer of {source.name}",
                error=ModelSourceError,
                hint="The log shows what transformers cannot load.",
            )
        (target / name).write_bytes(msgspec.json.encode(compared))

    stage = cache.stage("tokenizer", inputs, make)
    return msgspec.json.decode((stage / name).read_bytes(), type=ComparedTokenizers)


def _warn_of_unknown_cut(source: ModelSource) -> None:
    metadata = gguf.read(source.path).metadata
    kind, cut = (str(metadata.get(f"tokenizer.ggml.{name}", "")) for name in ("model", "pre"))
    if not gguf_tokenizer.is_known(kind, cut):
        console.warn(
            f"{source.path.name} cuts texts in a way that is not known here ({cut or 'unnamed'}): "
            "some texts become other tokens than in training. Prefer the model's own folder."
        )


def _differences(counts: TokenizerComparison) -> str:
    """Say what differs; empty if nothing does."""
    if counts.texts_differing == counts.conversations_differing == 0:
        return ""
    return (
        f"reads {counts.texts_differing} of {counts.texts} odd texts and "
        f"{counts.conversations_differing} of {counts.conversations} conversations otherwise than "
        "transformers"
    )


def _warn(compared: ComparedTokenizers) -> None:
    if differences := _differences(compared.counts):
        console.warn(f"the device {differences}, for example {compared.example[:60]!r}")
    if left_out := compared.left_out:
        console.warn(
            f"the tokenizer has {len(left_out)} tokens that the model does not know "
            f"({', '.join(left_out[:3])}{', ...' if len(left_out) > 3 else ''}); "
            "the device reads them as plain text"
        )
