"""Looks at folders that may be models, and says what is wrong with those that are none."""

import json
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from packager.errors import ModelSourceError
from packager.models.catalog import ARCHITECTURES, REFUSED

HF_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.py", "README.md")
"""The files of a Hugging Face folder that make the model; the rest is not read."""

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

SUPPORTED = (
    "Supported are a Hugging Face folder (config.json, *.safetensors, a tokenizer), a GGUF file, "
    "an ONNX GenAI folder (genai_config.json), a hub id (ORG/NAME) and the names of "
    "`edgepack models`."
)

# They exist only as Python code beside the weights.
_REMOTE_CODE = ("ChatGLMModel", "InternLM2ForCausalLM", "Phi3SmallForCausalLM")
_MAX_HEADER_BYTES = 100 << 20  # the limit of the safetensors library itself


@dataclass(frozen=True, kw_only=True)
class FolderFacts:
    """What a model folder says of itself; `parameters` is 0 where it does not."""

    architecture: str
    license: str = ""
    parameters: int = 0


def check_hf(folder: Path, *, trust_remote_code: bool) -> FolderFacts:
    """Look whether a Hugging Face folder is complete and of a supported kind.

    Raises:
        ModelSourceError: says what is missing, damaged or not supported.
    """
    config = _json(folder / "config.json")
    architecture = next(iter(config.get("architectures") or ()), "")
    check_architecture(str(architecture), folder, ARCHITECTURES)
    if architecture in _REMOTE_CODE and not trust_remote_code:
        raise ModelSourceError(
            f"{folder} ({architecture}) needs Python code that comes with the model",
            hint="Read that code; if you trust it, add --trust-remote-code.",
        )
    weights = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    announced = set(_json(index).get("weight_map", {}).values()) if index.is_file() else set()
    missing = sorted(announced - {path.name for path in weights})
    if missing:
        raise ModelSourceError(
            f"{folder} is incomplete: {', '.join(missing)} announced in {index.name} is missing",
            hint="Fetch the missing files.",
        )
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if not weights and pickled:
        raise ModelSourceError(
            f"{folder} has its weights only as {', '.join(pickled)}: pickle files, which run "
            "code when they are read",
            hint="Save the model as safetensors where you trust it: "
            "model.save_pretrained(FOLDER) in transformers.",
        )
    if not weights:
        raise ModelSourceError(
            f"{folder} has a config.json but no weights (*.safetensors); it has {listing(folder)}",
            hint="Fetch the weights too.",
        )
    _check_tokenizer(folder)
    return FolderFacts(
        architecture=str(architecture),
        license=readme_license(folder / "README.md"),
        parameters=sum(map(_safetensors_elements, weights)),
    )


def check_onnx(folder: Path) -> FolderFacts:
    """Look whether an ONNX GenAI folder is complete.

    Raises:
        ModelSourceError: says what is missing or damaged.
    """
    model = _json(folder / "genai_config.json").get("model")
    decoder = model.get("decoder") if isinstance(model, dict) else None
    name = decoder.get("filename") if isinstance(decoder, dict) else None
    if not isinstance(model, dict) or not isinstance(name, str):
        raise ModelSourceError(
            f"the genai_config.json of {folder} names no decoder graph (model.decoder.filename)",
            hint="Supported are text models as onnxruntime-genai's model builder makes them.",
        )
    if not (folder / name).is_file():
        raise ModelSourceError(
            f"{folder} is incomplete: its graph {name} is missing", hint="Fetch the missing file."
        )
    _check_tokenizer(folder)
    return FolderFacts(architecture=str(model.get("type", "")))


def check_architecture(found: str, where: Path, supported: tuple[str, ...]) -> None:
    """Refuse an architecture that is not supported.

    Raises:
        ModelSourceError: names what was found and what is supported.
    """
    if found not in supported:
        raise ModelSourceError(
            f"{where} is of the architecture {found or '(none named)'}, which is not supported"
            + (f": {REFUSED[found]}" if found in REFUSED else ""),
            hint=f"Supported architectures: {', '.join(supported)}.",
        )


def listing(folder: Path) -> str:
    """The first names in a folder, for messages."""
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "nothing") + more


def spdx(license: str) -> str:
    """A licence as SPDX writes it, if it is one of SPDX's; else as it was."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(license)) if license else ""
    except InvalidLicenseExpression:
        return license


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelSourceError(
            f"{path} cannot be read: {error}", hint="Fetch the model again."
        ) from None
    if not isinstance(value, dict):
        raise ModelSourceError(f"{path} holds no JSON object", hint="Fetch the model again.")
    return value


def _check_tokenizer(folder: Path) -> None:
    """Some file must hold the vocabulary; the rest of a tokenizer is optional."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    if not any((folder / name).is_file() for name in names):
        raise ModelSourceError(
            f"{folder} has no tokenizer (none of {', '.join(names)}); it has {listing(folder)}",
            hint="Fetch the tokenizer's files from where the model is from.",
        )


def _safetensors_elements(path: Path) -> int:
    """Number of weights in a file, which is checked to be whole.

    The format is 8 bytes with the length of the header, the
    header as JSON, then the data, without a gap.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))
        tensors = [value for key, value in header.items() if key != "__metadata__"]
        end = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
        elements = sum(int(prod(tensor["shape"])) for tensor in tensors)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ModelSourceError(
            f"{path} is no safetensors file, or damaged", hint="Fetch the file again."
        ) from None
    if end != size:
        raise ModelSourceError(
            f"{path} is damaged: {size} bytes, where its header tells of {end}",
            hint="Fetch the file again.",
        )
    return elements


def readme_license(readme: Path) -> str:
    """The licence in the front matter of a model card."""
    if not readme.is_file():
        return ""
    text = readme.read_text(encoding="utf-8", errors="replace")
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*([\w.+-]+)\s*$", head[1] if head else "", re.MULTILINE)
    return spdx(found[1]) if found and found[1] != "other" else ""
