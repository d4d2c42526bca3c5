"""Metadata of GGUF files that changes the model's results: honoured, or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from packager.errors import ModelSourceError
from packager.models import gguf_config
from packager.models.catalog import GGUF_ARCHITECTURES
from packager.models.gguf import GgufFile
from packager.models.source import as_hf_folder, resolve
from tests.support import tiny_gguf
from tests.support.sources import refused

pytestmark = pytest.mark.usefixtures("own_cache", "jobs_here")

USUAL: dict[str, Any] = {
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "block_count": 4,
    "context_length": 512,
    "embedding_length": 64,
    "feed_forward_length": 128,
    "rope.freq_base": 10000.0,
    "vocab_size": 100,
}


def fields(architecture: str, **keys: Any) -> dict[str, Any]:
    values = {**USUAL, **{key.replace("__", "."): value for key, value in keys.items()}}
    metadata = {f"{architecture}.{key}": value for key, value in values.items()}
    metadata["general.architecture"] = architecture
    header = GgufFile(metadata=metadata, parameters=0, tensors=frozenset(), types={})
    return gguf_config.fields(header)


FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("architecture", "keys", "expected"),
    [
        ("llama", {"rope__dimension_count": 16, "attention__key_length": 16}, {"head_dim": 16}),
        ("llama", {"attention__key_length": 32, "rope__dimension_count": 32}, {"head_dim": 32}),
        ("llama", {"rope__dimension_count": 32}, {}),
        ("qwen3", {"attention__key_length": 128}, {"head_dim": 128}),
        ("qwen2", {"attention__key_length": 16}, {}),
        ("phi3", {"attention__sliding_window": 2047}, {"sliding_window": 2047}),
        ("phi3", {"attention__sliding_window": 0}, {"sliding_window": None}),
        ("phi3", {"rope__dimension_count": 12}, {"partial_rotary_factor": 0.75}),
        ("nemotron", {"rope__dimension_count": 8}, {"partial_rotary_factor": 0.5}),
        ("nemotron", {"attention__layer_norm_epsilon": 1e-3}, {"norm_eps": 1e-3}),
        ("gpt-oss", {"attention__sliding_window": 64}, {"sliding_window": 64}),
        ("gemma2", {"final_logit_softcapping": 20.0}, {"final_logit_softcapping": 20.0}),
        ("gemma2", {"attn_logit_softcapping": 40.0}, {"attn_logit_softcapping": 40.0}),
        ("gemma2", {"attention__key_length": 32}, {"query_pre_attn_scalar": 32}),
        (
            "gemma2",
            {"attention__key_length": 32, "block_count": 46},
            {"query_pre_attn_scalar": 16},
        ),
        ("gemma2", {}, {"layer_types": [SLIDING, FULL] * 2}),
        ("gemma3", {}, {"layer_types": [FULL] * 4}),
        ("gemma3", {"attention__sliding_window": 32}, {"layer_types": [SLIDING] * 4}),
        (
            "gemma3",
            {"attention__sliding_window": 32, "attention__sliding_window_pattern": 3},
            {"layer_types": [SLIDING, SLIDING, FULL, SLIDING]},
        ),
        (
            "gemma3",
            {
                "attention__sliding_window": 32,
                "attention__sliding_window_pattern": (True, False, False, True),
            },
            {"layer_types": [SLIDING, FULL, FULL, SLIDING]},
        ),
        ("gemma3", {"rope__freq_base_swa": 5000.0}, {"rope_local_base_freq": 5000.0}),
        ("gemma3", {"final_logit_softcapping": 30.0}, {"final_logit_softcapping": 30.0}),
        ("llama", {"logit_scale": 1.0, "expert_count": 0, "attention__causal": True}, {}),
    ],
)
def test_keys_become_fields_of_the_configuration(
    architecture: str, keys: dict[str, Any], expected: dict[str, Any]
) -> None:
    read = fields(architecture, **keys)
    assert {name: read[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("architecture", "keys", "name"),
    [
        ("llama", {"logit_scale": 0.25}, "llama.logit_scale"),
        ("llama", {"residual_scale": 0.2}, "llama.residual_scale"),
        ("llama", {"embedding_scale": 12.0}, "llama.embedding_scale"),
        ("llama", {"attention__scale": 0.01}, "llama.attention.scale"),
        ("llama", {"attention__clamp_kqv": 8.0}, "llama.attention.clamp_kqv"),
        ("llama", {"attention__causal": False}, "llama.attention.causal"),
        ("llama", {"expert_count": 8}, "llama.expert_count"),
        ("llama", {"attention__sliding_window": 4096}, "llama.attention.sliding_window"),
        ("llama", {"final_logit_softcapping": 30.0}, "llama.final_logit_softcapping"),
        ("llama", {"of.the.future": 3}, "llama.of.the.future"),
        (
            "llama",
            {"attention__key_length": 16, "rope__dimension_count": 8},
            "llama.rope.dimension_count = 8 of 16",
        ),
        ("llama", {"attention__value_length": 8}, "llama.attention.value_length"),
        ("llama", {"block_count": 1 << 31}, "llama.block_count"),
        ("llama", {"embedding_length": 0}, "llama.embedding_length"),
        ("llama", {"attention__head_count": (4, 4, 2, 2)}, "llama.attention.head_count"),
        ("qwen2", {"attention__key_length": 32}, "qwen2.attention.key_length"),
        ("qwen3", {"rope__dimension_count": 8}, "qwen3.rope.dimension_count"),
        ("gemma2", {"rope__freq_base_swa": 5000.0}, "gemma2.rope.freq_base_swa"),
        (
            "gemma2",
            {"attention__sliding_window_pattern": (True,)},
            "gemma2.attention.sliding_window_pattern",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    architecture: str, keys: dict[str, Any], name: str
) -> None:
    with pytest.raises(ModelSourceError, match=name.replace(".", r"\.")) as caught:
        fields(architecture, **keys)
    assert caught.value.hint


@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
@pytest.mark.parametrize("architecture", GGUF_ARCHITECTURES)
def test_transformers_has_these_fields(architecture: str) -> None:
    """A field of another name would be set and have no effect."""
    import transformers

    model = getattr(transformers, GGUF_ARCHITECTURES[architecture])
    config = model.config_class()
    names = {*fields(architecture), *gguf_config.FIELDS.get(architecture, {}).values()}
    for name in names - {"partial_rotary_factor", "rope_local_base_freq"}:
        assert hasattr(config, name), name
    if "partial_rotary_factor" in names:
        assert "partial_rotary_factor" in config.rope_parameters
    if architecture == "gemma3":
        assert "rope_theta" in config.rope_parameters["sliding_attention"]


def test_file_with_such_a_key_is_refused_or_converted(tiny_hf: Path, tmp_path: Path) -> None:
    file = tiny_gguf.make_gguf(tiny_hf, tmp_path / "scaled.gguf", keys={"logit_scale": 0.25})
    assert "llama.logit_scale = 0.25" in refused(file)
    file = tiny_gguf.make_gguf(
        tiny_hf,
        tmp_path / "wide.gguf",
        keys={"attention.key_length": 16, "attention.value_length": 16},
    )
    converted = as_hf_folder(resolve(str(file)))
    assert json.loads((converted / "config.json").read_text())["head_dim"] == 16
