"""Model sources: a catalog name, a hub id, a Hugging Face folder, a GGUF file or ONNX, also in a
package.

The kind of a source is determined from its content, never from its name; everything is checked
before any work starts.
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from packager import cache, console
from packager.errors import ModelSourceError
from packager.jobs import keys
from packager.jobs.compare_tensors import Tensors
from packager.jobs.convert_gguf import ConvertGguf
from packager.jobs.decode_weights import DecodeWeights
from packager.jobs.extract_text import ExtractText
from packager.jobs.harness import run_job
from packager.jobs.job import Job
from packager.models import (
    catalog,
    gguf,
    gguf_config,
    gguf_rope,
    hub,
    ort_package,
    packaged,
    tensors,
    text_model,
)
from packager.models.catalog import (
    CATALOG,
    FAMILIES,
    GGUF_ARCHITECTURES,
    WITH_TEXT_MODEL,
    CatalogModel,
)
from packager.models.folder import (
    SUPPORTED,
    FolderFacts,
    check_architecture,
    check_hf,
    check_onnx,
    hf_files,
    spdx,
)
from packager.models.hub import HubId
from packager.models.stored_weights import listing
from packager.suggest import suggest
from packager.units import megabytes
from packager.weights import checkpoint

DECODED_FROM = " (decoded from "
"""Beginning of what follows the origin of a model whose weights are decoded."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A source model that was found and checked.

    Attributes:
        kind: `hf` (Hugging Face folder), `gguf` (a file) or `onnx` (ONNX GenAI folder).
        name: name from the user or the catalog, without folders of the host.
        origin: origin of the model, without folders of the host.
        path: folder or file of the model.
        digest: sha256 over the model's files.
        architecture: name of the architecture in the source.
        license: SPDX expression; empty if unknown.
        parameters: number of weights; 0 if unknown.
        quantization: name of the method that the weights of a Hugging Face folder are stored in,
            which are decoded first; empty for plain weights.
        chat_template: template to use instead of the model's own; empty for its own.
    """

    kind: Literal["hf", "gguf", "onnx"]
    name: str
    origin: str
    path: Path
    digest: str
    architecture: str
    license: str
    parameters: int
    quantization: str = ""
    chat_template: str = ""


def resolve(model: str, *, trust_remote_code: bool = False, provider: str = "cpu") -> ModelSource:
    """Find a model, fetching it if necessary, and check it.

    Args:
        model: catalog name, path, or hub id: `ORG/NAME`, for a GGUF file `ORG/NAME:TAG` or
            `ORG/NAME/FILE.gguf`, optionally with `@REVISION` at the end.
        trust_remote_code: fetch and accept Python code that comes with the model.
        provider: execution provider, as the model builder names it, to choose a package's variant.

    Raises:
        ModelSourceError: the model was not found or is not supported.
    """
    entry = CATALOG.get(model)
    if entry is not None and entry.packaged is not None:
        return _packaged_source(entry, packaged.fetch(entry.packaged, entry.name))
    path = Path(model).expanduser()
    if entry is None and path.exists():
        return _from_path(path.resolve(), trust_remote_code, provider)
    wanted = hub.parse(entry.hub if entry is not None else model)
    if wanted is not None:
        return _from_hub(wanted, trust_remote_code)
    hint = SUPPORTED if "/" in model else f"{suggest(model, CATALOG)} {SUPPORTED}"
    raise ModelSourceError(
        f"no such model: {model!r} is neither a known name nor a path", hint=hint
    )


def find_cached(model: CatalogModel) -> ModelSource | None:
    """Return a packaged model of the catalog if it is in the cache, else None; fetch nothing."""
    path = packaged.cached(model.packaged) if model.packaged is not None else None
    return _packaged_source(model, path) if path is not None else None


def check_original(source: ModelSource) -> None:
    """Refuse a model that was given as ONNX where the original weights are needed.

    Raises:
        ModelSourceError: the model is ONNX.
    """
    if source.kind == "onnx":
        raise ModelSourceError(
            f"{source.name} is ONNX: its original weights are not available",
            hint="Pass the Hugging Face model that it was built from.",
        )


def check_weights(source: ModelSource, *, trust_remote_code: bool = False) -> None:
    """Check that a Hugging Face folder has all tensors; where it must be converted, a conversion
    checks that.

    Raises:
        ModelSourceError: tensors are missing.
    """
    if source.kind == "hf" and not must_convert(source):
        _checked(source, trust_remote_code)


def must_convert(source: ModelSource) -> bool:
    """Return whether the folder of `as_hf_folder` is a converted one, in the cache."""
    with_more = source.architecture in WITH_TEXT_MODEL
    return source.kind == "gguf" or with_more or bool(source.quantization)


def hf_folder(source: ModelSource, *, trust_remote_code: bool = False) -> Path:
    """Return the folder of `as_hf_folder`, which need not exist yet if it is converted.

    Raises:
        ModelSourceError: the source is ONNX, or tensors are missing.
    """
    check_original(source)
    if must_convert(source):
        folder = cache.place("hf", _conversion(source, trust_remote_code)[1])
    else:
        folder = _checked(source, trust_remote_code)
    return cache.place("hf", _with_template(source, folder)) if source.chat_template else folder


def as_hf_folder(source: ModelSource, *, trust_remote_code: bool = False) -> Path:
    """Return the source as the Hugging Face folder of a text model (cached).

    That is the source's own folder, the same with a corrected configuration, or a folder converted
    from a GGUF file, decoded from quantized weights or taken from a model that also sees.

    Raises:
        ModelSourceError: the source cannot be converted.
    """
    check_original(source)
    if must_convert(source):
        folder = _converted(source, trust_remote_code=trust_remote_code)
    else:
        folder = _checked(source, trust_remote_code)
    if not source.chat_template:
        return folder

    def link(target: Path) -> None:
        for path in hf_files(folder):
            if path.suffix != ".jinja":
                checkpoint.link(path, folder, target)
        (target / "chat_template.jinja").write_text(
            source.chat_template, encoding="utf-8", newline="\n"
        )

    return cache.stage("hf", _with_template(source, folder), link)


def _checked(source: ModelSource, trust_remote_code: bool) -> Path:
    """Check that all tensors are there; return the folder, with a corrected configuration."""
    return tensors.checked(source.path, source.name, source.digest, trust_remote_code)


def _with_template(source: ModelSource, folder: Path) -> dict[str, Any]:
    """Return the inputs of the folder of a model with another chat template."""
    return {"folder": str(folder), "digest": source.digest}


def _converted(source: ModelSource, *, trust_remote_code: bool) -> Path:
    """Convert a GGUF file, or take the text model out of another (cached)."""
    job, inputs = _conversion(source, trust_remote_code)

    def make(folder: Path) -> None:
        if source.architecture in WITH_TEXT_MODEL and source.architecture not in FAMILIES:
            say_what_is_left_out(source)
        with console.step(f"Converting {source.name}"):
            compared = run_job(
                job,
                folder,
                what=f"Converting {source.name}",
                error=ModelSourceError,
                hint="Use the Hugging Face folder of the original, or a GGUF file of another kind.",
            )
        tensors.refuse_gaps(compared, str(source.path))
        tensors.warn_unexpected(compared, source.name)
        if compared.untied:
            tensors.warn_untied(source.name)
            tensors.untie(folder / "config.json")

    folder = cache.stage("hf", inputs, make)
    check_hf(folder, trust_remote_code=trust_remote_code)
    return folder


@functools.cache
def _conversion(
    source: ModelSource, trust_remote_code: bool
) -> tuple[Job[Tensors], dict[str, Any]]:
    """Make the job that converts a source, and the inputs of its stage."""
    job: Job[Tensors]
    if source.kind == "gguf":
        header = gguf.read(source.path)
        job = ConvertGguf(
            file=source.path,
            architecture=header.architecture,
            tensors=tuple(sorted(header.tensors)),
            rotary=gguf_rope.scaling(header),
            fields=gguf_config.fields(header),
            vocabulary=str(header.metadata.get("tokenizer.ggml.model", "")),
            cut=str(header.metadata.get("tokenizer.ggml.pre", "")),
        )
    elif source.quantization:
        others = (p for p in hf_files(source.path) if not p.name.endswith(checkpoint.ENDINGS))
        job = DecodeWeights(
            source=source.path, copied=tuple(others), trust_remote_code=trust_remote_code
        )
    else:
        job = ExtractText(source=source.path, copied=text_model.unchanged(hf_files(source.path)))
    return job, keys.inputs(job, content={source.path: source.digest})


def say_what_is_left_out(source: ModelSource) -> None:
    """Tell that only the text model of a model that also sees or hears is built."""
    rest = [
        tensor for tensor, text in text_model.tensors(source.path, source.architecture) if not text
    ]
    console.note(
        f"only the text model of {source.name} is built: {len(rest)} tensors "
        f"({megabytes(sum(tensor.size for tensor in rest))}) for images or sound are left out"
    )


def _packaged_source(model: CatalogModel, path: Path) -> ModelSource:
    assert model.packaged is not None
    return ModelSource(
        kind="gguf",
        name=model.name,
        origin=f"PyPI: {model.packaged.package}",
        path=path,
        digest=model.packaged.sha256,
        architecture=model.architecture,
        license=model.license,
        parameters=model.parameters,
    )


def _from_hub(wanted: HubId, trust_remote_code: bool) -> ModelSource:
    path, place = hub.fetch(wanted, trust_remote_code=trust_remote_code)
    origin = f"hub: {place}"
    if path.is_file():
        return replace(_from_file(path), origin=origin)
    facts = check_hf(path, trust_remote_code=trust_remote_code)
    known = catalog.of_hub(wanted.repository)
    license = known.license if known is not None else facts.license
    return _hf_source(path, wanted.repository, origin, replace(facts, license=license))


def _from_path(path: Path, trust_remote_code: bool, provider: str) -> ModelSource:
    if path.is_file():
        return _from_file(path)
    if (path / "genai_config.json").is_file():
        return _onnx_source(path, path.name, f"folder: {path.name}")
    if (path / "config.json").is_file():
        facts = check_hf(path, trust_remote_code=trust_remote_code)
        return _hf_source(path, path.name, f"folder: {path.name}", facts)
    if ort_package.is_package(path):
        folder = ort_package.as_folder(path, provider)
        return _onnx_source(folder, path.stem, f"package: {path.name}")
    raise ModelSourceError(
        f"{path} is not a model: it has neither config.json nor genai_config.json, but "
        f"{listing(path)}",
        hint=SUPPORTED,
    )


def _from_file(path: Path) -> ModelSource:
    if not gguf.is_gguf(path):
        raise ModelSourceError(f"{path} is not a GGUF file", hint=SUPPORTED)
    header = gguf.read(path)
    check_architecture(header.architecture, path, tuple(GGUF_ARCHITECTURES))
    if header.metadata.get("split.count", 1) > 1:
        raise ModelSourceError(
            f"{path} is one of {header.metadata['split.count']} parts",
            hint="Join the parts first: llama-gguf-split --merge FIRST-PART WHOLE.gguf",
        )
    if "tokenizer.ggml.tokens" not in header.metadata:
        raise ModelSourceError(f"{path} has no tokenizer", hint="Use a GGUF file with a tokenizer.")
    if not header.tensors:
        raise ModelSourceError(
            f"{path} has a vocabulary and no weights", hint="Use a GGUF file with weights."
        )
    # These refuse what is not supported.
    gguf_rope.scaling(header)
    gguf_config.fields(header)
    return ModelSource(
        kind="gguf",
        name=path.stem,
        origin=f"file: {path.name}",
        path=path,
        digest=cache.file_digest(path),
        architecture=GGUF_ARCHITECTURES[header.architecture],
        license=spdx(str(header.metadata.get("general.license", ""))),
        parameters=header.parameters,
    )


def _onnx_source(folder: Path, name: str, origin: str) -> ModelSource:
    facts = check_onnx(folder)
    files = [file for file in folder.rglob("*") if file.is_file()]
    return _folder_source("onnx", folder, name, origin, facts, files)


def _hf_source(folder: Path, name: str, origin: str, facts: FolderFacts) -> ModelSource:
    return _folder_source("hf", folder, name, origin, facts, hf_files(folder))


def _folder_source(
    kind: Literal["hf", "onnx"],
    folder: Path,
    name: str,
    origin: str,
    facts: FolderFacts,
    files: list[Path],
) -> ModelSource:
    digests = {str(path.relative_to(folder)): cache.file_digest(path) for path in files}
    if facts.quantization:
        console.warn(
            f"{name} is quantized ({facts.quantization}): its weights are decoded to bf16, and "
            "what they lost before stays lost"
        )
        origin += f"{DECODED_FROM}{facts.quantization})"
    return ModelSource(
        kind=kind,
        name=name,
        origin=origin,
        path=folder,
        digest=cache.key(digests),
        architecture=facts.architecture,
        license=facts.license,
        parameters=facts.parameters,
        quantization=facts.quantization,
    )
