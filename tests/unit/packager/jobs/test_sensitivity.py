"""Costs of linear layers, found layer by layer: those of the whole model at once, and resumable."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from packager.jobs.calibrate import Calibrate
from packager.jobs.job import Work
from packager.jobs.sensitivity import WINDOWS, Differentiate
from packager.weights import stored
from packager.weights.layerwise import LayerwiseModel
from tests.support import families
from tests.support.families.models import FAMILIES
from tests.support.families.variants import OTHERS

LENGTH = 80
"""Tokens of a window: more than the rows of logits that are in memory at a time."""


def _differentiate(family: str, folder: Path) -> Differentiate:
    source = families.make_hf({**FAMILIES, **OTHERS}[family], folder / "hf")
    windows, calibrated = folder / "windows.npy", folder / "calibrated"
    generator = torch.Generator().manual_seed(0)
    np.save(windows, torch.randint(10, 40, (8, LENGTH), generator=generator).numpy())
    calibrated.mkdir()
    Calibrate(source=source, windows=windows, block_size=16).run(Work(calibrated))
    return Differentiate(source=source, windows=windows, calibrated=calibrated)


def _whole(job: Differentiate) -> dict[tuple[int, str], float]:
    """Find the costs with the whole model in memory, differentiated at once."""
    from transformers import AutoModelForCausalLM

    original, model = (
        AutoModelForCausalLM.from_pretrained(job.source, dtype=torch.float32).eval()
        for _ in range(2)
    )
    shares: dict[tuple[int, str], float] = {}

    def watch(place: tuple[int, str], linear: torch.nn.Linear, weight: torch.Tensor) -> None:
        def see(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            error = inputs[0].detach() @ (linear.weight - weight).T

            def add(gradient: torch.Tensor) -> None:
                shares[place] = shares.get(place, 0.0) + float((gradient * error).sum()) / 2

            if output.requires_grad:
                output.register_hook(add)  # type: ignore[no-untyped-call]

        linear.register_forward_hook(see)

    for number, layer in enumerate(model.get_decoder().layers):
        for name, linear in layer.named_modules():
            if isinstance(linear, torch.nn.Linear):
                weight = linear.weight.detach().clone()
                linear.weight.data = stored.load(job.calibrated, number, name).dequantize()
                watch((number, name), linear, weight)
    place = (-1, stored.HEAD)
    shares[place] = 0.0
    outer = stored.load(job.calibrated, None, stored.HEAD).dequantize()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding.weight is head.weight:
        embedding.weight = torch.nn.Parameter(outer)

        def see(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            error = output.detach() - original.get_input_embeddings()(inputs[0]).detach()

            def add(gradient: torch.Tensor) -> None:
                shares[place] += float((gradient * error).sum()) / 2

            if output.requires_grad:
                output.register_hook(add)  # type: ignore[no-untyped-call]

        embedding.register_forward_hook(see)
    windows = torch.from_numpy(np.load(job.windows))[::2]
    assert len(windows) == WINDOWS
    for window in windows:
        with torch.no_grad():
            p = torch.log_softmax(original(window[None]).logits[0, :-1], -1)
        q = torch.log_softmax(model(window[None]).logits[0, :-1], -1)
        loss = (p.exp() * (p - q)).sum(-1).mean() / len(windows)
        loss.backward()  # type: ignore[no-untyped-call]
        q = q.detach()
        float_head, head.weight.data = head.weight.data, outer
        with torch.no_grad():
            both = torch.log_softmax(model(window[None]).logits[0, :-1], -1)
        head.weight.data = float_head
        shares[place] += float((q.exp() * (q - both)).sum(-1).mean()) / len(windows)
    return shares


@pytest.mark.parametrize("family", ["Llama 2", "Gemma 2", "Phi-3.5", "Phi"])
@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
def test_costs_are_those_of_the_whole_model(family: str, tmp_path: Path) -> None:
    job = _differentiate(family, tmp_path)
    folder = tmp_path / "work"
    folder.mkdir()
    steps: list[int] = []
    costs = job.run(Work(folder, steps.append))
    expected = _whole(job)
    assert {(cost.layer, cost.name) for cost in costs} == set(expected)
    largest = max(map(abs, expected.values()))
    for cost in costs:
        assert cost.cost == pytest.approx(
            expected[cost.layer, cost.name], rel=1e-4, abs=1e-6 * largest
        )
    assert steps == [1] * 2 * len({cost.layer for cost in costs if cost.layer >= 0})


class _StopError(Exception):
    pass


def _stop_after(steps: int) -> Callable[[int], None]:
    left = steps

    def advance(_amount: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise _StopError

    return advance


@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
def test_interrupted_run_continues_with_the_layer_it_was_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _differentiate("Llama 2", tmp_path)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = job.run(Work(whole))
    # Up through two layers, and down through the upper one.
    for steps in (1, 3):
        with pytest.raises(_StopError):
            job.run(Work(parts, _stop_after(steps)))
    loaded: list[int] = []
    layer = LayerwiseModel.layer

    def noted(self: LayerwiseModel, index: int) -> Any:
        loaded.append(index)
        return layer(self, index)

    monkeypatch.setattr(LayerwiseModel, "layer", noted)
    assert job.run(Work(parts)) == expected
    assert loaded == [0], "only what was left is done"
