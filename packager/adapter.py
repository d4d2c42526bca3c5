"""Fine-tunes: a LoRA adapter (PEFT) merged into the model that it was trained on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from packager import cache, console, plan
from packager.errors import ModelSourceError
from packager.jobs import keys
from packager.jobs.harness import run_job
from packager.jobs.merge_adapter import MergeAdapter
from packager.models.folder import HF_FILES, PICKLED, check_hf, listing, readme_license
from packager.models.source import ModelSource, as_hf_folder

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_TOKENIZER = (
    *("tokenizer*.json", "tokenizer.model", "vocab.*", "merges.txt", "added_tokens.json"),
    *("special_tokens_map.json", "chat_template.*"),
)


def merge(source: ModelSource, folder: Path, *, trust_remote_code: bool = False) -> ModelSource:
    """The model with the adapter's weights added to its own (cached).

    The work is done in fp32, by a child process; the result is compared with the model and the
    adapter side by side before it is taken.

    Args:
        source: the model that the adapter was trained on.
        folder: a PEFT adapter: adapter_config.json and adapter_model.safetensors.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ModelSourceError: the folder holds no LoRA adapter, or one for another model.
        ResourceError: memory or disk space ran out.
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
        plan.check(plan.converting(plan.shape(source)), "merging the adapter")
        run_job(
            job,
            target,
            what=f"Merging the adapter {folder.name}",
            error=ModelSourceError,
            hint=f"Give the model it was trained on ({trained_on}) with --model.",
        )

    merged = cache.stage("merged", inputs, make)
    check_hf(merged, trust_remote_code=trust_remote_code)
    own = readme_license(folder / "README.md")
    licenses = [name for name in (source.license, own) if name]
    return replace(
        source,
        kind="hf",
        name=f"{source.name}+{folder.name}",
        origin=f"{source.origin} + adapter: {folder.name}",
        path=merged,
        digest=cache.key(inputs),
        license=" AND ".join(dict.fromkeys(licenses)),
    )


def check(folder: Path) -> dict[str, Any]:
    """Look whether a folder holds a LoRA adapter; its configuration.

    Raises:
        ModelSourceError: says what is missing or not supported.
    """
    hint = f"An adapter is a folder with {CONFIG} and {WEIGHTS}, as PEFT saves it."
    if not folder.is_dir():
        raise ModelSourceError(f"there is no adapter folder {folder}", hint=hint)
    if not (folder / CONFIG).is_file():
        raise ModelSourceError(f"{folder} is no adapter; it has {listing(folder)}", hint=hint)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config["peft_type"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelSourceError(
            f"{folder / CONFIG} cannot be read: {type(error).__name__}: {error}", hint=hint
        ) from None
    if kind != "LORA":
        raise ModelSourceError(
            f"{folder} is an adapter of the kind {kind}",
            hint="Supported is LoRA, with its variants of that kind such as DoRA and rsLoRA. "
            "Others: merge them with PEFT and give the merged model with --model.",
        )
    if not (folder / WEIGHTS).is_file():
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        why = f"only {', '.join(pickled)}, which runs code when it is read" if pickled else "none"
        raise ModelSourceError(f"{folder} has no weights as {WEIGHTS}: {why}", hint=hint)
    return dict(config)


def digest(folder: Path) -> str:
    """Digest of all files of an adapter that shape the merged model."""
    paths = [folder / CONFIG, folder / WEIGHTS, *tokenizer_files(folder)]
    return cache.key({path.name: cache.file_digest(path) for path in paths})


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that make the tokenizer: a training run leaves its own, if any."""
    return sorted({path for pattern in _TOKENIZER for path in folder.glob(pattern)})


def _beside_weights(base: Path, adapter: Path) -> tuple[Path, ...]:
    """Tokenizer, chat template and model card; a tokenizer beside the adapter is taken whole."""
    own = tokenizer_files(adapter)
    replaced = tokenizer_files(base) if own else []
    rest = [path for pattern in HF_FILES for path in base.glob(pattern) if path not in replaced]
    weights = (".safetensors", ".safetensors.index.json")
    return tuple(
        path
        for path in (*own, *sorted(set(rest)))
        if path.is_file() and not path.name.endswith(weights)
    )
