"""Checks of model folders."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.errors import ModelSourceError
from packager.genai import weight_files
from packager.models import stored_weights, text_model
from packager.models.catalog import ARCHITECTURES, REFUSED
from packager.models.stored_weights import listing
from packager.vision.exported import PROCESSOR
from packager.vision.markers import MARKERS

HF_FILES = (
    "*.json", "*.safetensors", "*.jinja", "additional_chat_templates/*.jinja", "*.model", "*.txt",
    "*.py", "README.md", "1_Pooling/config.json", "*_Dense/config.json",
    "*_Dense/model.safetensors",
)  # fmt: skip
"""Patterns of the files of a Hugging Face folder that belong to the model; others are not read."""

SUPPORTED = (
    "Supported are a Hugging Face folder (config.json, *.safetensors, a tokenizer), a GGUF file, "
    "an ONNX GenAI folder (genai_config.json) or model package (manifest.json), a hub id "
    "(ORG/NAME) and the names of `edgepack models`."
)

# Architectures that exist only as Python code beside the weights.
_REMOTE_CODE = ("ChatGLMModel", "InternLM2ForCausalLM", "Phi3SmallForCausalLM")


@dataclass(frozen=True, kw_only=True)
class FolderFacts:
    """Facts about a model from its folder.

    Attributes:
        architecture: name of the architecture in the configuration.
        license: SPDX expression; empty if unknown.
        parameters: number of weights; 0 if unknown.
        quantization: name of the method that the weights are stored in; empty for plain weights.
    """

    architecture: str
    license: str = ""
    parameters: int = 0
    quantization: str = ""


def check_hf(folder: Path, *, trust_remote_code: bool) -> FolderFacts:
    """Check that a Hugging Face folder is complete and supported.

    Raises:
        ModelSourceError: something is missing, damaged or not supported.
    """
    architecture, method = check_config(folder, folder, trust_remote_code=trust_remote_code)
    stored_weights.check(folder, quantized=bool(method))
    check_tokenizer(folder)
    return FolderFacts(
        architecture=architecture,
        license=readme_license(folder / "README.md"),
        parameters=sum(
            tensor.elements for tensor, text in text_model.tensors(folder, architecture) if text
        ),
        quantization=method,
    )


def check_config(folder: Path, where: Path | str, *, trust_remote_code: bool) -> tuple[str, str]:
    """Check that a configuration is that of a supported model.

    Args:
        folder: folder with the config.json; the weights need not be there.
        where: name of the model for messages.
        trust_remote_code: Python code that comes with the model may run.

    Returns:
        The architecture, and the name of the method that the weights are stored in; empty for plain
        weights.

    Raises:
        ModelSourceError: the configuration is missing, damaged or not supported.
    """
    config = text_model.json_object(folder / "config.json")
    architecture = str(next(iter(config.get("architectures") or ()), ""))
    check_architecture(architecture, where, ARCHITECTURES)
    if architecture in _REMOTE_CODE and not trust_remote_code:
        raise ModelSourceError(
            f"{where} ({architecture}) requires Python code that comes with the model",
            hint="Read that code; if you trust it, add --trust-remote-code.",
        )
    original = readme_field(folder / "README.md", "base_model") or "ORG/NAME"
    return architecture, stored_weights.quantization(config, where, architecture, original)


def check_onnx(folder: Path) -> FolderFacts:
    """Check that an ONNX GenAI folder is complete.

    Raises:
        ModelSourceError: something is missing or damaged.
    """
    model = text_model.json_object(folder / "genai_config.json").get("model")
    decoder = model.get("decoder") if isinstance(model, dict) else None
    name = decoder.get("filename") if isinstance(decoder, dict) else None
    if not isinstance(model, dict) or not isinstance(name, str):
        raise ModelSourceError(
            f"the genai_config.json of {folder} lacks a decoder graph (model.decoder.filename)",
            hint="Only models from onnxruntime-genai's model builder are supported.",
        )
    for graph in weight_files.graphs(folder):
        _check_graph(folder, graph)
    if "vision" in model:
        _check_vision(folder, model)
    if not (folder / "tokenizer.json").is_file():
        raise ModelSourceError(
            f"{folder} has no tokenizer.json, which the device reads; it contains "
            f"{listing(folder)}",
            hint="Copy it from the model's publisher. transformers makes it of the other files of "
            "a tokenizer: AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained(FOLDER).",
        )
    return FolderFacts(architecture=str(model.get("type", "")))


def _check_vision(folder: Path, model: dict[str, Any]) -> None:
    """Refuse a model that sees whose type is not supported, or that lacks its image transforms."""
    if model.get("type") not in MARKERS:
        raise ModelSourceError(
            f"{folder}: models of the type {model.get('type')!r} that see are not supported",
            hint=f"Supported types: {', '.join(MARKERS)}.",
        )
    vision = model["vision"]
    name = vision.get("config_filename", PROCESSOR) if isinstance(vision, dict) else None
    path = folder / str(name)
    if not isinstance(name, str) or not _is_inside(path, folder) or not path.is_file():
        raise ModelSourceError(
            f"{folder} is incomplete: {name} with its image transforms is missing",
            hint="Download the missing file.",
        )


def _check_graph(folder: Path, graph: Path) -> None:
    """Refuse a graph that is outside its folder, or without all of its weights."""
    if not _is_inside(graph, folder):
        raise ModelSourceError(
            f"the genai_config.json of {folder} names the graph {graph.name} outside its folder",
            hint="Export the model again, with its graph in the folder.",
        )
    if not graph.is_file():
        raise ModelSourceError(
            f"{folder} is incomplete: its graph {graph.name} is missing",
            hint="Download the missing file.",
        )
    try:
        needed = weight_files.external(graph)
    except ValueError as error:
        raise ModelSourceError(
            f"{graph} is damaged or not an ONNX graph: {error}", hint="Download the file again."
        ) from None
    for name, size in needed.items():
        path = graph.parent / name
        if not name or not _is_inside(path, folder):
            raise ModelSourceError(
                f"the graph {graph.name} takes weights from {name!r}, outside its folder",
                hint="Export the model again, with its weights beside the graph.",
            )
        if not path.is_file():
            raise ModelSourceError(
                f"{folder} is incomplete: missing {name}, with weights of {graph.name}",
                hint="Download the missing file.",
            )
        if path.stat().st_size < size:
            raise ModelSourceError(
                f"{path} is truncated: {path.stat().st_size} of at least {size} bytes",
                hint="Download the file again.",
            )


def _is_inside(path: Path, folder: Path) -> bool:
    """Judge a path by its name: files of the hub's own cache are links to elsewhere."""
    return Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder))


