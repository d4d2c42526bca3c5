"""Weights that do not fit in memory: which stay, which pass, and that results do not change."""

import os
import re
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from packager.weights import mapped
from packager.weights.mapped import MappedLayers
from tests.support.serving import eventually

COUNT = 6
WIDTH = 1024
SIZE = 4 * WIDTH * WIDTH  # a layer's, bytes


@pytest.fixture
def layers(tmp_path: Path) -> list[torch.nn.Linear]:
    """Linear layers, each mapped from its own file, through a link as in a hub's cache."""
    result = []
    (tmp_path / "blobs").mkdir()
    for index in range(COUNT):
        blob, path = tmp_path / "blobs" / str(index), tmp_path / f"{index}.safetensors"
        save_file({"weight": torch.randn(WIDTH, WIDTH)}, blob)
        with blob.open("rb") as file:
            os.fsync(file)
        path.symlink_to(blob)
        layer = torch.nn.Linear(WIDTH, WIDTH, bias=False, device="meta")
        opened: Any = safe_open(path, framework="pt")
        layer.weight = torch.nn.Parameter(opened.get_tensor("weight"), requires_grad=False)
        result.append(layer)
    return result


def resident(folder: Path) -> list[int]:
    """Return the indices of the layers that are in memory, by /proc/self/smaps."""
    text = Path("/proc/self/smaps").read_text()
    pattern = rf"{re.escape(str(folder))}/blobs/(\d+)\n(?:[A-Za-z]+: .*\n)*?Rss: +(\d+) kB"
    return sorted(int(index) for index, kb in re.findall(pattern, text) if int(kb) << 10 > SIZE / 2)


def run(layers: list[torch.nn.Linear]) -> torch.Tensor:
    hidden = torch.ones(1, WIDTH)
    for layer in layers:
        hidden = layer(hidden)
    return hidden


def after_a_pass(layers: list[torch.nn.Linear], folder: Path) -> list[int]:
    """Return what is in memory a second after a pass: the kernel may keep a page that is in use."""
    run(layers)
    time.sleep(1)
    return resident(folder)


def test_as_many_layers_stay_as_there_is_room_for(
    layers: list[torch.nn.Linear], tmp_path: Path
) -> None:
    subject = MappedLayers(layers, COUNT * SIZE)
    expected = run(layers)
    assert subject.size == pytest.approx(COUNT * SIZE, rel=0.01)  # whole pages
    assert subject.passing == []
    eventually(lambda: resident(tmp_path) == list(range(COUNT)))

    subject.fit((COUNT - 1) * SIZE)  # the one that is missing, and two that are fetched ahead
    assert subject.passing == [0, 2, 4]
    assert torch.equal(run(layers), expected)
    # The last to be used is gone, and the first two of the next pass are there.
    eventually(lambda: after_a_pass(layers, tmp_path) == [0, 1, 2, 3, 5])
    assert torch.equal(run(layers), expected)


def test_no_room_at_all(layers: list[torch.nn.Linear], tmp_path: Path) -> None:
    subject = MappedLayers(layers, 0)
    expected = run(layers)
    assert subject.passing == list(range(COUNT))
    assert torch.equal(run(layers), expected)
    eventually(lambda: after_a_pass(layers, tmp_path) == [0, 1])


def test_a_layer_that_is_still_being_fetched_is_dropped_afterwards(
    layers: list[torch.nn.Linear], tmp_path: Path
) -> None:
    class Slow(MappedLayers):
        def _call(self, index: int, advice: int, before: Future[None] | None) -> None:
            if index == COUNT - 1 and advice == mapped._POPULATE_READ:
                time.sleep(0.2)  # longer than all layers take
            super()._call(index, advice, before)

    Slow(layers, 0)
    run(layers)
    eventually(lambda: after_a_pass(layers, tmp_path) == [0, 1])


def test_what_is_not_mapped_is_left_alone() -> None:
    layer = torch.nn.Linear(WIDTH, WIDTH, bias=False)
    subject = MappedLayers([layer], 0)
    assert subject.size == 0
    assert subject.passing == []
