"""Calibrated weights: better than rounding, in every family, and resumable by layer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from packager.errors import QuantizeError
from packager.jobs import calibrate
from packager.jobs.calibrate import Calibrate
from packager.jobs.extract_text import ExtractText
from packager.jobs.harness import run_job
from packager.jobs.job import Work
from packager.weights import gptq, stored
from packager.weights.blocks import Blocks, nearest
from packager.weights.layerwise import LayerwiseModel
from packager.weights.threads import Threads
from tests.support import families, tiny_model
from tests.support.families.models import FAMILIES
from tests.support.families.variants import OTHERS

BLOCK = 16


def _quantize(
    source: Path, windows: torch.Tensor, folder: Path, *, block_size: int = BLOCK
) -> None:
    """Calibrate in this process, on windows that are written beside the folder."""
    file = folder.with_name("windows.npy")
    np.save(file, windows.numpy())
    Calibrate(source=source, windows=file, block_size=block_size).run(Work(folder))


def _windows(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(10, 40, (count, 64), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make_hf(tmp_path_factory.mktemp("model") / "hf")


@pytest.fixture(scope="module")
def done(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done") / "made"
    folder.mkdir()
    _quantize(source, _windows(8), folder)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _text_model(family: str, folder: Path) -> Path:
    """Make a family's model; of one that also sees, what a build takes of it."""
    source = families.make_hf({**FAMILIES, **OTHERS}[family], folder / "hf")
    if "text_config" not in json.loads((source / "config.json").read_text()):
        return source
    text = folder / "text"
    text.mkdir()
    ExtractText(source=source, copied=()).run(Work(text))
    return text


def _kl(reference: torch.Tensor, logits: torch.Tensor) -> float:
    expected, found = torch.log_softmax(reference, -1), torch.log_softmax(logits, -1)
    return float((expected.exp() * (expected - found)).sum(-1).mean())


def _correlated(width: int, noise: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and inputs that go together as those of real layers do."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4096, 40, generator=generator) @ torch.randn(
        40, width, generator=generator
    )
    inputs += noise * torch.randn(4096, width, generator=generator)
    return torch.randn(48, width, generator=generator), inputs


@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
def test_outputs_are_kept_better_than_by_rounding(block_size: int) -> None:
    # The last block is a short one.
    weight, inputs = _correlated(200)
    hessian = inputs.T @ inputs / len(inputs)

    def lost(made: Blocks) -> float:
        return float((inputs @ (weight - made.dequantize()).T).square().sum())

    made = gptq.solve(weight, hessian, bits=4, block_size=block_size)
    rounded = nearest(weight, bits=4, block_size=block_size, symmetric=False)
    assert lost(made) < 0.5 * lost(rounded)
    assert made.codes.shape == (48, 200)
    assert made.codes.max() <= 15


