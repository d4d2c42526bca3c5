"""A bundle becomes a model package of ONNX Runtime, and that a bundle again."""

import json
from pathlib import Path

import pytest

from device_runtime.bundle.reader import open_bundle
from tests.support.commands import edgepack_quickly, refused

pytestmark = pytest.mark.slow


def records(bundle: Path) -> dict[str, str]:
    with open_bundle(bundle) as opened:
        return {record.path: record.sha256 for record in opened.manifest.records}


def test_bundle_with_two_graphs_goes_there_and_back(
    tiny_hf: Path, tmp_path: Path, cache: Path
) -> None:
    """The bundle for all machines with and without a GPU, one set of weights and two graphs."""
    options = ("build", "--profile", "x86_64-gpu", "--model-only", "--no-sign")
    built = edgepack_quickly(
        *(*options, "--recipe", "int4-rtn", "--allow-quality-loss"),
        *("--model", tiny_hf, "-o", tmp_path / "first.epk"),
        cache=cache,
    )
    assert built.status == 0, built.err
    package = tmp_path / "tiny.ortpackage"
    export = ("export", tmp_path / "first.epk", "--ort-package", package)
    exported = edgepack_quickly(*export, "--json", cache=cache)
    assert exported.status == 0, exported.err
    result = json.loads(exported.out)
    assert set(result["variants"]) == {"cpu", "webgpu"}
    assert result["checked"] == {"opened": True, "tokens": 16}
    refused(edgepack_quickly(*export, cache=cache), 1, "exists")
    again = edgepack_quickly(
        *(*options, "--model", package, "-o", tmp_path / "second.epk"), cache=cache
    )
    assert again.status == 0, again.err
    assert records(tmp_path / "second.epk") == records(tmp_path / "first.epk")
