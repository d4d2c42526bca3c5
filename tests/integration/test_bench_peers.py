"""The bench's contestants that need nothing but this environment, with the tiny model."""

import sys
from pathlib import Path

import pytest

from scripts.bench.protocol import Contestant

PROMPT = list(range(70, 100))


@pytest.mark.parametrize("module", ["edgepack_peer", "genai_peer", "torch_peer"])
def test_contestant_continues_a_prompt(module: str, tiny_onnx: Path, tiny_hf: Path) -> None:
    folder = tiny_hf if module == "torch_peer" else tiny_onnx
    with Contestant(module, [sys.executable, "-m", f"scripts.bench.{module}"]) as contestant:
        contestant.load(folder, 256, 1)
        # The second time, nothing of the prompt is cached.
        runs = [contestant.run(PROMPT, 8) for _ in range(2)]
    for run in runs:
        assert run.tokens == 8
        assert run.first_s > 0
        assert run.decode_s > 0
