"""Model packages of ONNX Runtime, laid out as the tests of ONNX Runtime GenAI do
(test/model_package_test.cpp)."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from packager.models import ort_package

OPTION = "session.model_external_initializers_file_folder_path"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
WEIGHTS = ("model.onnx.data",)


def make(folder: Path, root: Path, names: Iterable[str] = TOKENIZER, digest: str = "") -> Path:
    """Make a package with one variant for the CPU of an ONNX GenAI folder; returns it.

    Args:
        folder: the ONNX GenAI folder.
        root: the package.
        names: files that are a shared asset: those of the tokenizer, or weights.
        digest: digest in the name of the asset; empty for the right one.
    """
    variant, asset = root / "cpu", root / "shared_assets" / "asset"
    shutil.copytree(folder, variant)
    asset.mkdir(parents=True)
    for name in names:
        (variant / name).rename(asset / name)
    digest = digest or ort_package.digest(asset)
    asset.rename(asset.with_name(f"sha256-{digest}"))
    write_manifest(root, {"cpu": {"ep": "CPUExecutionProvider"}})
    if tuple(names) == WEIGHTS:
        change(variant, lambda model: options(model).update({OPTION: f"sha256:{digest}"}))
    else:
        change(variant, lambda model: model.update(tokenizer_dir=f"sha256:{digest}"))
    return root


def write_manifest(root: Path, variants: dict[str, Any], **more: Any) -> None:
    """Write a manifest with one component inside it; fields in `more` replace others."""
    components = {"model": {"variants": variants}}
    manifest = {"schema_version": "1.0", "components": components, **more}
    (root / "manifest.json").write_text(json.dumps(manifest))


def options(model: dict[str, Any]) -> dict[str, Any]:
    """The session options of a model's decoder."""
    section: dict[str, Any] = model["decoder"]["session_options"]
    return section


def change(variant: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the section `model` of a variant's genai_config.json."""
    path = variant / "genai_config.json"
    config = json.loads(path.read_text())
    edit(config["model"])
    path.write_text(json.dumps(config))
