"""Model packages of ONNX Runtime (`.ortpackage`): several variants of a model in a folder.

A package has a manifest.json, a folder for each variant with a genai_config.json, and shared
assets: folders named by the digest of their content. The format is that of ONNX Runtime
(`model_package/README.md`, `onnxruntime/core/session/model_package/README.md`) and of ONNX Runtime
GenAI (`docs/model_package.md`).
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_runtime.processor import HALF_GRAPH
from packager import cache
from packager.errors import ModelSourceError
from packager.jobs import keys
from packager.models.text_model import json_object
from packager.recipes.providers import ORT_NAMES, WEBGPU

MANIFEST = "manifest.json"
CONFIG = "genai_config.json"
COMPONENT = "component.json"
ASSETS = "shared_assets"
SCHEME = "sha256:"
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""Session option that names the folder of a graph's external weights."""

_DAMAGED = "Download the package again, or ask its publisher."


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A variant of a package.

    Attributes:
        name: its name in the manifest.
        provider: its execution provider, as ONNX Runtime names it; empty if none is declared.
        folder: its folder.
    """

    name: str
    provider: str
    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        """Its genai_config.json.

        Raises:
            ModelSourceError: it is missing or damaged.
        """
        config = json_object(self.folder / CONFIG)
        if not isinstance(config.get("model"), dict):
            raise ModelSourceError(
                f"{self.folder / CONFIG} does not describe a model", hint=_DAMAGED
            )
        return config


def is_package(folder: Path) -> bool:
    """Judge as ONNX Runtime GenAI does: a model folder may have a manifest.json of another kind."""
    return (folder / MANIFEST).is_file() and not (folder / CONFIG).is_file()


def as_folder(root: Path, provider: str) -> Path:
    """Return the variant for an execution provider as an ONNX GenAI folder (cached).

    Args:
        root: the package.
        provider: execution provider as the model builder names it.

    Raises:
        ModelSourceError: the package is damaged, or has none or several variants for the provider.
    """
    variants = choose(root, provider)
    places = files(root, variants)
    digests = {name: cache.file_digest(path) for name, path in sorted(places.items())}
    inputs = keys.inputs(
        modules=[__name__],
        package=str(root),
        variants=[variant.name for variant in variants],
        configs=[variant.config for variant in variants],
        digests=digests,
    )
    return cache.stage("package", inputs, lambda target: lay_out(variants[0], places, target))


def lay_out(variant: Variant, places: Mapping[str, Path], target: Path) -> None:
    """Let files appear in one folder, by their names there, with the configuration of a variant.

    They are hard links, or copies where the file system has none: ONNX Runtime takes no weights
    through a symbolic link that leads out of the graph's folder.
    """
    config = variant.config
    config["model"].pop("tokenizer_dir", None)
    for options in _session_options(config["model"]):
        options.pop(WEIGHTS_FOLDER, None)
    for name, path in places.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), target / name)
        except OSError:
            shutil.copyfile(path, target / name)
    (target / CONFIG).write_text(json.dumps(config, indent=4) + "\n", newline="\n")


def choose(root: Path, provider: str) -> tuple[Variant, ...]:
    """Choose the variant for an execution provider.

    For WebGPU, whose devices also run the CPU's graph, that is the CPU's variant and, if it is one
    of edgepack's, the second graph that has the same weights.

    Raises:
        ModelSourceError: the package is damaged, or has none or several variants for the provider.
    """
    listed = read(root)
    chosen = _only(root, listed, provider)
    if provider == WEBGPU:
        cpu = _only(root, listed, "cpu")
        if cpu is not None and chosen is not None and (chosen.folder / HALF_GRAPH).is_file():
            return cpu, chosen
        chosen = chosen or cpu
    if chosen is None:
        names = (f"{entry.name[:80]!r} ({entry.provider[:80] or 'none'})" for entry in listed[:8])
        raise ModelSourceError(
            f"{root} has no variant for the execution provider {ORT_NAMES[provider]}; it has "
            f"{', '.join(names)}",
            hint="Use a profile with the execution provider of a variant.",
        )
    return (chosen,)


def read(root: Path) -> tuple[Variant, ...]:
    """Read the variants of a package.

    Raises:
        ModelSourceError: the manifest is damaged or of another version, names a folder that is
            missing or outside the package, or has none or several components.
    """
    manifest = json_object(root / MANIFEST)
    version = str(manifest.get("schema_version", ""))
    if version.partition(".")[0] != "1":
        raise ModelSourceError(
            f"{root} is not a model package of version 1: schema_version is {version[:20]!r}",
            hint="Supported are packages of ONNX Runtime with schema_version 1.x.",
        )
    components = manifest.get("components")
    if not isinstance(components, dict) or len(components) != 1:
        count = len(components) if isinstance(components, dict) else 0
        raise ModelSourceError(
            f"the package {root} has {count} components; ONNX Runtime GenAI requires exactly one",
            hint="Use a package of one language model.",
        )
    (component,) = components.values()
    base = root
    if isinstance(component, str):
        path = _inside(root, root, component)
        path = path / COMPONENT if path.is_dir() else path
        base, component = path.parent, json_object(path)
    variants = component.get("variants") if isinstance(component, dict) else None
    if not isinstance(variants, dict) or not variants:
        raise ModelSourceError(f"the package {root} has no variants", hint=_DAMAGED)
    return tuple(_variant(root, base, name, body) for name, body in variants.items())


def files(root: Path, variants: Iterable[Variant]) -> dict[str, Path]:
    """Find the files of variants by their names in one folder, configurations left out.

    Raises:
        ModelSourceError: a shared asset is missing or damaged, or two files have one name.
    """
    places: dict[str, Path] = {}
    for variant in variants:
        for folder in dict.fromkeys((variant.folder, *_referenced(root, variant))):
            for path in sorted(folder.rglob("*")):
                name = path.relative_to(folder).as_posix()
                if not path.is_file() or name == CONFIG:
                    continue
                known = places.setdefault(name, path)
                if known != path and cache.file_digest(known) != cache.file_digest(path):
                    raise ModelSourceError(
                        f"the package {root} has two files {name} for the variant "
                        f"{variant.name[:80]!r}: {known} and {path}",
                        hint=_DAMAGED,
                    )
    return places


def digest(folder: Path) -> str:
    """Compute the digest of a shared asset as `ModelPackage_ComputeDirectoryHash` does: sha256 of
    the lines `<sha256 of a file>  <path>`, in the order of the paths."""
    paths = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    lines = (f"{cache.file_digest(path)}  {name}\n" for name, path in sorted(paths.items()))
    return cache.bytes_digest("".join(lines).encode())


def _variant(root: Path, base: Path, name: str, body: Any) -> Variant:
    body = body if isinstance(body, dict) else {}
    folder = _inside(root, base, body.get("variant_directory", name))
    if not (folder / CONFIG).is_file():
        raise ModelSourceError(
            f"the package {root} lacks the {CONFIG} of its variant {name[:80]!r}", hint=_DAMAGED
        )
    return Variant(name=name, provider=str(body.get("ep") or ""), folder=folder)


def _only(root: Path, listed: Iterable[Variant], provider: str) -> Variant | None:
    """Return the variant for an execution provider, if there is one."""
    suitable = [entry for entry in listed if entry.provider == ORT_NAMES[provider]]
    if len(suitable) > 1:
        names = ", ".join(f"{entry.name[:80]!r}" for entry in suitable[:8])
        raise ModelSourceError(
            f"the package {root} has several variants for {ORT_NAMES[provider]}: {names}. Which of "
            "them suits is known on the device alone",
            hint=f"Leave one of them in the {MANIFEST} of a copy.",
        )
    return suitable[0] if suitable else None


def _referenced(root: Path, variant: Variant) -> Iterator[Path]:
    """Find the folders that a configuration names: of the tokenizer, and of external weights."""
    model = variant.config["model"]
    references = [model.get("tokenizer_dir")]
    references += [options.get(WEIGHTS_FOLDER) for options in _session_options(model)]
    for reference in references:
        if reference in (None, ""):
            continue
        if isinstance(reference, str) and reference.startswith(SCHEME):
            folder = _asset(root, reference)
        else:
            folder = _inside(root, variant.folder, reference)
        if not folder.is_dir():
            raise ModelSourceError(
                f"the package {root} lacks the folder {reference!r}, which its variant "
                f"{variant.name[:80]!r} names",
                hint=_DAMAGED,
            )
        yield folder


def _session_options(section: Any) -> Iterator[dict[str, Any]]:
    """Find the session options of all graphs; a pipeline is a list of sections."""
    parts = section.items() if isinstance(section, dict) else enumerate(section)
    for name, part in parts:
        if name == "session_options" and isinstance(part, dict):
            yield part
        elif isinstance(part, dict | list):
            yield from _session_options(part)


def _asset(root: Path, reference: str) -> Path:
    """Find the folder of a reference to a shared asset, whose content must have its digest."""
    match = re.fullmatch(rf"{SCHEME}([0-9a-f]{{64}})(?:/(.+))?", reference)
    if match is None:
        raise ModelSourceError(
            f"the package {root} refers to a shared asset by {reference[:80]!r}, which is not "
            "sha256: and 64 hexadecimal digits",
            hint=_DAMAGED,
        )
    name = f"{SCHEME}{match[1]}"
    places = json_object(root / MANIFEST).get("shared_assets")
    place = places.get(name) if isinstance(places, dict) else None
    folder = _inside(root, root, place or f"{ASSETS}/sha256-{match[1]}")
    if not folder.is_dir():
        raise ModelSourceError(
            f"the package {root} lacks the shared asset {name}", hint="Download the package again."
        )
    if (actual := digest(folder)) != match[1]:
        raise ModelSourceError(
            f"the shared asset {folder} has other content than its name says: its digest is "
            f"{actual}",
            hint="Download the package again. If you made it yourself, name the folder "
            f"sha256-{actual} and refer to it by that.",
        )
    return _inside(root, folder, match[2]) if match[2] else folder


def _inside(root: Path, base: Path, name: Any) -> Path:
    """Return a path below a folder of the package, which must not lead out of it."""
    path = Path(os.path.normpath(base / name)) if isinstance(name, str) and name else None
    if (
        path is None
        or "\0" in name
        or not path.is_relative_to(base)
        or not path.resolve().is_relative_to(root.resolve())
    ):
        raise ModelSourceError(
            f"the package {root} names the path {str(name)[:80]!r}, which is not inside it",
            hint="Supported are packages whose paths are relative and without `..`.",
        )
    return path
