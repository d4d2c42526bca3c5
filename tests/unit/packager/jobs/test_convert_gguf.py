"""A GGUF file becomes a Hugging Face folder, some layers at a time."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers.integrations.gguf.utils import is_gguf_arch_supported

from packager.jobs import convert_gguf
from packager.jobs.convert_gguf import AT_ONCE
from packager.models.catalog import GGUF_ARCHITECTURES
from packager.weights import checkpoint
from tests.support import tiny_gguf


def convert(file: Path, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the folder."""
    folder.mkdir()
    tiny_gguf.convert(file, folder)
    found: dict[str, torch.Tensor] = {}
    for path in checkpoint.files(folder):
        with safe_open(path, framework="pt") as stored:
            found |= {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    return found


def test_parts_are_the_whole(
    tiny_hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tiny_gguf.make_gguf(tiny_hf, tmp_path / "m.gguf", types={"q_proj": "Q8_0"})
    whole = convert(file, tmp_path / "whole")
    monkeypatch.setattr(convert_gguf, "PART", 1)
    parts = convert(file, tmp_path / "parts")
    assert len(checkpoint.files(tmp_path / "whole")) == 1
    assert len(checkpoint.files(tmp_path / "parts")) > 2
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with safe_open(tiny_hf / "model.safetensors", framework="pt") as stored:
        assert set(stored.keys()) == set(whole)
        name = "model.layers.0.mlp.up_proj.weight"
        assert torch.equal(whole[name], stored.get_tensor(name).float())


def test_which_architectures_transformers_reads_at_once() -> None:
    assert {name for name in GGUF_ARCHITECTURES if is_gguf_arch_supported(name)} == AT_ONCE
