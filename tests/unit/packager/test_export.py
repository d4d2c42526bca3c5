"""Model packages that are written: checked by ONNX Runtime itself, or not there at all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from device_runtime.processor import HALF_GRAPH
from packager.errors import ModelSourceError, PackagerError, QuantizeError
from packager.export import ort_package_of
from packager.jobs.check_package import CheckPackage
from packager.jobs.job import JobRefusedError, Work
from packager.models import ort_package
from packager.models.source import resolve
from tests.support import model_packages
from tests.support.graphs import filled

pytestmark = pytest.mark.usefixtures("own_cache", "jobs_here")


@pytest.fixture
def folder(tiny_onnx: Path, tmp_path: Path) -> Path:
    """The tiny model with a second graph, and an embedding and a speech model beside it."""
    folder = Path(shutil.copytree(tiny_onnx, tmp_path / "tiny"))
    shutil.copyfile(folder / "model.onnx", folder / HALF_GRAPH)
    for name in ("embedding", "speech"):
        (folder / name).mkdir()
        (folder / name / "model.onnx").write_bytes(b"another model")
    (folder / "adapters").mkdir()
    (folder / "adapters" / "french.onnx_adapter").write_bytes(b"adapter")
    return folder


def test_graphs_become_variants_that_share_the_rest(folder: Path, tmp_path: Path) -> None:
    exported = ort_package_of(folder, tmp_path / "out.ortpackage")
    assert exported.variants == {"cpu": "CPUExecutionProvider", "webgpu": "WebGpuExecutionProvider"}
    assert exported.checked is not None
    assert (exported.checked.opened, exported.checked.tokens) == (True, 16)
    names = {
        "/".join(path.relative_to(exported.path).parts[-2:])
        for path in exported.path.rglob("*")
        if path.is_file() and "shared_assets" not in path.parts
    }
    assert names == {
        "manifest.json",
        "cpu/genai_config.json",
        "cpu/model.onnx",
        "adapters/french.onnx_adapter",
        "webgpu/genai_config.json",
        f"webgpu/{HALF_GRAPH}",
    }
    shared = sorted(path.name for path in exported.path.glob("shared_assets/*/*"))
    assert shared == sorted([*model_packages.TOKENIZER, *model_packages.WEIGHTS])
    assert exported.bytes == sum(
        path.stat().st_size for path in exported.path.rglob("*") if path.is_file()
    )


def test_package_is_read_as_what_it_was_made_from(folder: Path, tmp_path: Path) -> None:
    ort_package_of(folder, tmp_path / "out.ortpackage")
    for beside in ("embedding", "speech"):
        shutil.rmtree(folder / beside)
    original = resolve(str(folder)).path
    taken = resolve(str(tmp_path / "out.ortpackage"), provider="webgpu").path
    for path in original.rglob("*"):
        name = path.relative_to(original)
        if path.name == "genai_config.json":
            assert json.loads(path.read_text()) == json.loads((taken / name).read_text())
        elif path.is_file():
            assert path.read_bytes() == (taken / name).read_bytes()


def test_model_that_sees_is_loaded_and_read_as_it_was(seeing_onnx: Path, tmp_path: Path) -> None:
    exported = ort_package_of(seeing_onnx, tmp_path / "out.ortpackage")
    assert exported.checked is not None
    assert (exported.checked.opened, exported.checked.tokens) == (True, 0)
    package = json.loads((exported.path / "cpu" / "genai_config.json").read_text())["model"]
    # A graph without options of its own has those of the decoder.
    assert "session_options" not in package["vision"]
    taken = resolve(str(exported.path)).path
    names = {path.name for path in seeing_onnx.iterdir()}
    assert {path.name for path in taken.iterdir()} == names
    configs = [
        json.loads((folder / "genai_config.json").read_text()) for folder in (taken, seeing_onnx)
    ]
    assert configs[0] == configs[1]


def test_existing_output_is_not_replaced(tiny_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "out.ortpackage").mkdir()
    with pytest.raises(PackagerError, match="exists") as caught:
        ort_package_of(tiny_onnx, tmp_path / "out.ortpackage")
    assert caught.value.hint


def test_source_model_is_refused(tiny_hf: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="expected a built one"):
        ort_package_of(tiny_hf, tmp_path / "out.ortpackage")


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (
            lambda model: model["decoder"]["inputs"].update(input_ids="missing"),
            QuantizeError,
            "Checking the package failed",
        ),
        (
            lambda model: model["decoder"].update(pipeline=[{"a": {"filename": "b.onnx"}}]),
            ModelSourceError,
            "b.onnx is missing",
        ),
        (
            lambda model: model["decoder"]["session_options"].update(
                provider_options=[{"tpu": {}}]
            ),
            ModelSourceError,
            "execution provider tpu",
        ),
    ],
)
def test_nothing_is_left_of_what_is_refused(
    tiny_onnx: Path,
    tmp_path: Path,
    spoil: Callable[[dict[str, object]], None],
    error: type[PackagerError],
    words: str,
) -> None:
    folder = Path(shutil.copytree(tiny_onnx, tmp_path / "tiny"))
    model_packages.change(folder, spoil)
    (tmp_path / "out").mkdir()
    with pytest.raises(error, match=words) as caught:
        ort_package_of(folder, tmp_path / "out" / "model.ortpackage")
    assert caught.value.hint
    assert not list((tmp_path / "out").iterdir())


def test_pipeline_is_refused(tiny_onnx: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_onnx, tmp_path / "tiny"))
    shutil.copyfile(folder / "model.onnx", folder / "b.onnx")
    model_packages.change(
        folder, lambda model: model["decoder"].update(pipeline=[{"a": {"filename": "b.onnx"}}])
    )
    with pytest.raises(ModelSourceError, match="pipeline"):
        ort_package_of(folder, tmp_path / "out.ortpackage")


def check(package: Path, model: Path, *references: str) -> CheckPackage:
    return CheckPackage(
        model=model,
        component="model",
        variant=package / "cpu",
        references=references,
        folder=resolve(str(package)).path,
        compare=True,
    )


def test_package_of_another_model_is_noticed(tiny_onnx: Path, tmp_path: Path) -> None:
    other = filled(tiny_onnx, tmp_path / "other", -1.0)
    package = ort_package_of(other, tmp_path / "out.ortpackage").path
    check(package, other).run(Work(package))
    with pytest.raises(JobRefusedError, match="otherwise than its model"):
        check(package, tiny_onnx).run(Work(package))


def test_onnx_runtime_refuses_what_it_cannot_open(tiny_onnx: Path, tmp_path: Path) -> None:
    package = ort_package_of(tiny_onnx, tmp_path / "out.ortpackage").path
    job = check(package, tiny_onnx, f"{ort_package.SCHEME}{'0' * 64}")
    with pytest.raises(RuntimeError, match="0000"):
        job.run(Work(package))
    manifest = json.loads((package / "manifest.json").read_text())
    (package / "manifest.json").write_text(json.dumps({**manifest, "unknown": 1}))
    with pytest.raises(RuntimeError, match="unknown"):
        check(package, tiny_onnx).run(Work(package))
    variant = {**manifest["components"]["model"]["variants"]["cpu"], "variant_directory": "cpu"}
    shutil.copytree(package / "cpu", package / "another")
    model_packages.write_manifest(package, {"another": {**variant, "variant_directory": "another"}})
    with pytest.raises(JobRefusedError, match="chooses the variant another"):
        check(package, tiny_onnx).run(Work(package))
