"""The key of a cached result: the job as data, and the code that does it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from packager import cache, profile
from packager.jobs import keys
from packager.jobs.build_onnx import BuildOnnx, Weights
from packager.jobs.calibrate import Calibrate
from packager.jobs.measure import TimeDecoding
from packager.jobs.merge_adapter import MergeAdapter
from packager.models.source import resolve
from packager.quantize import builder, calibration, candidate
from packager.quantize.subject import Subject
from packager.recipes.recipes import RECIPES
from tests.support.stages import CODE, STAGES

MODULES = sorted(
    ".".join(path.relative_to(keys.ROOT).with_suffix("").parts)
    for package in keys.PROJECT
    for path in (keys.ROOT / package).rglob("*.py")
    if path.name != "__init__.py"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of edgepack's own sources, as a wheel installs them."""
    folder = tmp_path_factory.mktemp("site-packages")
    for name in keys.PROJECT:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(keys.ROOT / name, folder / name, ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def unchanged(program: Path) -> dict[str, Any]:
    return {stage: keys.sources(modules, program) for stage, modules in STAGES.items()}


@pytest.mark.parametrize("module", MODULES)
def test_change_of_a_module_changes_the_keys_of_what_it_shapes(
    program: Path, unchanged: dict[str, Any], module: str
) -> None:
    path = program.joinpath(*module.split(".")).with_suffix(".py")
    original = path.read_bytes()
    path.write_bytes(original + b"\n# Changed.\n")
    try:
        changed = {stage: keys.sources(modules, program) for stage, modules in STAGES.items()}
    finally:
        path.write_bytes(original)
    assert {stage for stage in STAGES if changed[stage] != unchanged[stage]} == CODE.get(
        module, set()
    )


def test_every_module_named_here_exists() -> None:
    assert set(CODE) <= set(MODULES)


def test_installed_copy_has_the_same_keys(program: Path, unchanged: dict[str, Any]) -> None:
    code = (
        "import json; from packager.jobs import keys; from tests.support.stages import STAGES;"
        "print(json.dumps({stage: keys.sources(names) for stage, names in STAGES.items()}))"
    )
    printed = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": f"{program}:{keys.ROOT}"},
        cwd=program.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    installed = {stage: tuple(parts) for stage, parts in json.loads(printed).items()}
    assert installed == unchanged
    assert unchanged == {stage: keys.sources(modules) for stage, modules in STAGES.items()}


def test_packages_are_those_that_the_modules_import() -> None:
    _, packages = keys.sources(STAGES["onnx"])
    assert set(packages) >= {"torch", "transformers", "onnx", "onnx_ir", "onnxruntime_genai"}
    assert {"onnxruntime", "tokenizers"} <= set(packages), "others do their work with these"
    assert not {"rich", "click", "httpx2"} & set(packages)
    assert all(version and "+" not in version for version in packages.values())


@pytest.mark.parametrize(
    ("text", "imported"),
    [
        ("import packager.b", {"packager.b"}),
        ("import packager.b as other", {"packager.b"}),
        ("from packager import b", {"packager.b"}),
        ("from packager.b import Thing", {"packager.b"}),
        ("from .b import Thing", {"packager.b"}),
        ("from . import b", {"packager.b"}),
        ("from packager.room import c", {"packager.room.c", "packager.b"}),
        ("from packager.room import *", {"packager.room"}),
        ("def later():\n    import packager.b", {"packager.b"}),
        ("try:\n    import packager.b\nexcept ImportError:\n    pass", {"packager.b"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import packager.b", set()),
        ("import typing\nif typing.TYPE_CHECKING:\n    import packager.b", set()),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import packager.b", {"packager.b"}),
        ("import os, json", set()),
    ],
)
def test_imports_are_read_from_the_source(tmp_path: Path, text: str, imported: set[str]) -> None:
    (tmp_path / "packager/room").mkdir(parents=True)
    for name in ("packager/__init__.py", "packager/b.py", "packager/room/__init__.py"):
        (tmp_path / name).touch()
    (tmp_path / "packager/room/c.py").write_text("from ..b import Thing")
    (tmp_path / "packager/a.py").write_text(text)
    digests, packages = keys.sources(["packager.a"], tmp_path)
    assert set(digests) == {"packager.a", *imported}
    assert packages == {}


# Jobs


def calibrate(source: str = "/models/a", windows: str = "/texts/w.npy") -> Calibrate:
    return Calibrate(source=Path(source), windows=Path(windows), block_size=32)


def test_place_of_a_file_does_not_count_and_its_contents_do() -> None:
    def key(job: Calibrate, source: str) -> str:
        return cache.key(keys.inputs(job, content={job.source: source, job.windows: "w"}))

    assert key(calibrate(), "1") == key(calibrate("/elsewhere", "/w.npy"), "1")
    assert key(calibrate(), "1") != key(calibrate(), "2")


def test_file_without_a_digest_is_refused() -> None:
    with pytest.raises(ValueError, match=r"content of /texts/w\.npy is not part of the key"):
        keys.inputs(calibrate(), content={Path("/models/a"): "1"})


def test_stage_is_named_by_what_it_was_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPACK_CACHE", str(tmp_path))

    def key(calibrated: str, sensitive: tuple[str, ...] = ()) -> str:
        weights = Weights(
            algorithm="gptq",
            body_bits=4,
            head_bits=4,
            embedding_bits=4,
            block_size=32,
            symmetric=False,
            accuracy_level=4,
            sensitive=sensitive,
            calibrated=tmp_path / "gptq" / calibrated,
        )
        return cache.key(keys.inputs(build(weights), content={Path("/models/a"): "1"}))

    assert key("a" * 64) != key("b" * 64)
    assert key("a" * 64) != key("a" * 64, ("0.mlp.down_proj",)), "what was decided is in the key"
    with pytest.raises(ValueError, match="not part of the key"):
        key("unfinished")


def test_what_calibration_decides_is_in_the_key(
    tiny_hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPACK_CACHE", str(tmp_path))
    subject = Subject(
        source=resolve(str(tiny_hf)),
        profile=profile.load("mobile"),
        output=tmp_path / "out.epk",
        text=None,
        calibration=Path,
        trust_remote_code=False,
    )

    def key() -> str:
        job, _ = candidate._prepared(subject, RECIPES["int4-mixed"], "cpu", lambda: None)
        return cache.key(keys.inputs(job, content=subject.content))

    before = key()
    assert key() == before
    monkeypatch.setattr(calibration, "usually_sensitive", lambda layers: ("0.mlp.up_proj",))
    assert key() != before


def build(weights: Weights) -> BuildOnnx:
    return builder.job(
        Path("/models/a"),
        precision="int4",
        execution_provider="cpu",
        options={},
        trust_remote_code=False,
        weights=weights,
    )


def test_folder_inside_another_has_its_own_digest() -> None:
    base, adapter = Path("/models/a"), Path("/models/a/adapter")
    job = MergeAdapter(
        base=base, adapter=adapter, copied=(base / "tokenizer.json",), trust_remote_code=False
    )

    def key(digest: str) -> str:
        return cache.key(keys.inputs(job, content={base: "1", adapter: digest}))

    assert key("2") != key("3")


def test_several_files_keep_their_order() -> None:
    models = (Path("/a"), Path("/b"))
    first, second = (
        keys.inputs(
            TimeDecoding(models=order, tokens=1, rounds=1),
            content={models[0]: "1", models[1]: "2"},
        )
        for order in (models, models[::-1])
    )
    assert first["jobs"] != second["jobs"]