def check_architecture(architecture: str, where: Path | str, supported: tuple[str, ...]) -> None:
    """Refuse an architecture that is not supported.

    Raises:
        ModelSourceError: the architecture is not supported; the hint lists those that are.
    """
    if architecture not in supported:
        reason = f": {REFUSED[architecture]}" if architecture in REFUSED else ""
        raise ModelSourceError(
            f"{where}: architecture {architecture or '(none named)'} is not supported{reason}",
            hint=f"Supported architectures: {', '.join(supported)}.",
        )


def hf_files(folder: Path) -> list[Path]:
    """List the files of a Hugging Face folder that belong to the model."""
    files = {path for pattern in HF_FILES for path in folder.glob(pattern) if path.is_file()}
    return sorted(files)


def spdx(license: str) -> str:
    """Normalize a licence to an SPDX expression; return it unchanged if it is not one."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(license)) if license else ""
    except InvalidLicenseExpression:
        return license


def check_tokenizer(folder: Path) -> None:
    """Check that a folder has a vocabulary; the other files of a tokenizer are optional.

    Raises:
        ModelSourceError: it has none.
    """
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    if not any((folder / name).is_file() for name in names):
        raise ModelSourceError(
            f"{folder} has no tokenizer (none of {', '.join(names)}); it contains "
            f"{listing(folder)}",
            hint="Download the tokenizer's files from the model's publisher.",
        )


def readme_license(readme: Path) -> str:
    """Read the licence of a model card as an SPDX expression; empty if it has none."""
    license = readme_field(readme, "license")
    return spdx(license) if license != "other" else ""


def readme_field(readme: Path, name: str) -> str:
    """Read a field of the front matter of a model card, or its first entry; empty without it."""
    if not readme.is_file():
        return ""
    text = readme.read_text(encoding="utf-8", errors="replace")
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    field = re.search(
        rf"^{name}:\s*(?:-\s*)?([\w.+/-]+)\s*$", head[1] if head else "", re.MULTILINE
    )
    return field[1] if field else ""