@pytest.mark.parametrize("rows", [gptq.ROWS, 7])
def test_each_sweep_makes_it_better(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, inputs = _correlated(256)
    hessian = inputs.T @ inputs / len(inputs)
    monkeypatch.setattr(gptq, "ROWS", rows)
    lost = []
    for sweeps in range(3):
        monkeypatch.setattr(gptq, "SWEEPS", sweeps)
        made = gptq.solve(weight, hessian, bits=4, block_size=32)
        lost.append(float((inputs @ (weight - made.dequantize()).T).square().sum()))
    assert lost[2] < lost[1] < 0.9 * lost[0]


def test_few_inputs_are_not_taken_at_their_word(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, inputs = _correlated(256, noise=2.0)
    few, others = inputs[:300], inputs[300:]
    hessian = few.T @ few / len(few)
    lost = []
    for shrinkage in (gptq.SHRINKAGE, 0.0):
        monkeypatch.setattr(gptq, "SHRINKAGE", shrinkage)
        made = gptq.solve(weight, hessian, bits=4, block_size=32)
        lost.append(float((others @ (weight - made.dequantize()).T).square().sum()))
    assert lost[0] < 0.97 * lost[1]


def test_threads_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "ROWS", 16)
    monkeypatch.setattr(gptq, "LEAST_ROWS", 1)
    problems = []
    for width in (64, 200, 96):
        weight, inputs = _correlated(width)
        problems.append((weight, inputs.T @ inputs / len(inputs)))
    alone = gptq.solve_all(problems, bits=4, block_size=16)
    before = torch.get_num_threads()
    with Threads() as threads:
        together = gptq.solve_all(problems, bits=4, block_size=16, threads=threads)
    assert torch.get_num_threads() == before
    for one, other, (weight, hessian) in zip(alone, together, problems, strict=True):
        assert one.codes.shape == weight.shape
        # Matrices of other shapes are added up in another order.
        difference = (one.codes != other.codes).float().mean()
        assert difference < 0.01
        again = gptq.solve(weight, hessian, bits=4, block_size=16)
        assert torch.equal(again.codes, one.codes)


def test_an_error_in_a_thread_is_raised_and_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    with Threads() as threads:
        with pytest.raises(ZeroDivisionError):
            threads.map(lambda number: 1 / number, [1, 0, 2])
        assert torch.get_num_threads() == before
        assert list(threads.map(lambda number: 2 * number, range(5))) == [0, 2, 4, 6, 8]


def test_moments_are_the_whole_matrix() -> None:
    inputs = torch.randn(3, 50, 41, generator=torch.Generator().manual_seed(0))
    flat = inputs.flatten(0, 1).double()
    expected = (flat.T @ flat / len(flat)).float()
    for band in (41, 32):
        moments = calibrate._Moments(band)
        for piece in inputs:
            moments.add(piece[None])
        for part, start in zip(moments.mean(), range(0, 41, band), strict=True):
            inside = slice(start, start + band)
            torch.testing.assert_close(part, expected[inside, inside])


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    hessian = torch.eye(32)
    hessian[3] = hessian[:, 3] = 0
    for each in (hessian, torch.zeros(32, 32)):
        made = gptq.solve(weight, each, bits=4, block_size=16)
        assert made.dequantize().isfinite().all()
        assert (made.dequantize() - weight).norm() < 0.2 * weight.norm()


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
def test_every_family(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    source = _text_model(name, tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    held_out = _windows(6, seed=1)
    expected = model(held_out).logits.detach()

    # Layer by layer is the same as all at once.
    layerwise = LayerwiseModel(source)
    hidden = layerwise.start(held_out)
    for index in range(layerwise.count):
        with layerwise.layer(index):
            hidden = torch.cat(list(layerwise.run(index, hidden)))
    inputs = torch.cat(list(layerwise.head_inputs(hidden)))
    seen: list[torch.Tensor] = []
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(held_out)
    hook.remove()
    torch.testing.assert_close(inputs, seen[0].detach())
    assert torch.equal(layerwise.head_weight(), head.weight)

    folder = tmp_path / "made"
    folder.mkdir()
    _quantize(source, _windows(16), folder)
    layers = model.get_decoder().layers
    originals = {
        (index, part): linear.weight.detach()
        for index, layer in enumerate(layers)
        for part, linear in layer.named_modules()
        if isinstance(linear, torch.nn.Linear)
    }
    assert {(error.layer, error.name) for error in stored.errors(folder)} == {
        *originals,
        (-1, stored.HEAD),
    }
    found = {}
    for algorithm in ("nearest", "gptq"):
        for (index, part), weight in originals.items():
            made = stored.load(folder, index, part)
            if algorithm == "nearest":
                made = nearest(weight, bits=4, block_size=BLOCK, symmetric=False)
            layers[index].get_submodule(part).weight.data = made.dequantize()
        found[algorithm] = _kl(expected, model(held_out).logits.detach())
    assert found["gptq"] < 0.9 * found["nearest"]


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
def test_layers_of_every_family_run_in_bfloat16(name: str, tmp_path: Path) -> None:
    source = _text_model(name, tmp_path)
    outputs = []
    for bfloat16 in (False, True):
        model = LayerwiseModel(source, bfloat16=bfloat16)
        hidden = model.start(_windows(2))
        for index in range(model.count):
            with model.layer(index):
                hidden = torch.cat(list(model.run(index, hidden)))
        outputs.append(hidden)
    exact, close = outputs
    assert close.dtype == torch.float32
    assert 0 < (close - exact).norm() < 0.1 * exact.norm()


def test_errors(source: Path, done: Path) -> None:
    found = stored.errors(done)
    assert [error.layer for error in found] == [0] * 7 + [1] * 7 + [-1]
    assert {error.name for error in found} >= {"self_attn.q_proj", "mlp.down_proj"}
    for error in found:
        assert 0 < error.relative < error.nearest < 0.02
        assert error.absolute > 0
    assert {error.parameters for error in found if error.name == "mlp.down_proj"} == {64 * 128}


def test_the_head_too(source: Path, done: Path) -> None:
    made = stored.load(done, None, stored.HEAD)
    weight = LayerwiseModel(source).head_weight()
    assert made.codes.shape == weight.shape
    assert (made.dequantize() - weight).norm() < 0.15 * weight.norm()


def test_head_alone_stands_for_the_embedding_that_it_is_tied_to(
    source: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "hf"))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokens = torch.arange(80, 90)[None]
    alone, usual = LayerwiseModel(folder), LayerwiseModel(source)
    assert torch.equal(alone.start(tokens), usual.start(tokens))
    assert torch.equal(alone.head_weight(), usual.head_weight())


def test_what_is_not_there_is_an_error(done: Path) -> None:
    with pytest.raises(ValueError, match=r"no mlp\.fc1"):
        stored.load(done, 0, "mlp.fc1")
    with pytest.raises(FileNotFoundError):
        stored.load(done, 7, "mlp.down_proj")


def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(
    source: Path, done: Path, tmp_path: Path
) -> None:
    windows = tmp_path / "windows.npy"
    np.save(windows, _windows(8).numpy())
    folder = tmp_path / "made"
    folder.mkdir()
    job = Calibrate(source=source, windows=windows, block_size=BLOCK)

    def run(advance: Callable[[int], None]) -> None:
        run_job(job, folder, what="Trying", error=QuantizeError, hint="", advance=advance)

    def interrupt(_layers: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupt)
    first = folder / "layer-000.safetensors"
    assert first.exists()
    (folder / "head.safetensors").unlink(missing_ok=True)
    (folder / "layer-001.safetensors").unlink(missing_ok=True)
    (folder / "hidden.safetensors").unlink(missing_ok=True)
    written = first.stat().st_mtime_ns
    layers: list[int] = []
    run(layers.append)
    assert layers == [1, 1]
    assert first.stat().st_mtime_ns == written
    assert _files(folder) == _files(done)


def test_an_interrupted_run_has_the_inputs_of_its_layer(
    source: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "made"
    folder.mkdir()

    def interrupt(_layers: int) -> None:
        raise KeyboardInterrupt

    job = Calibrate(source=source, windows=done.with_name("windows.npy"), block_size=BLOCK)
    with pytest.raises(KeyboardInterrupt):
        job.run(Work(folder, interrupt))
    loaded: list[int] = []
    layer = LayerwiseModel.layer

    def noted(self: LayerwiseModel, index: int) -> Any:
        loaded.append(index)
        return layer(self, index)

    monkeypatch.setattr(LayerwiseModel, "layer", noted)
    job.run(Work(folder))
    assert loaded == [1]
    assert _files(folder) == _files(done)


@pytest.mark.parametrize("changed", ["block_size", "windows", "model"])
def test_files_of_other_settings_are_not_mixed_in(
    changed: str, source: Path, done: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    shutil.copytree(done, folder)
    model, windows, block_size = source, _windows(8), BLOCK
    if changed == "block_size":
        block_size = 32
    elif changed == "windows":
        windows = _windows(8, seed=3)
    else:
        model = families.make_hf(FAMILIES["Llama 3"], tmp_path / "hf")
    with pytest.raises(ValueError, match="other settings"):
        _quantize(model, windows, folder, block_size=block_size)
    assert _files(folder) == _files(done)
