"""LoRA adapters (PEFT): merged into the model that they were trained on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from packager import cache, console, plan
from packager.errors import ModelSourceError
from packager.jobs import keys
from packager.jobs.harness import run_job
from packager.jobs.merge_adapter import MergeAdapter
from packager.models import shape
from packager.models.folder import check_hf, hf_files, readme_license
from packager.models.source import ModelSource, as_hf_folder
from packager.models.stored_weights import PICKLED, listing
from packager.weights import checkpoint, safetensors_file

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_TOKENIZER = (
    "tokenizer*.json", "tokenizer.model", "vocab.*", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "chat_template.*",
)  # fmt: skip


def merge(source: ModelSource, folder: Path, *, trust_remote_code: bool = False) -> ModelSource:
    """Merge an adapter into a model (cached).

    A child process merges in fp32, and compares the merged model with the base model plus adapter
    before the result is accepted.

    Args:
        source: the base model that the adapter was trained on.
        folder: folder of a PEFT adapter: adapter_config.json and adapter_model.safetensors.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ModelSourceError: the folder is not a LoRA adapter, or one for another model.
        ResourceError: too little memory or disk space.
    """
    folder = folder.expanduser().resolve()
    config = check(folder)
    trained_on = str(config.get("base_model_name_or_path") or "an unnamed model")
    console.note(f"trained on {trained_on}")
    base = as_hf_folder(source, trust_remote_code=trust_remote_code)
    job = MergeAdapter(
        base=base,
        adapter=folder,
        copied=_beside_weights(base, folder),
        trust_remote_code=trust_remote_code,
    )
    inputs = keys.inputs(job, content={source.path: source.digest, folder: digest(folder)})

    def make(target: Path) -> None:
        plan.check(plan.converting(shape.shape(source)), "merging the adapter")
        run_job(
            job,
            target,
            what=f"Merging the adapter {folder.name}",
            error=ModelSourceError,
            hint=f"Pass the model it was trained on ({trained_on}) with --model.",
        )

    merged = cache.stage("merged", inputs, make)
    facts = check_hf(merged, trust_remote_code=trust_remote_code)
    own = readme_license(folder / "README.md")
    licenses = [name for name in (source.license, own) if name]
    return replace(
        source,
        kind="hf",
        name=f"{source.name}+{folder.name}",
        origin=f"{source.origin} + adapter: {folder.name}",
        path=merged,
        digest=cache.key(inputs),
        architecture=facts.architecture,
        quantization="",
        license=" AND ".join(dict.fromkeys(licenses)),
    )


def check(folder: Path) -> dict[str, Any]:
    """Check that a folder is a LoRA adapter; return its configuration.

    Raises:
        ModelSourceError: files are missing, or the adapter is not supported.
    """
    hint = f"An adapter is a folder with {CONFIG} and {WEIGHTS}, as PEFT saves it."
    if not folder.is_dir():
        raise ModelSourceError(f"the adapter folder {folder} does not exist", hint=hint)
    if not (folder / CONFIG).is_file():
        raise ModelSourceError(f"{folder} is not an adapter; it has {listing(folder)}", hint=hint)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config["peft_type"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelSourceError(
            f"{folder / CONFIG} cannot be read: {type(error).__name__}: {error}", hint=hint
        ) from None
    if kind != "LORA":
        raise ModelSourceError(
            f"{folder}: adapter type {kind} is not supported",
            hint="LoRA is supported, including variants such as DoRA and rsLoRA. Merge adapters "
            "of other types with PEFT and pass the merged model with --model.",
        )
    if not (folder / WEIGHTS).is_file():
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        only = f"; only {', '.join(pickled)}, which can run code when loaded" if pickled else ""
        raise ModelSourceError(f"{folder} has no {WEIGHTS}{only}", hint=hint)
    try:
        safetensors_file.tensors(folder / WEIGHTS)
    except ValueError as error:
        raise ModelSourceError(f"{folder / WEIGHTS} {error}", hint="Copy it again.") from None
    return dict(config)


def digest(folder: Path) -> str:
    """Compute the digest of all adapter files that affect the merged model."""
    paths = [folder / CONFIG, folder / WEIGHTS, *tokenizer_files(folder)]
    return cache.key({path.name: cache.file_digest(path) for path in paths})


def tokenizer_files(folder: Path) -> list[Path]:
    """List a folder's tokenizer files; a training run may have left its own."""
    return sorted({path for pattern in _TOKENIZER for path in folder.glob(pattern)})


def _beside_weights(base: Path, adapter: Path) -> tuple[Path, ...]:
    """Tokenizer, chat template and model card; a tokenizer beside the adapter is taken whole."""
    own = tokenizer_files(adapter)
    replaced = tokenizer_files(base) if own else []
    rest = [path for path in hf_files(base) if path not in replaced]
    return tuple(path for path in (*own, *rest) if not path.name.endswith(checkpoint.ENDINGS))
