"""Model sources: what is found is recognized, and what is wrong is said."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from device_runtime.tokenizer.files import chat_templates
from packager.errors import ModelSourceError
from packager.jobs.compare_tensors import CompareTensors
from packager.jobs.job import Work
from packager.models import catalog, tensors
from packager.models import gguf as gguf_file
from packager.models.source import as_hf_folder, hf_folder, resolve
from tests.support import tiny_gguf
from tests.support.sources import refused

pytestmark = pytest.mark.usefixtures("own_cache", "jobs_here")


@pytest.fixture(scope="module")
def gguf(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.make_gguf(tiny_hf, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def folder(tiny_hf: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be spoilt."""
    return Path(shutil.copytree(tiny_hf, tmp_path / "model"))


def test_hf_folder(tiny_hf: Path) -> None:
    source = resolve(str(tiny_hf))
    assert (source.kind, source.name, source.path) == ("hf", "hf", tiny_hf)
    assert source.architecture == "LlamaForCausalLM"
    assert source.parameters > 80_000
    assert str(tiny_hf.parent) not in source.origin
    assert as_hf_folder(source) == tiny_hf


def test_digest_is_of_the_files_that_count(folder: Path) -> None:
    before = resolve(str(folder)).digest
    (folder / "notes.md").write_text("not read")
    assert resolve(str(folder)).digest == before
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert resolve(str(folder)).digest != before


def test_license_of_the_model_card(folder: Path) -> None:
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\n# Model\n")
    assert resolve(str(folder)).license == "Apache-2.0"


def test_onnx_folder(tiny_onnx: Path) -> None:
    source = resolve(str(tiny_onnx))
    assert (source.kind, source.path, source.architecture) == ("onnx", tiny_onnx, "llama")
    with pytest.raises(ModelSourceError, match="is ONNX"):
        as_hf_folder(source)


def test_gguf_file_becomes_a_hf_folder(gguf: Path, tiny_hf: Path) -> None:
    source = resolve(str(gguf))
    assert (source.kind, source.name, source.license) == ("gguf", "tiny", "MIT")
    assert source.parameters == resolve(str(tiny_hf)).parameters
    converted = as_hf_folder(source)
    template = (converted / "chat_template.jinja").read_text()
    assert template == (tiny_hf / "chat_template.jinja").read_text()
    assert "quantization_config" not in json.loads((converted / "config.json").read_text())
    assert resolve(str(converted)).architecture == "LlamaForCausalLM"
    assert as_hf_folder(source) == converted


@pytest.mark.parametrize("kept", [3, 4, 23, 24, 100, 2000, 0.5, -1])
def test_gguf_cut(gguf: Path, tmp_path: Path, kept: float) -> None:
    data = gguf.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(data[: int(len(data) * kept) if kept == 0.5 else int(kept)])
    message = refused(cut)
    assert "cut.gguf" in message
    assert "truncated" in message or "not a GGUF file" in message


def test_gguf_with_any_byte_of_its_head_changed_never_crashes(gguf: Path, tmp_path: Path) -> None:
    data = gguf.read_bytes()
    spoilt = tmp_path / "spoilt.gguf"
    for place in range(0, 1200, 7):
        spoilt.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        if gguf_file.is_gguf(spoilt):
            try:
                gguf_file.read(spoilt)
            except ModelSourceError as error:
                assert error.hint


def test_gguf_with_a_tensor_type_of_the_future_is_not_called_damaged(
    gguf: Path, tmp_path: Path
) -> None:
    data = gguf.read_bytes()
    name = b"output_norm.weight"
    place = data.index(name) + len(name) + 4 + 8  # the number of dimensions, one dimension
    newer = tmp_path / "newer.gguf"
    newer.write_bytes(data[:place] + (99).to_bytes(4, "little") + data[place + 4 :])
    message = refused(newer)
    assert "output_norm.weight" in message
    assert "type 99, which is not supported" in message


def test_gguf_with_a_vocabulary_alone_is_refused(tiny_hf: Path, tmp_path: Path) -> None:
    bare = tiny_gguf.make_gguf(tiny_hf, tmp_path / "bare.gguf", without=("blk", "output", "token"))
    assert "a vocabulary and no weights" in refused(bare)


def test_gguf_without_one_tensor_is_refused(tiny_hf: Path, tmp_path: Path) -> None:
    file = tmp_path / "gap.gguf"
    source = resolve(str(tiny_gguf.make_gguf(tiny_hf, file, without=("blk.1.ffn_up.",))))
    with pytest.raises(ModelSourceError, match=r"missing tensors \(1\): blk.1.ffn_up.weight"):
        as_hf_folder(source)


