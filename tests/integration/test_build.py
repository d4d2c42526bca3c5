"""Building a bundle of a tiny model, as a user sees it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from device_runtime.bundle.reader import open_bundle
from device_runtime.inference.engine import GenerationRequest
from device_runtime.inference.genai_engine import GenAIEngine
from device_runtime.processor import HALF_GRAPH
from packager.errors import QuantizeError
from packager.jobs.harness import run_job
from packager.quantize import builder
from tests.support import tiny_model
from tests.support.commands import Outcome, edgepack, edgepack_quickly
from tests.support.graphs import linear_bits


def build(
    cache: Path,
    model: Path,
    profile: str,
    output: Path,
    *more: str,
    command: Callable[..., Outcome] = edgepack_quickly,
) -> dict[str, Any]:
    arguments: list[str | Path] = ["build", "--profile", profile, "--model", model, "-o", output]
    outcome = command(*arguments, "--json", *more, cache=cache)
    assert outcome.status == 0, outcome.err
    result: dict[str, Any] = json.loads(outcome.out)
    return result


def unpacked(bundle: Path, folder: Path) -> Path:
    folder.mkdir()
    with open_bundle(bundle) as opened:
        return opened.unpack(folder).model_folder


def test_mobile_is_int4_model_only_and_generates(
    cache: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    result = build(cache, tiny_hf, "mobile", tmp_path / "m.epk")
    manifest = result["manifest"]
    assert manifest["kit"] is None
    quantization = manifest["quantization"]
    assert quantization["operators"]["MatMulNBits"] > 0
    assert quantization["options"]["accuracy_level"] == "4"
    assert len(quantization["answers"]) == 6
    assert all(one["reference"] and one["quantized"] for one in quantization["answers"])
    assert {record["component"] for record in manifest["records"]} == {"model", "tokenizer"}

    import onnxruntime_genai as og

    model = og.Model(str(unpacked(tmp_path / "m.epk", tmp_path / "release")))
    tokenizer = og.Tokenizer(model)
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=32)
    generator = og.Generator(model, params)
    generator.append_tokens(tokenizer.encode("hello"))
    for _ in range(4):
        generator.generate_next_token()
    assert generator.token_count() == len("hello") + 4


def test_builder_reports_each_layer_and_ends_tables_at_the_context(
    tiny_hf: Path, tmp_path: Path
) -> None:
    import onnx

    job = builder.job(
        tiny_hf,
        precision="fp32",
        execution_provider="cpu",
        options={},
        trust_remote_code=False,
        positions=48,
    )
    layers: list[int] = []
    (tmp_path / "onnx").mkdir()
    run_job(
        job, tmp_path / "onnx", what="Trying", error=QuantizeError, hint="", advance=layers.append
    )
    config = json.loads((tiny_hf / "config.json").read_text())
    assert layers == [1] * config["num_hidden_layers"]
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]
    built = json.loads((tmp_path / "onnx/genai_config.json").read_text())
    assert built["model"]["context_length"] == 48 < config["max_position_embeddings"]
    graph = onnx.load(str(tmp_path / "onnx/model.onnx"), load_external_data=False).graph
    rows = {t.name: t.dims[0] for t in graph.initializer if t.name in ("cos_cache", "sin_cache")}
    assert rows == {"cos_cache": 48, "sin_cache": 48}


def test_jetson_model_only_has_int4_cuda_graph(cache: Path, tiny_hf: Path, tmp_path: Path) -> None:
    import onnx

    build(cache, tiny_hf, "jetson-orin-cuda", tmp_path / "j.epk", "--model-only")
    model = unpacked(tmp_path / "j.epk", tmp_path / "release")
    config = json.loads((model / "genai_config.json").read_text())
    (provider,) = config["model"]["decoder"]["session_options"]["provider_options"]
    assert list(provider) == ["cuda"]
    graph = onnx.load(str(model / "model.onnx")).graph
    assert linear_bits(graph) == {4}


def test_gpu_model_has_two_graphs_with_the_same_weights(
    cache: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    import onnx

    result = build(cache, tiny_hf, "x86_64-gpu", tmp_path / "g.epk", "--model-only")
    quantization = result["manifest"]["quantization"]
    assert quantization["execution_provider"] == "webgpu"
    assert quantization["quality"] is not None
    model = unpacked(tmp_path / "g.epk", tmp_path / "release")
    config = json.loads((model / "genai_config.json").read_text())
    assert config["model"]["decoder"]["session_options"]["provider_options"] == []
    places, floats = [], []
    for name in ("model.onnx", HALF_GRAPH):
        graph = onnx.load(str(model / name), load_external_data=False).graph
        places.append(
            {
                tensor.name: [(entry.key, entry.value) for entry in tensor.external_data]
                for tensor in graph.initializer
                if tensor.name.endswith(("qweight", "scales", "zeros"))
            }
        )
        floats.append({value.type.tensor_type.elem_type for value in graph.output})
    assert places[0] == places[1] != {}
    assert floats == [{onnx.TensorProto.FLOAT}, {onnx.TensorProto.FLOAT16}]
    tokens = [greedy(model, name) for name in ("model.onnx", HALF_GRAPH)]
    assert tokens[0] == tokens[1]


def greedy(folder: Path, graph: str) -> list[int]:
    """Some tokens by a graph of a folder, on the CPU."""
    import onnxruntime_genai as og

    config = og.Config(str(folder))
    config.overlay(json.dumps({"model": {"decoder": {"filename": graph}}}))
    model = og.Model(config)
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=24, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(og.Tokenizer(model).encode("hello"))
    for _ in range(8):
        generator.generate_next_token()
    tokens: list[int] = generator.get_sequence(0).tolist()
    return tokens


def test_gpu_model_without_half_precision_has_one_graph(
    cache: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('extends = "x86_64-gpu"\n[quantization]\nuse_webgpu_fp32 = true\n')
    build(cache, tiny_hf, str(mine), tmp_path / "g.epk", "--model-only")
    model = unpacked(tmp_path / "g.epk", tmp_path / "release")
    assert [path.name for path in model.glob("*.onnx")] == ["model.onnx"]


def test_windows_dml_gives_a_model_for_directml(cache: Path, tiny_hf: Path, tmp_path: Path) -> None:
    import onnx

    manifest = build(cache, tiny_hf, "windows-dml", tmp_path / "w.epk")["manifest"]
    assert manifest["kit"] is None
    assert manifest["quantization"]["execution_provider"] == "dml"
    model = unpacked(tmp_path / "w.epk", tmp_path / "release")
    config = json.loads((model / "genai_config.json").read_text())
    (provider,) = config["model"]["decoder"]["session_options"]["provider_options"]
    assert list(provider) == ["dml"]
    graph = onnx.load(str(model / "model.onnx")).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("MatMulNBits") > 0
    assert operators.count("GroupQueryAttention") == 2
    # DirectML has no attention that turns queries and keys itself.
    assert operators.count("RotaryEmbedding") == 4
    kinds = {value.type.tensor_type.elem_type for value in graph.output}
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_context_and_settings_come_from_the_profile(
    cache: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'extends = "mobile"\nname = "mine"\ncontext_length = 128\nmax_tokens = 100\n'
        "min_tokens_per_s = 3\n"
    )
    manifest = build(cache, tiny_hf, str(mine), tmp_path / "b.epk")["manifest"]
    assert manifest["context_length"] == 128
    assert manifest["settings"]["max_tokens"] == 100
    assert manifest["settings"]["min_tokens_per_s"] == 3
    assert manifest["profile"] == "mine"
    model = unpacked(tmp_path / "b.epk", tmp_path / "release")
    config = json.loads((model / "genai_config.json").read_text())
    assert config["search"]["max_length"] == 128


def test_same_inputs_give_the_same_bytes_without_the_cache_too(
    cache: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    first = build(cache, tiny_hf, "mobile", tmp_path / "1.epk", command=edgepack)
    again = build(cache, tiny_hf, "mobile", tmp_path / "2.epk", command=edgepack)
    other = tmp_path / "other-cache"
    fresh = build(other, tiny_hf, "mobile", tmp_path / "3.epk", command=edgepack)
    assert first["digest"] == again["digest"] == fresh["digest"]
    assert (tmp_path / "1.epk").read_bytes() == (tmp_path / "2.epk").read_bytes()
    assert (tmp_path / "1.epk").read_bytes() == (tmp_path / "3.epk").read_bytes()


def test_onnx_folder_is_packaged_as_it_is(cache: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    manifest = build(cache, tiny_onnx, "mobile", tmp_path / "b.epk")["manifest"]
    assert manifest["quantization"]["recipe"] == "as-is"
    model = unpacked(tmp_path / "b.epk", tmp_path / "release")
    for name in ("model.onnx", "model.onnx.data", "tokenizer.json"):
        assert (model / name).read_bytes() == (tiny_onnx / name).read_bytes()


def test_bundle_is_signed_unless_the_user_says_otherwise(
    cache: Path, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPACK_KEYS", str(tmp_path / "keys"))
    bundle = tmp_path / "b.epk"
    signed = build(cache, tiny_onnx, "mobile", bundle)["signed_with"]
    done = edgepack("verify", bundle, "--key", "default", "--json")
    assert json.loads(done.out)["signatures"] == {signed[0]: "default"}
    first = bundle.read_bytes()
    assert build(cache, tiny_onnx, "mobile", bundle)["signed_with"] == signed
    assert bundle.read_bytes() == first
    assert build(cache, tiny_onnx, "mobile", bundle, "--no-sign")["signed_with"] == []
    assert edgepack("verify", bundle, "--key", "default").status == 7


def test_bundle_that_changes_the_keys_of_its_devices(
    cache: Path, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPACK_KEYS", str(tmp_path / "keys"))
    (tmp_path / "passphrase").write_text("long enough")
    monkeypatch.setenv("EDGEPACK_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    ids = []
    for name in ("old", "new"):
        key = json.loads(edgepack("keys", "generate", name, "--json").out)
        ids.append(key["id"])
    options = ("--sign-key", "old", "--trust-key", "new", "--revoke-key", ids[0])
    result = build(cache, tiny_onnx, "mobile", tmp_path / "b.epk", *options)
    assert result["signed_with"] == [ids[0]]
    new = (tmp_path / "keys/new.pem").read_text()
    assert result["manifest"]["trust"] == {"add": [new], "revoke": [ids[0]]}


def test_model_that_is_sure_of_its_tokens_gets_a_probe(
    cache: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    assert build(cache, tiny_onnx, "mobile", tmp_path / "b.epk")["manifest"]["probe"] is None
    hf = tiny_model.make_hf(tmp_path / "hf", sure=1000.0)
    onnx = tiny_model.make_onnx(hf, tmp_path / "onnx", tmp_path / "work")
    probe = build(cache, onnx, "mobile", tmp_path / "c.epk")["manifest"]["probe"]
    assert probe["prompt"]
    engine = GenAIEngine(onnx, context_length=128, threads=1)
    request = GenerationRequest(prompt=probe["prompt"], max_tokens=16, logprobs=0)
    chunks = engine.generate(request, lambda: False)
    tokens = [part.token for chunk in chunks for part in chunk.logprobs]
    assert len(tokens) == 16
    assert tokens == probe["tokens"]


def test_sbom_is_valid_cyclonedx(cache: Path, tiny_hf: Path, tmp_path: Path) -> None:
    build(cache, tiny_hf, "mobile", tmp_path / "b.epk")
    with open_bundle(tmp_path / "b.epk") as bundle:
        text = bundle.sbom.decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    kinds = {component["type"] for component in json.loads(text)["components"]}
    assert "machine-learning-model" in kinds


def test_inspect_and_verify(cache: Path, tiny_hf: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.epk"
    digest = build(cache, tiny_hf, "mobile", path)["digest"]
    shown = edgepack("inspect", path)
    assert shown.status == 0
    for word in (digest[:20], "LlamaForCausalLM", "int4", "tokenizer", "capital of France"):
        assert word in shown.out
    told = json.loads(edgepack("inspect", path, "--json").out)
    assert told["digest"] == digest
    compared = told["manifest"]["quantization"]["tokenizer"]
    assert (compared["texts"], compared["texts_differing"]) == (2000, 0)
    verified = edgepack("verify", path)
    assert verified.status == 0
    assert digest in verified.out
    assert json.loads(edgepack("verify", path, "--json").out)["ok"] is True


def test_name_of_the_bundle_is_made_from_model_version_and_profile(
    cache: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    outcome = edgepack(
        *("build", "--profile", "mobile", "--model", tiny_hf, "--bundle-version", "2.1.0"),
        cache=cache,
        cwd=tmp_path,
    )
    assert outcome.status == 0, outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "hf-2.1.0-mobile.epk",
        "hf-2.1.0-mobile.epk.provenance.json",
        "hf-2.1.0-mobile.report.html",
    ]
    assert "hf-2.1.0-mobile.epk" in outcome.out
