"""Checks of how a Hugging Face folder stores its weights: files, types, quantized ones."""

from pathlib import Path
from typing import Any

from packager.errors import ModelSourceError
from packager.models.catalog import WITH_TEXT_MODEL
from packager.weights import checkpoint, safetensors_file
from packager.weights.safetensors_file import Tensor

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

DECODED = {"fp8": "FP8", "mxfp4": "MXFP4"}
"""Methods that transformers decodes on the CPU, by their `quant_method`. It needs a package with
kernels for each of the others."""

_NAMES = {"gptq": "GPTQ", "awq": "AWQ", "hqq": "HQQ", "eetq": "EETQ", "": "an unnamed method"}
_PLAIN = ("F64", "F32", "F16", "BF16")
_DAMAGED = "Download the file again."


def quantization(
    config: dict[str, Any], where: Path | str, architecture: str, original: str
) -> str:
    """Return the name of the method that weights are quantized with; empty for plain weights.

    Args:
        config: content of config.json.
        where: name of the model for messages.
        architecture: its architecture.
        original: name of the model that it was made from, for messages.

    Raises:
        ModelSourceError: weights of this method cannot be decoded.
    """
    nested = config.get("text_config")
    settings = config.get("quantization_config")
    if settings is None and isinstance(nested, dict):
        settings = nested.get("quantization_config")
    if settings is None:
        return ""
    settings = settings if isinstance(settings, dict) else {}
    method = str(settings.get("quant_method", ""))
    if not method and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        method = "bitsandbytes"  # transformers wrote no name at first
    reason = ""
    if method in DECODED:
        if architecture not in WITH_TEXT_MODEL:
            return DECODED[method]
        reason = f" for {architecture}"
    name = DECODED.get(method) or _NAMES.get(method, method)
    raise ModelSourceError(
        f"{where} has its weights quantized with {name}, which cannot be decoded here{reason}",
        hint=f"Use the model that it was made from ({original}), or a GGUF file of it.",
    )


def check(folder: Path, *, quantized: bool) -> None:
    """Check that the files of the weights are complete and do not contradict each other.

    Args:
        folder: Hugging Face folder.
        quantized: accept tensors of types other than the plain ones.

    Raises:
        ModelSourceError: files are missing or damaged, or the weights are not plain.
    """
    try:
        files, index = checkpoint.files(folder), checkpoint.index(folder)
    except ValueError as error:
        raise ModelSourceError(
            f"{folder / checkpoint.INDEX} is damaged: {error}", hint=_DAMAGED
        ) from None
    listed = {*files, *(folder / name for name in index.values())}
    missing = sorted(path.name for path in listed if not path.is_file())
    if missing and index:
        raise ModelSourceError(
            f"{folder} is incomplete: missing {', '.join(missing)}, listed in {checkpoint.INDEX}",
            hint="Download the missing files.",
        )
    if missing:
        raise _no_weights(folder)
    headers = {path.name: _header(path) for path in files}
    _check_names(folder, headers, index if len(files) > 1 else {})
    types = {name: tensor.dtype for header in headers.values() for name, tensor in header.items()}
    odd = sorted(name for name, type in types.items() if "F" in type and type not in _PLAIN)
    if odd and not quantized:
        raise ModelSourceError(
            f"{folder} has tensors of type {types[odd[0]]} ({len(odd)}): {odd[0]}, "
            "and its config.json has no quantization_config that says how to decode them",
            hint="Download the model again, or from another publisher.",
        )


def _header(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors_file.tensors(path)
    except ValueError as error:
        raise ModelSourceError(f"{path} {error}", hint=_DAMAGED) from None


def _check_names(
    folder: Path, headers: dict[str, dict[str, Tensor]], index: dict[str, str]
) -> None:
    """Refuse an index that names absent tensors, and tensors that are in two files."""
    for name, file in index.items():
        if name not in headers[file]:
            raise ModelSourceError(
                f"{folder} is incomplete: {name}, listed in {checkpoint.INDEX}, is not in {file}",
                hint="Download the index and the files of the weights again.",
            )
    places: dict[str, str] = {}
    for file, tensors in headers.items():
        for name in tensors:
            if name in places:
                raise ModelSourceError(
                    f"{folder} has {name} twice, in {places[name]} and in {file}",
                    hint="Remove the files that do not belong to the model.",
                )
            places[name] = file


def _no_weights(folder: Path) -> ModelSourceError:
    """Say what there is instead of weights."""
    names = sorted(path.name for path in folder.iterdir())
    others = [name for name in names if name.endswith(".safetensors")]
    pickled = [name for name in names if name.endswith(PICKLED)]
    if others:
        return ModelSourceError(
            f"{folder} has its weights in {', '.join(others)}; expected {checkpoint.WHOLE}, or "
            f"{checkpoint.INDEX} with the names of the parts",
            hint=f"Rename a file that is whole to {checkpoint.WHOLE}; download the index of parts.",
        )
    if pickled:
        return ModelSourceError(
            f"{folder} has its weights only as {', '.join(pickled)}: pickle files, which execute "
            "code when loaded",
            hint="If you trust the model, convert it to safetensors: "
            "model.save_pretrained(FOLDER) in transformers.",
        )
    return ModelSourceError(
        f"{folder} has a config.json but no weights (*.safetensors); it contains {listing(folder)}",
        hint="Download the weights too.",
    )


def listing(folder: Path) -> str:
    """List the first names in a folder, for messages."""
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "nothing") + more
