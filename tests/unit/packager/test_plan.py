"""What a build is said to take, and the refusal."""

import dataclasses
import json
from pathlib import Path

import pytest

from device_runtime import memory
from packager import cache, machine, plan
from packager.errors import ResourceError
from packager.models import shape
from packager.models.source import resolve
from packager.plan import Need
from packager.recipes.recipes import RECIPES
from tests.support import shapes, tiny_gguf, tiny_model

GIB = 1 << 30


def test_shape_is_the_same_from_a_folder_and_from_gguf(tiny_hf: Path, tmp_path: Path) -> None:
    of = shape.shape(resolve(str(tiny_hf)))
    config = json.loads((tiny_hf / "config.json").read_text())
    assert of.layers == config["num_hidden_layers"]
    assert of.hidden == config["hidden_size"]
    assert of.vocabulary == config["vocab_size"]
    assert of.queries == of.hidden
    assert of.keys * config["num_attention_heads"] == of.queries * config["num_key_value_heads"]
    assert 4 <= of.stored < 4.1
    gguf = shape.shape(resolve(str(tiny_gguf.make_gguf(tiny_hf, tmp_path / "tiny.gguf"))))
    assert gguf.stored == 4
    assert min(gguf.layers, gguf.hidden, gguf.vocabulary, gguf.parameters) > 0
    assert of.codes == 0 < gguf.codes
    assert gguf == dataclasses.replace(of, stored=4, parameters=gguf.parameters, codes=gguf.codes)


