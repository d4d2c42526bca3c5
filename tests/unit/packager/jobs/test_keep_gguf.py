"""The codes of a GGUF file as a folder: the file's weights, in the order of transformers' rows."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from packager.genai.calibrated import CalibratedWeights
from packager.jobs.job import JobRefusedError, Work
from packager.jobs.keep_gguf import KeepGguf
from packager.recipes import nodes
from packager.weights import stored
from tests.support import tiny_gguf

TYPES = {
    "token_embd": "Q8_0",
    "attn_q": "Q4_1",
    "attn_k": "Q4_1",
    "attn_v": "Q5_1",
    "attn_output": "Q4_0",
    "ffn_gate": "Q5_0",
    "ffn_up": "F16",
}
"""The down projection stays F32."""

FORMS = {
    "self_attn.q_proj": (4, 32, True),
    "self_attn.k_proj": (4, 32, True),
    "self_attn.v_proj": (8, 32, False),
    "self_attn.o_proj": (4, 32, False),
    "mlp.gate_proj": (8, 32, False),
    "mlp.up_proj": (8, 32, False),
    "mlp.down_proj": (8, 32, False),
}


@pytest.fixture(scope="module")
def file(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.make_gguf(tiny_hf, tmp_path_factory.mktemp("gguf") / "m.gguf", types=TYPES)


@pytest.fixture(scope="module")
def converted(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    tiny_gguf.convert(file, folder)
    return folder


def _keep(file: Path, converted: Path, folder: Path) -> None:
    KeepGguf(file=file, folder=converted, architecture="llama").run(Work(folder))


def test_weights_are_those_of_the_file(file: Path, converted: Path, tmp_path: Path) -> None:
    _keep(file, converted, tmp_path)
    floats = load_file(converted / "model.safetensors")
    for layer in range(2):
        assert stored.names(tmp_path, layer) == set(FORMS)
        for name, form in FORMS.items():
            weight = stored.load(tmp_path, layer, name)
            assert weight.form() == form
            expected = floats[f"model.layers.{layer}.{name}.weight"]
            lost = (weight.dequantize() - expected).square().sum() / expected.square().sum()
            assert lost < 3e-4, name
    head = stored.load(tmp_path, None, stored.HEAD)
    assert torch.equal(head.dequantize(), floats["model.embed_tokens.weight"])
    assert stored.names(tmp_path, None) == {stored.HEAD}
    assert {error.name for error in stored.errors(tmp_path)} == {*FORMS, stored.HEAD}


def test_a_fused_weight_keeps_the_form_of_each_part(
    file: Path, converted: Path, tmp_path: Path
) -> None:
    _keep(file, converted, tmp_path)
    floats = load_file(converted / "model.safetensors")
    parts = [floats[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"]
    node = "/model/layers.1/attn/qkv_proj/MatMul"
    found = CalibratedWeights(tmp_path).find(node, torch.cat(parts))
    assert found is not None
    assert [part.form() for part in found] == [(4, 32, True), (8, 32, False)]
    assert [len(part.codes) for part in found] == [len(parts[0]) + len(parts[1]), len(parts[2])]


def test_an_embedding_of_its_own_is_kept_beside_the_head(
    tiny_hf: Path, file: Path, converted: Path, tmp_path: Path
) -> None:
    head = torch.randn(288, 64)
    untied = tiny_gguf.make_gguf(
        tiny_hf, tmp_path / "m.gguf", types=TYPES, more={"output.weight": head.numpy()}
    )
    folder = tmp_path / "hf"
    folder.mkdir()
    floats = {**load_file(converted / "model.safetensors"), "lm_head.weight": head}
    save_file(floats, folder / "model.safetensors")
    (folder / "config.json").write_bytes((converted / "config.json").read_bytes())
    (tmp_path / "codes").mkdir()
    _keep(untied, folder, tmp_path / "codes")
    weights = CalibratedWeights(tmp_path / "codes")
    for node, weight in (
        (nodes.HEAD, head),
        (nodes.EMBEDDING, floats["model.embed_tokens.weight"]),
    ):
        found = weights.find(node, weight)
        assert found is not None
        assert [part.form() for part in found] == [(8, 32, False)]


def test_rows_in_another_order_are_refused(file: Path, converted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    floats = load_file(converted / "model.safetensors")
    name = "model.layers.1.self_attn.k_proj.weight"
    # As the file has them: llama.cpp rotates neighbours.
    floats[name] = floats[name].reshape(-1, 2, 8, 64).transpose(1, 2).reshape(-1, 64).contiguous()
    save_file(floats, folder / "model.safetensors")
    (folder / "config.json").write_bytes((converted / "config.json").read_bytes())
    (tmp_path / "codes").mkdir()
    with pytest.raises(JobRefusedError, match=r"blk\.1\.attn_k\.weight.*not those of the conver"):
        _keep(file, folder, tmp_path / "codes")
