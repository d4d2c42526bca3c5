"""Export of a bundle's model for other programs: as a model package of ONNX Runtime.

A bundle has one set of weights and up to two graphs. Each graph becomes a variant; tokenizer and
weights become shared assets, which all variants refer to.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_runtime.bundle.manifest import EMBEDDING_FOLDER, MODEL_FOLDER, SPEECH_FOLDER
from device_runtime.processor import HALF_GRAPH
from packager import console, launch, plan
from packager.aside import check_writable
from packager.errors import ModelSourceError, PackagerError, QuantizeError, ResourceError
from packager.genai import weight_files
from packager.genai.folder import component
from packager.jobs.check_package import CheckedPackage, CheckPackage
from packager.jobs.harness import run_job
from packager.models import ort_package
from packager.models.folder import check_onnx
from packager.models.ort_package import ASSETS, CONFIG, MANIFEST, SCHEME, WEIGHTS_FOLDER
from packager.models.source import resolve
from packager.recipes.providers import ORT_NAMES, WEBGPU

COMPONENT = "model"
"""Name of the component, by the convention of ONNX Runtime GenAI."""

_BESIDE = tuple(
    f"{folder.removeprefix(f'{MODEL_FOLDER}/')}/" for folder in (EMBEDDING_FOLDER, SPEECH_FOLDER)
)


@dataclass(frozen=True, kw_only=True)
class ExportedPackage:
    """A model package that was written.

    Attributes:
        path: its folder.
        variants: execution provider of each variant, as ONNX Runtime names it, by name.
        bytes: size of its files.
        checked: how it was checked; None if this machine cannot run any of its variants.
    """

    path: Path
    variants: dict[str, str]
    bytes: int
    checked: CheckedPackage | None


@dataclass(frozen=True, kw_only=True)
class _Written:
    """Variants as in `ExportedPackage`, and references to shared assets; none for no weights."""

    variants: dict[str, str]
    tokenizer: str
    weights: str | None


def ort_package_of(model: Path, output: Path) -> ExportedPackage:
    """Write the model of a bundle or of an ONNX GenAI folder as a model package, and check it.

    Args:
        model: the bundle or the folder.
        output: folder of the package; must not exist.

    Raises:
        BundleError: the bundle is damaged.
        ModelSourceError: the folder is not a built model, or its graphs cannot be packaged.
        PackagerError: the output exists.
        QuantizeError: the package does not load, or continues a prompt otherwise than the model.
        ResourceError: the output cannot be written, or its disk is full.
    """
    option = "--ort-package OUT.ortpackage"
    hint = f"Choose another location with {option}."
    if os.path.lexists(output):
        raise PackagerError(f"{output} exists", hint=hint)
    check_writable(output, hint)
    folder, name = _model(model)
    listed = _files(folder)
    plan.check_output(sum(path.stat().st_size for path in listed.values()), output, option)
    with console.step(f"Writing {output}"), _folder_aside(output.absolute(), hint) as aside:
        written = _write(folder, listed, aside, name)
        checked = _check(folder, aside, written)
        size = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file())
    return ExportedPackage(path=output, variants=written.variants, bytes=size, checked=checked)


def _model(model: Path) -> tuple[Path, str]:
    """Return the ONNX GenAI folder of a bundle or folder, and the model's name."""
    if not model.is_dir():
        release = launch.release_of(model)
        check_onnx(release.model_folder)
        return release.model_folder, release.manifest.model.name
    source = resolve(str(model))
    if source.kind != "onnx":
        raise ModelSourceError(
            f"{model} is a source model; expected a built one",
            hint="Pass a bundle or an ONNX GenAI folder; `edgepack build` creates a bundle.",
        )
    return source.path, source.name


def _files(folder: Path) -> dict[str, Path]:
    """List the files of a model by name, without those of other models beside it."""
    paths = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    return {name: path for name, path in paths.items() if not name.startswith(_BESIDE)}


