"""Fine-tunes: adapters merged before the model is built, and those that cannot be."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from packager import adapter, cache
from packager.errors import ModelSourceError
from packager.models import source
from tests.support import quantized, tiny_adapter, tiny_model
from tests.support.commands import edgepack_quickly, refused

pytestmark = pytest.mark.usefixtures("jobs_here")

PROMPT = "Once upon a time"
TOKENS = 24


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEPACK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def lora(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write into it."""
    return tiny_adapter.make(tiny_hf, tmp_path_factory.mktemp("adapter") / "polite")


def says(model: Any, tokenizer: Any) -> list[int]:
    """What a transformers model continues the prompt with, greedily."""
    tokens = tokenizer(PROMPT, return_tensors="pt")
    out = model.generate(
        **tokens, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, use_cache=True
    )
    return list(map(int, out[0, tokens["input_ids"].shape[1] :]))


def with_adapter(base: Path, folder: Path) -> list[int]:
    """What transformers and PEFT make of the model and the adapter, merged by them."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT asks for what transformers has renamed, and more
        merged = PeftModel.from_pretrained(model, folder).merge_and_unload()
    return says(merged, AutoTokenizer.from_pretrained(base))


def alone(base: Path) -> list[int]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return says(model, AutoTokenizer.from_pretrained(base))


def onnx_says(folder: Path) -> list[int]:
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    tokens = og.Tokenizer(model).encode(PROMPT)
    params = og.GeneratorParams(model)
    length = len(tokens) + TOKENS
    params.set_search_options(do_sample=False, min_length=length, max_length=length)
    generator = og.Generator(model, params)
    generator.append_tokens(tokens)
    while not generator.is_done():
        generator.generate_next_token()
    return list(map(int, generator.get_sequence(0)[len(tokens) :]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True, "r": 8},
        {"modules_to_save": ["norm", "lm_head"]},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 16}},
    ],
    ids=["lora", "dora", "rslora", "modules-to-save", "patterns"],
)
def test_built_model_says_what_the_merged_one_says(
    tiny_hf: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    folder = tiny_adapter.make(tiny_hf, tmp_path / "tuned", **options)
    merged = adapter.merge(source.resolve(str(tiny_hf)), folder)
    onnx = tiny_model.make_onnx(merged.path, tmp_path / "onnx", tmp_path / "work")
    expected = with_adapter(tiny_hf, folder)
    assert onnx_says(onnx) == expected
    assert expected != alone(tiny_hf), "the adapter has no effect: the test shows nothing"


def test_merged_source_is_named_and_has_a_digest_of_its_own(
    tiny_hf: Path, lora: Path, tmp_path: Path
) -> None:
    base = source.resolve(str(tiny_hf))
    merged = adapter.merge(base, lora)
    assert merged.name == f"{base.name}+polite"
    assert "adapter: polite" in merged.origin
    assert str(tmp_path) not in merged.origin
    assert (merged.kind, merged.parameters) == ("hf", base.parameters)
    again = adapter.merge(base, lora)
    assert again == merged
    other = tiny_adapter.make(tiny_hf, tmp_path / "polite", lora_alpha=16)
    assert len({base.digest, merged.digest, adapter.merge(base, other).digest}) == 3


def test_base_model_with_quantized_weights(tiny_hf: Path, lora: Path, tmp_path: Path) -> None:
    base = quantized.fp8(tiny_hf, tmp_path / "fp8", 32)
    merged = adapter.merge(source.resolve(str(base)), lora)
    assert source.as_hf_folder(merged) == merged.path


def test_tokenizer_and_license_beside_the_adapter_are_taken(
    tiny_hf: Path, lora: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(lora, tmp_path / "polite")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_hf / name, folder / name)
    (folder / "chat_template.jinja").write_text("{{ 'other' }}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    merged = adapter.merge(source.resolve(str(tiny_hf)), folder)
    assert (merged.path / "chat_template.jinja").read_text() == "{{ 'other' }}"
    assert merged.license == "Apache-2.0"
    assert adapter.digest(folder) != adapter.digest(lora)


@pytest.mark.slow
def test_build_with_an_adapter(tiny_hf: Path, lora: Path, tmp_path: Path) -> None:
    outcome = edgepack_quickly(
        *("build", "--profile", "mobile", "--model", tiny_hf, "--adapter", lora, "--json"),
        *("--recipe", "int4-rtn", "--allow-quality-loss"),
        *("-o", tmp_path / "m.epk"),
        cache=tmp_path / "cache",
    )
    assert outcome.status == 0, outcome.err
    manifest = json.loads(outcome.out)["manifest"]
    assert manifest["model"]["name"].endswith("+polite")
    assert "polite" in manifest["id"]
    # The report tells how to make it again.
    assert f"--adapter {lora}" in (tmp_path / "m.report.html").read_text()


def merging_fails(base: Path, folder: Path, *words: str) -> None:
    with pytest.raises(ModelSourceError) as caught:
        adapter.merge(source.resolve(str(base)), folder)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.hint
    merged = cache.root() / "merged"
    assert not merged.exists() or not [p for p in merged.iterdir() if p.suffix != ".lock"]


def changed(lora: Path, folder: Path, **values: Any) -> Path:
    """A copy of an adapter with other values in its configuration."""
    shutil.copytree(lora, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | values))
    return folder


def resized(hf: Path, folder: Path, **sizes: int) -> Path:
    """A model of other sizes, with the tokenizer of the tiny one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(hf, folder)
    LlamaForCausalLM(LlamaConfig.from_pretrained(hf, **sizes)).save_pretrained(folder)
    return folder