def test_gguf_tensor_without_a_place_is_named(
    tiny_hf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bias = {"blk.0.attn_q.bias": np.ones(64, np.float32)}
    as_hf_folder(resolve(str(tiny_gguf.make_gguf(tiny_hf, tmp_path / "bias.gguf", more=bias))))
    assert "left out (1): blk.0.attn_q.bias" in capsys.readouterr().err


def test_gguf_of_an_unsupported_architecture(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "bert.gguf", "bert")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    message = refused(tmp_path / "bert.gguf")
    assert "bert" in message
    assert "qwen3" in message


def without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def changed(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def half(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def one_part_missing(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without("config.json"), ["not a model", "model.safetensors", "GGUF"]),
        (without("model.safetensors"), ["no weights", "config.json"]),
        (without("tokenizer.json"), ["no tokenizer", "tokenizer.model"]),
        (pickled, ["pytorch_model.bin", "pickle", "safetensors"]),
        (half, ["model.safetensors is damaged"]),
        (one_part_missing, ["model-2.safetensors"]),
        (no_json, ["config.json cannot be read"]),
        (changed(architectures=["BertForMaskedLM"]), ["BertForMaskedLM", "LlamaForCausalLM"]),
        (changed(architectures=None), ["(none named)"]),
        (changed(architectures=["InternLM2ForCausalLM"]), ["--trust-remote-code"]),
    ],
)
def test_spoilt_hf_folder(folder: Path, spoil: Callable[[Path], None], words: list[str]) -> None:
    spoil(folder)
    message = refused(folder)
    for word in words:
        assert word in message


def rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """Change the tensors of a folder."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


def without_one(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensors[name] for name in tensors if name != "model.layers.1.mlp.up_proj.weight"}


def gaps(folder: Path) -> str:
    """What is said about a folder's tensors; empty for nothing."""
    try:
        tensors.refuse_gaps(
            CompareTensors(folder=folder, trust_remote_code=False).run(Work()), "it"
        )
    except ModelSourceError as error:
        return str(error)
    return ""


def test_folder_without_one_tensor_is_refused(folder: Path) -> None:
    source = resolve(str(rewrite(folder, without_one)))
    with pytest.raises(ModelSourceError) as caught:
        as_hf_folder(source)
    assert "missing tensors (1): model.layers.1.mlp.up_proj.weight" in str(caught.value)


def test_tensors_without_a_place_are_named_and_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"vision.weight": np.ones(3, np.float32)}
    source = resolve(str(rewrite(folder, lambda own: {**own, **more})))
    assert as_hf_folder(source) == folder
    assert "left out (1): vision.weight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_one, ["missing tensors (1): model.layers.1.mlp.up_proj.weight"]),
        (
            lambda own: {f"lost.{name}": weight for name, weight in own.items()},
            ["missing tensors (21): lm_head", "unexpected tensors (20): lost.model.embed"],
        ),
        (
            lambda own: {**own, "model.norm.weight": np.ones(3, np.float32)},
            ["another shape (1): model.norm.weight [3] instead of [64]"],
        ),
    ],
    ids=["one missing", "another prefix", "another shape"],
)
def test_tensors_that_are_not_those_of_the_model_are_named(
    folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]], words: list[str]
) -> None:
    message = gaps(rewrite(folder, change))
    for word in words:
        assert word in message


def test_head_may_be_missing_where_it_is_tied_only(folder: Path) -> None:
    assert not gaps(folder)
    changed(tie_word_embeddings=False)(folder)
    assert "missing tensors (1): lm_head.weight" in gaps(folder)


def with_head(scale: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Give the tied model a head of its own: its embedding, times a factor."""
    return lambda own: {**own, "lm_head.weight": scale * own["model.embed_tokens.weight"]}


def logits(folder: Path) -> Any:
    """Logits of transformers for some tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder)(torch.arange(80, 90)[None]).logits


def test_head_of_the_file_is_used_although_the_configuration_ties_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool_use.jinja").write_text("{{ tools }}")
    source = resolve(str(rewrite(folder, with_head(-2.0))))
    given = json.loads((folder / "config.json").read_text())
    corrected = as_hf_folder(source)
    assert hf_folder(source, trust_remote_code=False) == corrected
    assert json.loads((corrected / "config.json").read_text()) == {
        **given,
        "tie_word_embeddings": False,
    }
    assert {path.name for path in corrected.iterdir()} == {path.name for path in folder.iterdir()}
    assert chat_templates(corrected) == chat_templates(folder)
    assert json.loads((folder / "config.json").read_text()) == given
    assert "has a head of its own" in capsys.readouterr().err
    assert (logits(corrected) == logits(folder)).all()