def test_what_a_configuration_leaves_out_is_what_is_usual(tmp_path: Path) -> None:
    folder = tiny_model.make_hf(tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    del config["num_key_value_heads"], config["intermediate_size"]
    (folder / "config.json").write_text(json.dumps(config))
    of = shape.shape(resolve(str(folder)))
    assert of.keys == of.queries
    assert of.intermediate == 4 * of.hidden


def test_more_work_takes_more(tiny_hf: Path) -> None:
    of = shape.shape(resolve(str(tiny_hf)))
    plain, calibrated, mixed, float_ = (
        plan.building(of, RECIPES[name], windows=32, twice=False)
        for name in ("int4-rtn", "int4-gptq", "int4-gptq-mixed", "fp32")
    )
    assert plain.disk < calibrated.disk < mixed.disk
    assert plain.disk < float_.disk
    assert plain.memory <= calibrated.memory <= mixed.memory
    twice = plan.building(of, RECIPES["int4-rtn"], windows=32, twice=True)
    assert twice.disk > plain.disk


def test_the_size_forecast_counts_the_layers_that_a_recipe_gives_8_bits() -> None:
    # Half of 32 layers are usually sensitive, and of each of them 4 of its 7 square matrices.
    of = shape.Shape(
        parameters=32 * 7 * 64**2 + 64 * 1000,
        layers=32,
        hidden=64,
        intermediate=64,
        queries=64,
        keys=64,
        vocabulary=1000,
        stored=4.0,
    )
    body, head = 32 * 7 * 64**2, 64 * 1000
    bits = body * (4 + 4 * 2 / 7) + head * 8
    zeros = body * (1 - 4 / 7 / 2) * 4 / 32  # of the blocks of 4 bits
    size = (bits + zeros) / 8 + (body + head) * 2 / 32
    disk = plan.building(of, RECIPES["int4-mixed"], windows=32, twice=False).disk
    assert disk == pytest.approx(2 * size, rel=1e-4)


def test_work_one_after_the_other() -> None:
    whole = Need(memory=3, disk=5).then(Need(memory=7, disk=1), Need(memory=2, disk=2))
    assert whole == Need(memory=7, disk=8)


@pytest.mark.parametrize(
    ("dtype", "fast", "memory", "floats"),
    [
        ("bfloat16", True, 99 * GIB, False),
        ("bfloat16", False, 99 * GIB, True),
        ("bfloat16", False, 2 * GIB, False),
        ("float16", True, 99 * GIB, True),
        ("float16", True, 2 * GIB, False),
    ],
)
def test_type_that_the_reference_model_generates_in(
    dtype: str,
    fast: bool,
    memory: int,
    floats: bool,
    tiny_hf: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = dataclasses.replace(shape.shape(resolve(str(tiny_hf))), dtype=dtype, stored=2.0)
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda: fast)
    monkeypatch.setattr(machine, "memory_total", lambda: memory)
    assert plan.in_floats(of, Need(memory=3 * GIB, disk=0)) == floats


@pytest.mark.parametrize(
    ("line", "fast"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu avx2", False),
        ("processor\t: 0", False),
    ],
)
def test_processor_that_multiplies_bfloat16(line: str, fast: bool, tmp_path: Path) -> None:
    cpu = tmp_path / "cpuinfo"
    cpu.write_text(f"processor\t: 0\n{line}\n")
    assert machine.multiplies_bfloat16(cpu) == fast


def test_sensitive_layers_take_one_layer_not_the_model() -> None:
    of = shapes.of(shapes.LARGE)
    need = plan.building(of, RECIPES["int4-gptq-mixed"], windows=32, twice=False)
    assert need.memory < 8e9
    asking = plan.asking(of, written=8192, read=12, floats=False)
    assert asking.memory < 8e9


def test_long_texts_are_written_in_parts(tiny_hf: Path) -> None:
    of = shape.shape(resolve(str(tiny_hf)))
    assert plan.at_once(of, 24, 8192, floats=True) == 24
    some = plan.at_once(of, 24, 1 << 29, floats=True)
    assert 1 <= some < 24
    assert plan.at_once(of, 24, 1 << 40, floats=True) == 1


@pytest.mark.parametrize(
    ("need", "says"),
    [
        (Need(memory=3 * GIB, disk=0), "needs 3.2 GB of memory; 2.1 GB available"),
        (Need(memory=0, disk=5 * GIB), "needs 5.4 GB of disk space; 4.3 GB available"),
    ],
)
def test_refused(need: Need, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_available", lambda: 2 * GIB)
    monkeypatch.setattr(machine, "disk_free", lambda _: 4 * GIB)
    plan.check(Need(memory=2 * GIB, disk=4 * GIB), "the build")
    with pytest.raises(ResourceError, match=says) as refused:
        plan.check(need, "the build")
    assert refused.value.hint


def test_bundle_must_fit_where_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "not" / "yet" / "out.epk"
    free = {output.parent: 4 * GIB, cache.root(): 9 * GIB}
    monkeypatch.setattr(machine, "disk_free", free.__getitem__)
    need = Need(memory=0, disk=0, bundle=5 * GIB)
    plan.check(need, "building int4-rtn")
    with pytest.raises(
        ResourceError, match=r"out\.epk needs 5\.4 GB.*; 4\.3 GB available"
    ) as refused:
        plan.check(need, "building int4-rtn", output)
    assert refused.value.exit_code == 9
    plan.check(Need(memory=0, disk=0, bundle=3 * GIB), "building int4-rtn", output)


def test_forecast_of_the_bundle_is_the_model(tiny_hf: Path) -> None:
    of = shape.shape(resolve(str(tiny_hf)))
    small, large = (
        plan.building(of, RECIPES[name], windows=32, twice=True).bundle
        for name in ("int4-rtn", "fp32")
    )
    assert small < large
    assert large >= 4 * of.parameters
    assert Need(memory=0, disk=0, bundle=2).then(Need(memory=0, disk=0, bundle=3)).bundle == 3


def test_machine(tmp_path: Path) -> None:
    assert 0 < machine.memory_available() <= machine.memory_total()
    assert machine.disk_free(tmp_path / "not" / "yet") > 0


@pytest.mark.parametrize(
    ("line", "inside", "files", "limit"),
    [
        ("0::/a/b", "a", {"memory.max": "5000", "memory.stat": "anon 1200\nfile 90"}, 5000),
        ("0::/of/the/host", "", {"memory.max": "5000", "memory.stat": "anon 1200"}, 5000),
        (
            "4:memory:/a/b",
            "memory/a/b",
            {"memory.limit_in_bytes": "5000", "memory.stat": "cache 7\ntotal_rss 1200"},
            5000,
        ),
        ("0::/a/b", "a", {"memory.max": "max", "memory.stat": "anon 1200"}, None),
        ("1:cpu:/a/b", "a", {"memory.max": "5000", "memory.stat": "anon 1200"}, None),
    ],
)
def test_limits_of_control_groups(
    line: str, inside: str, files: dict[str, str], limit: int | None, tmp_path: Path
) -> None:
    own, groups = tmp_path / "own", tmp_path / "groups"
    own.write_text(f"{line}\n")
    for folder in ("a/b", "memory/a/b"):
        (groups / folder).mkdir(parents=True)
    for name, content in files.items():
        (groups / inside / name).write_text(f"{content}\n")
    assert list(memory.limits(own, groups)) == ([(limit, 1200)] if limit else [])