def test_folder_that_is_not_an_adapter(tiny_hf: Path, tmp_path: Path) -> None:
    merging_fails(tiny_hf, tiny_hf, "is not an adapter", "config.json")
    merging_fails(tiny_hf, tmp_path / "missing", "does not exist")


def test_damaged_configuration(tiny_hf: Path, lora: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(lora, tmp_path / "bad")
    (folder / "adapter_config.json").write_text("{")
    merging_fails(tiny_hf, folder, "cannot be read")
    (folder / "adapter_config.json").write_text("[]")
    merging_fails(tiny_hf, folder, "cannot be read")


def test_damaged_weights(tiny_hf: Path, lora: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(lora, tmp_path / "cut")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    merging_fails(tiny_hf, folder, "adapter_model.safetensors is damaged: ", "its header implies")


def test_adapter_of_another_kind(tiny_hf: Path, lora: Path, tmp_path: Path) -> None:
    folder = changed(lora, tmp_path / "other", peft_type="PROMPT_TUNING")
    merging_fails(tiny_hf, folder, "PROMPT_TUNING")


def test_pickled_weights(tiny_hf: Path, lora: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(lora, tmp_path / "pickled")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    merging_fails(tiny_hf, folder, "adapter_model.bin", "can run code")


def test_adapter_for_another_base_model(tiny_hf: Path, lora: Path, tmp_path: Path) -> None:
    """Another width, and other names of the modules."""
    wider = resized(tiny_hf, tmp_path / "wider", hidden_size=96)
    merging_fails(wider, lora, "does not fit", "size mismatch")
    renamed = changed(lora, tmp_path / "renamed", target_modules=["query_key_value"])
    merging_fails(tiny_hf, renamed, "does not fit", "query_key_value")


def test_adapter_for_a_deeper_model(tiny_hf: Path, lora: Path, tmp_path: Path) -> None:
    """All shapes fit, but some of its weights have no place: they must not be dropped silently."""
    shallow = resized(tiny_hf, tmp_path / "shallow", num_hidden_layers=1)
    merging_fails(shallow, lora, "layers.1")
    deep = resized(tiny_hf, tmp_path / "deep", num_hidden_layers=3)
    merging_fails(deep, lora, "incomplete", "layers.2")


def test_rank_that_is_not_that_of_the_weights(tiny_hf: Path, lora: Path, tmp_path: Path) -> None:
    merging_fails(tiny_hf, changed(lora, tmp_path / "rank", r=8), "does not fit", "size mismatch")


def test_adapter_of_one_of_two_tied_matrices(tiny_hf: Path, tmp_path: Path) -> None:
    """Saved as one matrix again, the model would say something else."""
    folder = tiny_adapter.make(tiny_hf, tmp_path / "head", target_modules=["lm_head"])
    merging_fails(tiny_hf, folder, "tied")


def test_model_that_came_as_onnx(tiny_onnx: Path, lora: Path) -> None:
    merging_fails(tiny_onnx, lora, "is ONNX")


@pytest.mark.slow
def test_command_line_refuses_it_before_anything_is_built(tiny_hf: Path, tmp_path: Path) -> None:
    outcome = edgepack_quickly(
        *("build", "--profile", "mobile", "--model", tiny_hf, "--adapter", tiny_hf),
        *("-o", tmp_path / "m.epk"),
        cache=tmp_path / "cache",
    )
    refused(outcome, 4, "not an adapter", "adapter_config.json")
    assert not (tmp_path / "m.epk").exists()