def test_copy_of_the_embedding_is_no_head_of_its_own(folder: Path) -> None:
    source = resolve(str(rewrite(folder, with_head(1.0))))
    assert as_hf_folder(source) == folder


@pytest.mark.parametrize("own", [True, False])
def test_gguf_has_a_head_of_its_own_or_not(tiny_hf: Path, tmp_path: Path, own: bool) -> None:
    head = -load_file(tiny_hf / "model.safetensors")["model.embed_tokens.weight"]
    more = {"output.weight": head} if own else {}
    converted = as_hf_folder(
        resolve(str(tiny_gguf.make_gguf(tiny_hf, tmp_path / "m.gguf", more=more)))
    )
    assert json.loads((converted / "config.json").read_text())["tie_word_embeddings"] is not own
    expected = -logits(tiny_hf) if own else logits(tiny_hf)
    assert abs(logits(converted) - expected).max() < 1e-5


def test_tensors_in_several_files_are_seen(folder: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(whole)
    parts = {"model-1.safetensors": names[:9], "model-2.safetensors": names[9:]}
    for file, share in parts.items():
        save_file({n: whole[n] for n in share}, folder / file, metadata={"format": "pt"})
    places = {name: file for file, share in parts.items() for name in share}
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not gaps(folder)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ("[]", "not a JSON object"),
        ("{}", "lacks a decoder"),
        ('{"model": {"decoder": 1}}', "lacks"),
    ],
)
def test_spoilt_onnx_folder(tmp_path: Path, config: str, word: str) -> None:
    (tmp_path / "genai_config.json").write_text(config)
    assert word in refused(tmp_path)


def test_onnx_folder_without_the_tokenizer_of_the_device(tiny_onnx: Path, tmp_path: Path) -> None:
    """transformers makes do with other files; the device reads this one alone."""
    folder = Path(shutil.copytree(tiny_onnx, tmp_path / "onnx"))
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    message = refused(folder)
    for word in ("no tokenizer.json", "tokenizer.model", "save_pretrained"):
        assert word in message


def test_onnx_folder_without_its_graph(tmp_path: Path) -> None:
    (tmp_path / "genai_config.json").write_text('{"model": {"decoder": {"filename": "m.onnx"}}}')
    assert "m.onnx is missing" in refused(tmp_path)


@pytest.mark.parametrize("lost", ["vision.onnx", "embedding.onnx", "processor_config.json"])
def test_onnx_folder_that_sees_without_one_of_its_files(
    seeing_onnx: Path, tmp_path: Path, lost: str
) -> None:
    folder = Path(shutil.copytree(seeing_onnx, tmp_path / "onnx"))
    assert resolve(str(folder)).architecture == "phi3v"
    (folder / lost).unlink()
    message = refused(folder)
    assert lost in message
    assert "missing" in message


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"type": "whatever"}, "type 'whatever' that see"),
        ({"vision": {"filename": "vision.onnx", "config_filename": "../c.json"}}, "../c.json"),
        ({"vision": {"filename": "../vision.onnx"}}, "outside its folder"),
        ({"vision": 1}, "image transforms is missing"),
    ],
)
def test_onnx_folder_that_sees_with_a_spoilt_configuration(
    seeing_onnx: Path, tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    folder = Path(shutil.copytree(seeing_onnx, tmp_path / "onnx"))
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"] |= change
    (folder / "genai_config.json").write_text(json.dumps(config))
    assert word in refused(folder)


def test_unknown_name_and_path(tmp_path: Path) -> None:
    assert "Did you mean smollm2-135m?" in refused("smollm2-135")
    assert "missing" in refused(tmp_path / "missing")
    (tmp_path / "text.txt").write_text("hello")
    assert "not a GGUF file" in refused(tmp_path / "text.txt")


@pytest.mark.slow
def test_default_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPACK_CACHE")
    source = resolve(catalog.DEFAULT_MODEL)
    assert (source.kind, source.parameters) == ("gguf", 134_515_008)
    found = gguf_file.read(source.path)
    assert found.parameters == source.parameters
    assert (as_hf_folder(source) / "chat_template.jinja").is_file()
