"""Every precision for every execution provider: made as it should be, or refused with the reason.

docs/precisions.md is the table of what is tested here.
"""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai.models
import pytest

from packager.recipes.providers import NOT_MADE, PRECISIONS
from scripts import asyncapi, tables
from tests.support.commands import edgepack, make_offline, refused
from tests.support.graphs import linear_bits
from tests.support.provider_builds import ASKED, CASES, MADE, expected

pytestmark = pytest.mark.slow

IDS = [f"{provider}-{precision}" for provider, precision in MADE]
OWN_DOMAIN_OF_ORT = ("SimplifiedLayerNormalization",)
"""Operators that ONNX Runtime has put among those of ONNX itself, which does not know them."""


@pytest.fixture(scope="module")
def built(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in all precisions for all providers."""
    folder = tmp_path_factory.mktemp("providers")
    make_offline("tests.support.provider_builds", tiny_hf, folder)
    return folder


@pytest.fixture(scope="module")
def exact(built: Path) -> list[int]:
    """What the fp32 model for the CPU says."""
    return generate(built / "cpu-fp32")


def generate(folder: Path) -> list[int]:
    """24 greedy tokens, whatever ends a text."""
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    params = og.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=40, min_length=40)
    generator = og.Generator(model, params)
    generator.append_tokens(np.arange(20, 36, dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    tokens: list[int] = generator.get_sequence(0)[16:].tolist()
    return tokens


def for_cpu(folder: Path, target: Path) -> Path:
    """A copy of a model that asks for no execution provider, so that the CPU runs it."""
    shutil.copytree(folder, target)
    path = target / "genai_config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    config["model"]["decoder"]["session_options"]["provider_options"] = []
    path.write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(("provider", "precision"), MADE, ids=IDS)
def test_graph_is_what_it_should_be(built: Path, provider: str, precision: str) -> None:
    import onnx

    folder, wanted = built / f"{provider}-{precision}", expected(provider, precision)
    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    operators = Counter(node.op_type for node in graph.node)
    assert operators[wanted.attention] == 2
    assert operators["RotaryEmbedding"] == wanted.rotary
    assert linear_bits(graph) == ({wanted.bits} if wanted.bits else set())
    linears = sum(name.endswith("weight") for name in _inputs_of(graph, "MatMul"))
    assert (linears == 0) == bool(wanted.bits)
    embedding = [node.op_type for node in graph.node if "input_ids" in node.input]
    assert wanted.embedding in embedding
    kinds = {
        onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        for value in (*graph.input, *graph.output)
        if value.name == "logits" or "key" in value.name or "value" in value.name
    }
    assert kinds == {wanted.floats}
    made = {name for node in graph.node for name in node.output}
    assert {value.name for value in graph.output} <= made
    config = json.loads((folder / "genai_config.json").read_text())
    options = config["model"]["decoder"]["session_options"]["provider_options"]
    assert options == ([wanted.options] if wanted.options else [])


def _inputs_of(graph: Any, operator: str) -> list[str]:
    return [name for node in graph.node if node.op_type == operator for name in node.input]


@pytest.mark.parametrize(("provider", "precision"), MADE, ids=IDS)
def test_graph_passes_the_checker_of_onnx(
    built: Path, tmp_path: Path, provider: str, precision: str
) -> None:
    import onnx

    folder = tmp_path / "model"
    shutil.copytree(built / f"{provider}-{precision}", folder)
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    for node in model.graph.node:
        if node.op_type in OWN_DOMAIN_OF_ORT:
            node.domain = "com.microsoft"
    onnx.save(model, str(folder / "model.onnx"))
    onnx.checker.check_model(str(folder / "model.onnx"))


@pytest.mark.parametrize(("provider", "precision"), MADE, ids=IDS)
def test_graph_generates_on_the_cpu(
    built: Path, exact: list[int], tmp_path: Path, provider: str, precision: str
) -> None:
    tokens = generate(for_cpu(built / f"{provider}-{precision}", tmp_path / "model"))
    assert len(tokens) == 24
    if precision != "int4":
        assert tokens == exact


def test_what_is_made_is_what_the_builder_announces() -> None:
    """Of the precisions in question; its source is the one place where it says so."""
    source = Path(onnxruntime_genai.models.__path__[0], "builder.py").read_text()
    said = re.search(r"combinations are: ([^\"]+)\"", source)
    assert said
    names = {"TRT-RTX": "NvTensorRtRtx", "WebGPU": "webgpu"}
    announced: dict[str, set[str]] = {}
    for pair in said[1].split(", "):
        precision, provider = pair.split()
        name = names.get(provider, provider.lower())
        announced.setdefault(name, set()).add(precision.lower())
    assert {provider: set(each) for provider, each in PRECISIONS.items()} == announced


@pytest.mark.parametrize(("provider", "precision"), [case for case in CASES if case not in MADE])
def test_rest_is_refused_with_the_reason(
    tiny_hf: Path, tmp_path: Path, provider: str, precision: str
) -> None:
    profile = tmp_path / "mine.toml"
    recipe = "int4-rtn" if precision == "int4" else precision
    profile.write_text(
        f'extends = "mobile"\nexecution_provider = "{provider}"\nrecipe = "{recipe}"\n'
    )
    target = tmp_path / "b.epk"
    outcome = edgepack("build", "--profile", profile, "--model", tiny_hf, "-o", target)
    refused(outcome, 3, f"{provider} takes", NOT_MADE[provider, precision])
    assert not target.exists()


def test_reasons_are_for_what_is_not_made() -> None:
    assert set(NOT_MADE) == {case for case in CASES if case not in MADE}


def test_reasons_still_hold(built: Path, tmp_path: Path) -> None:
    """Should one fail here, the builder has learned something, and so can edgepack."""
    with pytest.raises(RuntimeError):
        generate(for_cpu(built / "cpu-fp16", tmp_path / "model"))
    for precision, says in (("int8", "QDQ"), ("int4", "Gather only supports")):
        assert says in (built / f"NvTensorRtRtx-{precision}.txt").read_text()


def test_table_asks_for_the_precisions_there_are() -> None:
    assert {p for each in PRECISIONS.values() for p in each} - {"bf16"} == set(ASKED)


@pytest.mark.parametrize("document", tables.TABLES)
def test_tables_of_the_documents_are_current(document: str) -> None:
    written = (tables.DOCS / document).read_text(encoding="utf-8")
    assert written == tables.current(document), "run: python -m scripts.tables"


def test_the_contract_over_mqtt_is_current() -> None:
    written = (tables.DOCS / tables.ASYNCAPI).read_text(encoding="utf-8")
    assert written == asyncapi.document(), "run: python -m scripts.tables"
