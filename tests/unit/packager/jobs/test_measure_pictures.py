"""A model that sees against its reference: pictures, prompts, the reference's answers, figures."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from device_runtime.errors import RequestError
from device_runtime.inference.vision_prompt import VisionPrompts
from packager.jobs.job import JobRefusedError, Work
from packager.jobs.measure import DecoderGraph
from packager.jobs.picture_prompts import MakePrompts
from packager.jobs.refer_pictures import PicturePrompt, read_prompts
from packager.vision.exported import GRAPH, ExportedVision
from tests.support import tiny_seeing, tiny_vision
from tests.support.picture_jobs import PictureJobs

COUNT = 4
TOKENS = 6


@pytest.fixture(scope="module")
def measured(seeing_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> PictureJobs:
    """The jobs for the tiny model, whose reference has answered."""
    jobs = PictureJobs(
        folder=tmp_path_factory.mktemp("pictures"),
        model=seeing_onnx,
        text=seeing_onnx.parent / "hf",
        exported=ExportedVision(type="phi3v", inputs=(), image_tokens=1, image_token=None),
        count=COUNT,
        tokens=TOKENS,
    )
    jobs.prepare()
    return jobs


def test_fp32_is_its_own_reference(measured: PictureJobs) -> None:
    result = measured.measure(measured.model)
    assert max(result.means.kl) < 1e-5
    assert result.means.top1 == (1.0,) * COUNT
    assert result.answers == result.reference_answers
    assert len(set(result.answers)) > 1, "answers depend on the pictures"
    assert result.means.tokens <= COUNT * TOKENS


def test_rounded_weights_are_told_apart(measured: PictureJobs, tmp_path: Path) -> None:
    rounded = tiny_vision.make(tmp_path / "onnx", tmp_path, "int4")
    floats, result = (measured.measure(model) for model in (measured.model, rounded))
    assert min(result.means.kl) > 20 * max(floats.means.kl)
    assert len(result.answers) == COUNT


def test_wrong_weight_of_the_vision_graph_is_seen(measured: PictureJobs, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    shutil.copytree(measured.model, tmp_path / "m")
    graph = onnx.load(str(tmp_path / "m" / GRAPH))
    (colours,) = (tensor for tensor in graph.graph.initializer if tensor.name == "colours")
    wrong = -10 * numpy_helper.to_array(colours)
    colours.CopyFrom(numpy_helper.from_array(wrong, "colours"))
    onnx.save(graph, str(tmp_path / "m" / GRAPH))
    right, result = (measured.measure(model) for model in (measured.model, tmp_path / "m"))
    assert min(result.means.kl) > 1000 * max(right.means.kl)


def test_prompts_are_as_the_engine_takes_them(measured: PictureJobs) -> None:
    for number, prompt in enumerate(read_prompts(measured.folder / "prompts.npz", both_ways=False)):
        with np.load(measured.folder / "prompts.npz") as stored:
            ids = stored[f"ids.{number}"]
        assert ((ids < 0) == prompt.places.numpy()).all()
        assert len(prompt.features) == prompt.places.sum() > 1900
        assert (prompt.ids >= 0).all()


def test_started_again_the_reference_goes_on(measured: PictureJobs, tmp_path: Path) -> None:
    done, begun, missing = (f"answer-{number}.npz" for number in range(3))
    shutil.copyfile(measured.folder / done, tmp_path / done)
    (tmp_path / "tokens-0.json").write_text("[1, 2]")
    (tmp_path / "tokens-1.json").write_text("[1, 2]")  # not what the model would say
    measured.refer().run(Work(tmp_path))
    tokens = {}
    for name in (done, begun, missing):
        with np.load(tmp_path / name) as now, np.load(measured.folder / name) as before:
            tokens[name] = (now["tokens"].tolist(), before["tokens"].tolist())
    assert tokens[done][0] == tokens[done][1]
    assert tokens[begun][0] == [1, 2]
    assert tokens[missing][0] == tokens[missing][1]


def test_text_is_measured_as_before_it_was_joined(seeing_onnx: Path) -> None:
    window = np.arange(5, 40)
    joined, text = (DecoderGraph(seeing_onnx.parent / name) for name in ("onnx", "text"))
    assert np.array_equal(joined.logits(window), text.logits(window))


def test_vision_graph_with_other_features_than_tokens_is_refused(
    measured: PictureJobs, tmp_path: Path
) -> None:
    job = MakePrompts(model=measured.model, pictures=measured.folder, image_token=5)
    with pytest.raises(
        JobRefusedError, match=r"circle has \d+ tokens for it, and the vision graph"
    ):
        job.run(Work(tmp_path))


def test_question_that_a_device_refuses_is_named(
    measured: PictureJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RequestError("a text of the prompt has '[IMG]'", hint="Leave it out.")

    monkeypatch.setattr(VisionPrompts, "encode", refuse)
    job = MakePrompts(model=measured.model, pictures=measured.folder, image_token=None)
    with pytest.raises(JobRefusedError, match=r"picture circle: .* has '\[IMG\]'") as refused:
        job.run(Work(tmp_path))
    assert refused.value.hint == "Leave it out."


def test_tokens_of_a_picture_see_each_other_as_in_transformers(tmp_path: Path) -> None:
    import torch
    from transformers import Gemma3ForConditionalGeneration

    source = tiny_seeing.make_gemma3(tmp_path / "hf")
    whole = Gemma3ForConditionalGeneration.from_pretrained(source, dtype=torch.float32).eval()
    token = whole.config.image_token_id
    ids = torch.tensor([2, 9, *[token] * 256, 11, 12, 13])
    side = tiny_seeing.GEMMA3_SIDE
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = whole(
            input_ids=ids[None], pixel_values=pixels, token_type_ids=(ids == token)[None].long()
        ).logits[0]
        features = whole.get_image_features(pixels, return_dict=True).pooler_output[0]
    text = whole.model.language_model

    def logits(*, both_ways: bool) -> torch.Tensor:
        places = ids == token
        prompt = PicturePrompt(
            ids=torch.where(places, 0, ids),
            places=places,
            features=features,
            both_ways=both_ways,
            positions=torch.arange(len(ids)).expand(3, -1),
        )
        with torch.no_grad(), prompt.placed(text.get_input_embeddings()):
            masks = prompt.masks(text.config, torch.float32)
            states = text(input_ids=prompt.ids[None], **masks).last_hidden_state
            output: torch.Tensor = whole.lm_head(states)[0]
        return output

    assert torch.allclose(logits(both_ways=True), expected, atol=1e-4)
    assert not torch.allclose(logits(both_ways=False), expected, atol=1e-2)