@contextmanager
def _folder_aside(path: Path, hint: str) -> Iterator[Path]:
    """Make a folder that takes its name when the block ends without an error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            yield aside
            aside.chmod(0o755)
            aside.rename(path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror or error}", hint=hint) from None


def _write(folder: Path, listed: Mapping[str, Path], target: Path, name: str) -> _Written:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    main, half = _graphs(folder, config)
    weights = _external(folder, [*main, *half])
    tokenizer = {key: path for key, path in listed.items() if component(key) == "tokenizer"}
    names = {path.relative_to(folder).as_posix() for path in (*main, *half, *weights.values())}
    rest = {
        key: path
        for key, path in listed.items()
        if key not in tokenizer and key not in names and key != CONFIG
    }
    shared = _asset(target, weights) if weights else None
    options = {WEIGHTS_FOLDER: shared} if shared else {}
    config["model"]["tokenizer_dir"] = _asset(target, tokenizer)
    config["model"]["decoder"].setdefault("session_options", {})
    for section in _sections(config):
        # Without options of its own, a graph has those of the decoder.
        if "session_options" in section:
            section["session_options"].update(options)
    provider = _provider(folder, config)
    graphs = {provider: main, **({WEBGPU: half} if half else {})}
    variants: dict[str, Any] = {}
    for provider, paths in graphs.items():
        decoder = config["model"]["decoder"]
        if paths is half:
            decoder["filename"] = HALF_GRAPH
            decoder["session_options"]["provider_options"] = [{WEBGPU: {}}]
        own = {path.relative_to(folder).as_posix(): path for path in paths}
        variant = provider.lower()
        _copy({**own, **rest}, target / variant)
        _json(target / variant / CONFIG, config)
        variants[variant] = {
            "ep": ORT_NAMES[provider],
            "executor_info": {
                "ort": {"model_file": decoder["filename"], "session_options": options}
            },
        }
    manifest = {
        "schema_version": "1.0",
        "package_name": name,
        "components": {COMPONENT: {"variants": variants}},
    }
    _json(target / MANIFEST, manifest)
    return _Written(
        variants={variant: body["ep"] for variant, body in variants.items()},
        tokenizer=config["model"]["tokenizer_dir"],
        weights=shared,
    )


def _graphs(folder: Path, config: dict[str, Any]) -> tuple[list[Path], list[Path]]:
    """List the graphs of the configuration, and the one in half precision if there is one."""
    graphs = weight_files.graphs(folder)
    half = [path for path in graphs if path.name == HALF_GRAPH]
    main = [path for path in graphs if path not in half]
    if {section["filename"] for section in _sections(config)} != {
        path.relative_to(folder).as_posix() for path in main
    }:
        raise ModelSourceError(
            f"the model in {folder} is a pipeline of graphs, which is not packaged",
            hint="Build it with edgepack, which makes one decoder.",
        )
    return main, half


def _sections(config: dict[str, Any]) -> list[dict[str, Any]]:
    """List the sections of a genai_config.json that name a graph."""
    sections = config["model"].values()
    return [part for part in sections if isinstance(part, dict) and "filename" in part]


def _external(folder: Path, graphs: list[Path]) -> dict[str, Path]:
    """Find the external weights of graphs by their names in the graphs."""
    weights: dict[str, Path] = {}
    for graph in graphs:
        for name in weight_files.external(graph):
            path = graph.parent / name
            if weights.setdefault(name, path) != path:
                raise ModelSourceError(
                    f"the model in {folder} has several files of weights with the name {name}",
                    hint="Export the model again, with all graphs in one folder.",
                )
    return weights


def _provider(folder: Path, config: dict[str, Any]) -> str:
    """Return the execution provider of a configuration, as the model builder names it."""
    listed = config["model"]["decoder"]["session_options"].get("provider_options") or [{"cpu": {}}]
    name = next(iter(listed[0]))
    for provider in ORT_NAMES:
        if provider.lower() == name.lower():
            return provider
    raise ModelSourceError(
        f"the model in {folder} is for the execution provider {name}, which is not supported",
        hint=f"Supported are {', '.join(ORT_NAMES)}.",
    )


def _asset(target: Path, files: Mapping[str, Path]) -> str:
    """Write a shared asset; return the reference to it."""
    aside = target / ASSETS / "aside"
    _copy(files, aside)
    digest = ort_package.digest(aside)
    aside.rename(aside.with_name(f"sha256-{digest}"))
    return f"{SCHEME}{digest}"


def _copy(files: Mapping[str, Path], target: Path) -> None:
    for name, path in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)


def _json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8", newline="\n")


def _check(folder: Path, package: Path, written: _Written) -> CheckedPackage | None:
    """Check all variants as a source of models, and the CPU's with ONNX Runtime."""
    checked = None
    for variant in ort_package.read(package):
        with tempfile.TemporaryDirectory(prefix=package.name, dir=package.parent) as scratch:
            laid_out = Path(scratch)
            ort_package.lay_out(variant, ort_package.files(package, [variant]), laid_out)
            check_onnx(laid_out)
            if variant.provider != ORT_NAMES["cpu"]:
                continue
            job = CheckPackage(
                model=folder.resolve(),
                component=COMPONENT,
                variant=variant.folder,
                references=tuple(filter(None, (written.tokenizer, written.weights))),
                folder=laid_out,
                compare=not {"vision", "speech"} & set(variant.config["model"]),
            )
            checked = run_job(
                job,
                package,
                what="Checking the package",
                error=QuantizeError,
                hint="Nothing was written. Build the model again; if that does not help, report "
                "it.",
            )
    return checked
