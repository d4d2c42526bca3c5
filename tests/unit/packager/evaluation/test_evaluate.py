"""The texts that models are measured on, and models of which the truth is known."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from device_runtime.bundle.model_facts import ModelFacts
from device_runtime.bundle.quantization import Quality
from packager.errors import EvaluationError
from packager.evaluation import evaluate, prompts, tasks
from packager.evaluation import texts as evaluation_text
from packager.evaluation.texts import (
    CALIBRATION,
    EVALUATION,
    PLAIN,
    PLAIN_WINDOWS,
    check_disjoint,
)
from packager.jobs.check import inspect_graph
from packager.jobs.divergence import FEWEST
from packager.jobs.job import JobRefusedError, Work
from packager.jobs.measure import AnswerPrompts, Measure, TimeDecoding
from packager.jobs.reference import Cut, Questions, Refer, Write
from packager.models.shape import WINDOW
from packager.models.source import resolve
from packager.quantize import builder
from tests.support import tiny_model


@pytest.fixture(scope="module")
def cache_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


pytestmark = pytest.mark.usefixtures("jobs_here")


@pytest.fixture(autouse=True)
def own_cache(cache_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPACK_CACHE", str(cache_root))


@pytest.fixture
def reference(own_cache: None, jobs_here: None, tiny_hf: Path) -> Path:
    """The tiny model's own text; made once, then from the cache."""
    return evaluation_text.prepare(resolve(str(tiny_hf)))


def written(folder: Path, target: Path, seed: int = 0) -> NDArray[np.int64]:
    """What a model writes, two windows of 64 tokens."""
    job = Write(
        source=folder,
        floats=True,
        trust_remote_code=False,
        prompts=("Good morning", "Where is it?"),
        at_once=2,
        seed=seed,
        windows=2,
        window=64,
    )
    return windows_of(job, target)


def cut(
    folder: Path, target: Path, text: Path, *, least: int = 1, most: int = 4
) -> NDArray[np.int64]:
    """Windows of 64 tokens from a file."""
    job = Cut(
        source=folder,
        floats=True,
        trust_remote_code=False,
        text=text,
        least=least,
        most=most,
        window=64,
    )
    return windows_of(job, target)


def windows_of(job: Cut | Write, target: Path) -> NDArray[np.int64]:
    job.run(Work(target))
    found: NDArray[np.int64] = np.load(target / "windows.npy")
    return found


# The texts


def test_no_prompt_is_in_two_lists() -> None:
    every = [*prompts.CALIBRATION, *prompts.EVALUATION, *prompts.SHOWN]
    assert len(set(every)) == len(every)
    assert len(prompts.CALIBRATION) + len(prompts.EVALUATION) == 64


def test_text_that_the_model_writes(reference: Path, tiny_hf: Path) -> None:
    calibration = np.load(reference / "calibration.npy")
    evaluation = np.load(reference / "evaluation.npy")
    assert calibration.shape == (CALIBRATION.windows + PLAIN_WINDOWS, WINDOW)
    assert evaluation.shape == (EVALUATION.windows, WINDOW)
    assert calibration.dtype == evaluation.dtype == np.int64
    check_disjoint(calibration, evaluation)
    # The chat markup is in it.
    text = "<|im_start|>user\n" + prompts.EVALUATION[0]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_hf)
    assert tokenizer.decode(evaluation[0]).startswith(text)
    # Plain text follows.
    first = PLAIN.read_text(encoding="utf-8")[:200]
    assert tokenizer.decode(calibration[CALIBRATION.windows]).startswith(first)


def test_log_probabilities_are_those_of_the_original(reference: Path, tiny_hf: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_hf, dtype=torch.float32)
    window = torch.from_numpy(np.load(reference / "evaluation.npy")[-1])
    with torch.inference_mode():
        expected = torch.log_softmax(model(window[None]).logits[0, :-1], -1).numpy()
    stored = np.load(reference / "logprobs.npy", mmap_mode="r")
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored[-1], expected, rtol=1e-3)
    assert (np.load(reference / "top1.npy")[-1] == expected.argmax(-1)).all()


def test_the_same_seed_gives_the_same_text(tiny_hf: Path, tmp_path: Path) -> None:
    texts = {"first": 1, "again": 1, "other": 2}
    for name in texts:
        (tmp_path / name).mkdir()
    first, again, other = (written(tiny_hf, tmp_path / name, seed) for name, seed in texts.items())
    assert first.shape == (2, 64)
    assert (first == again).all()
    assert (first != other).any()


def test_calibration_is_the_same_whatever_is_measured_on(
    reference: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_text("".join(f"{number} times {number} is {number**2}. " for number in range(60)))
    other = evaluation_text.prepare(resolve(str(tiny_hf)), eval_text=text)
    before, after = (np.load(folder / "calibration.npy") for folder in (reference, other))
    assert (before == after).all()
    assert len(np.load(other / "evaluation.npy")) == len(text.read_text()) // WINDOW


def test_evaluation_alone_is_the_same(reference: Path, tiny_hf: Path) -> None:
    alone = evaluation_text.prepare(resolve(str(tiny_hf)), calibrate=False)
    names = {path.name for path in reference.iterdir()}
    assert {path.name for path in alone.iterdir()} == names - {"calibration.npy"}
    for name in ("evaluation.npy", "logprobs.npy"):
        assert (np.load(alone / name) == np.load(reference / name)).all()


def test_prompts_answered_in_batches_get_the_same_answers(
    reference: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    answers = []
    for at_once in (1, 2, 9):
        job = Refer(
            source=tiny_hf,
            floats=True,
            trust_remote_code=False,
            windows=reference / "evaluation.npy",
            questions=(
                Questions(prompts=("Hello", "Is it?", "No"), max_tokens=4),
                Questions(prompts=("Why?",), max_tokens=7),
            ),
            at_once=at_once,
        )
        folder = tmp_path / str(at_once)
        folder.mkdir()
        job.run(Work(folder))
        answers.append(json.loads((folder / "answers.json").read_text()))
    assert answers[0] == answers[1] == answers[2]
    assert [(entry["prompt"], len(entry["answer"])) for entry in answers[0]] == [
        *(("Hello", 4), ("Is it?", 4), ("No", 4), ("Why?", 7)),
    ]


def test_windows_are_from_all_over_a_file(tiny_hf: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("a" * 300 + "b" * 300)
    first, second = cut(tiny_hf, tmp_path, text, most=2)
    assert len(set(first)) == len(set(second)) == 1
    assert first[0] != second[0]


def test_windows_begin_as_the_model_wants_it(tiny_hf: Path, tmp_path: Path) -> None:
    """Without the start token that its tokenizer adds, Gemma predicts nothing sensible."""
    folder = tmp_path / "hf"
    shutil.copytree(tiny_hf, folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
        },
    }
    path.write_text(json.dumps(tokenizer))
    text = tmp_path / "text"
    text.write_text("".join(f"{number} " for number in range(100)))
    for windows in (written(folder, tmp_path), cut(folder, tmp_path, text)):
        assert windows.shape[1] == 64
        assert (windows[:, 0] == 0).all()
        assert (windows[:, 1] != 0).all()


@pytest.mark.parametrize("least", [1, 2])
def test_text_that_is_too_short_is_refused(tiny_hf: Path, tmp_path: Path, least: int) -> None:
    text = tmp_path / "short.txt"
    length = 64 * least
    text.write_text("x" * (length - 1))
    with pytest.raises(JobRefusedError, match=f"{length - 1} tokens, at least {length} are needed"):
        cut(tiny_hf, tmp_path, text, least=least)
    text.write_text("x" * length)
    assert len(cut(tiny_hf, tmp_path, text, least=least)) == least


def test_short_calibration_text_is_refused(tiny_hf: Path, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("x" * (WINDOW - 1))
    with pytest.raises(EvaluationError, match=r"short\.txt is too short") as caught:
        evaluation_text.prepare(resolve(str(tiny_hf)), calibration_text=text)
    assert caught.value.hint


def test_evaluation_text_out_of_the_calibration_text_is_refused(
    tiny_hf: Path, tmp_path: Path
) -> None:
    whole = "".join(f"Line {number} of the manual. " for number in range(400))
    calibration, evaluation = tmp_path / "whole", tmp_path / "part"
    calibration.write_text(whole)
    # Not at a border of the other's windows.
    evaluation.write_text(whole[100:1000])
    with pytest.raises(EvaluationError, match="the texts overlap") as caught:
        evaluation_text.prepare(
            resolve(str(tiny_hf)), eval_text=evaluation, calibration_text=calibration
        )
    assert "two different texts" in caught.value.hint


def test_phrases_may_occur_in_both_texts() -> None:
    generator = np.random.default_rng(0)
    calibration, evaluation = generator.integers(0, 1000, (2, 3, 256))
    evaluation[:, 20:100] = calibration[:, 150:230]
    check_disjoint(calibration, evaluation)
    evaluation[1, 20:180] = calibration[2, 50:210]
    with pytest.raises(EvaluationError, match="window 2"):
        check_disjoint(calibration, evaluation)


@pytest.mark.parametrize("option", ["eval_text", "calibration_text"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        ("Grüße".encode("latin1") * 1000, r"is not UTF-8 text \(byte 2\)"),
        (b"a" * (evaluation_text.MAX_TEXT_BYTES + 1), "is larger than 10 MB"),
    ],
)
def test_file_that_is_no_text_is_refused(
    tiny_hf: Path, tmp_path: Path, option: str, content: bytes, message: str
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    texts = {"eval_text": None, "calibration_text": None, option: path}
    with pytest.raises(EvaluationError, match=message) as caught:
        evaluation_text.prepare(
            resolve(str(tiny_hf)),
            eval_text=texts["eval_text"],
            calibration_text=texts["calibration_text"],
        )
    assert caught.value.hint


def test_the_same_file_for_both_is_refused(tiny_hf: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    for path in (first, second):
        path.write_text("word " * 2000)
    with pytest.raises(EvaluationError, match="overlap"):
        evaluation_text.prepare(resolve(str(tiny_hf)), eval_text=first, calibration_text=second)


# The models


def measured(model: Path, reference: Path) -> Quality:
    means = evaluate.measure(Measure(model=model, reference=reference))
    return evaluate.quality(means, tasks.count([]))


def test_a_model_against_itself(reference: Path, tiny_onnx: Path) -> None:
    quality = measured(tiny_onnx, reference)
    assert quality.kl < 1e-6
    assert quality.top1 == 1
    assert quality.perplexity == pytest.approx(quality.reference_perplexity, rel=1e-4)
    assert quality.tokens == EVALUATION.windows * (WINDOW - 1)
    assert quality.kl_tail is not None
    assert quality.kl_max is not None
    assert 0 <= quality.kl <= quality.kl_tail <= quality.kl_max < 1e-4
    answers = evaluate.answer(AnswerPrompts(model=tiny_onnx, reference=reference))
    assert len(answers) == len(prompts.SHOWN) + len(tasks.TASKS)
    for answer in answers:
        assert answer.reference
        assert answer.quantized == answer.reference
    # The tiny model's tokens are letters.
    assert {len(answer.reference) for answer in answers[len(prompts.SHOWN) :]} == {24}


def test_int4_is_further_away_and_another_model_much_further(
    reference: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    int4 = tiny_model.make_onnx(tiny_hf, tmp_path / "int4", tmp_path / "work", "int4")
    hf = tiny_model.make_hf(tmp_path / "hf", seed=1)
    other = tiny_model.make_onnx(hf, tmp_path / "other", tmp_path / "work")
    near, far = (measured(folder, reference) for folder in (int4, other))
    assert 1e-5 < near.kl < far.kl / 2
    assert near.kl_tail is not None
    assert near.kl_max is not None
    assert far.kl_tail is not None
    assert near.kl < near.kl_tail < min(near.kl_max, far.kl_tail)
    assert far.top1 < near.top1 < 1
    assert near.kl_interval[0] < near.kl < near.kl_interval[1]


def test_a_model_that_is_not_wanted_is_not_measured_to_the_end(
    reference: Path, tmp_path: Path
) -> None:
    hf = tiny_model.make_hf(tmp_path / "hf", seed=1)
    model = tiny_model.make_onnx(hf, tmp_path / "onnx", tmp_path / "work")
    whole = evaluate.measure(Measure(model=model, reference=reference))
    kl = evaluate.quality(whole, None).kl
    part = evaluate.measure(Measure(model=model, reference=reference, most=kl / 2))
    assert part.kl == whole.kl[: len(part.kl)]
    assert FEWEST <= len(part.kl) < EVALUATION.windows
    assert part.tokens == len(part.kl) * (WINDOW - 1)
    assert evaluate.measure(Measure(model=model, reference=reference, most=2 * kl)) == whole


def test_model_without_all_logits_is_refused(
    reference: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    folder = built(tiny_hf, tmp_path / "pruned", pruned=True)
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    for node in model.graph.node:
        # By the model builder's names the head is recognized.
        node.name = node.name.replace("/lm_head/prune/", "/other/")
    onnx.save(model, str(folder / "model.onnx"))
    with pytest.raises(EvaluationError, match="logits of the last token only"):
        measured(folder, reference)


def test_a_built_model_is_measured_on_all_tokens(
    reference: Path, tiny_hf: Path, tmp_path: Path
) -> None:
    """Its graph computes the logits of the last token; the other one computes those of all."""
    last, whole = (
        built(tiny_hf, tmp_path / str(pruned), pruned=pruned) for pruned in (True, False)
    )
    assert (inspect_graph(last).all_logits, inspect_graph(whole).all_logits) == (False, True)
    assert measured(last, reference) == measured(whole, reference)


def built(hf: Path, folder: Path, *, pruned: bool) -> Path:
    job = builder.job(
        hf,
        precision="fp32",
        execution_provider="cpu",
        options={} if pruned else {"prune_lm_head": "false"},
        trust_remote_code=False,
    )
    builder.build(job, folder)
    return folder


def test_another_vocabulary_is_refused(reference: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    smaller = tmp_path / "reference"
    shutil.copytree(reference, smaller)
    np.save(smaller / "logprobs.npy", np.load(reference / "logprobs.npy")[..., :-32])
    with pytest.raises(EvaluationError, match="vocabulary of 288 tokens, the reference model 256"):
        measured(tiny_onnx, smaller)


def test_another_tokenizer_is_refused(reference: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    shutil.copytree(tiny_onnx, folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(EvaluationError, match="tokenizer differs from"):
        evaluate.answer(AnswerPrompts(model=folder, reference=reference))


def test_damaged_model_is_refused(reference: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    shutil.copytree(tiny_onnx, folder)
    (folder / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(EvaluationError, match="Measuring the model failed") as caught:
        measured(folder, reference)
    assert caught.value.hint


def test_model_for_a_gpu_is_refused(reference: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    shutil.copytree(tiny_onnx, folder)
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["decoder"]["session_options"]["provider_options"] = [{"cuda": {}}]
    path.write_text(json.dumps(config))
    with pytest.raises(EvaluationError, match="the model is for cuda"):
        measured(folder, reference)


def test_large_models_are_timed_one_after_the_other(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate.timing([tiny_onnx, tiny_onnx]).together
    monkeypatch.setattr(evaluate, "LARGE", 1000)
    job = evaluate.timing([tiny_onnx, tiny_onnx])
    assert not job.together
    loaded: list[int] = []

    def alternate(_: TimeDecoding, folders: tuple[Path, ...], rounds: int) -> list[list[float]]:
        loaded.append(len(folders))
        return [[1.0] * rounds for _ in folders]

    monkeypatch.setattr(TimeDecoding, "_alternate", alternate)
    assert job.run(Work()) == (1.0, 1.0)
    assert loaded == [1, 1]


def test_models_that_alternate_are_loaded_in_both_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    def alternate(_: TimeDecoding, folders: tuple[Path, ...], rounds: int) -> list[list[float]]:
        assert rounds == 2
        speeds = {"a": 10.0, "b": 20.0}
        # Whatever is loaded first is slower.
        return [
            [speeds[folder.name] - (4 if place == 0 else 0)] * rounds
            for place, folder in enumerate(folders)
        ]

    monkeypatch.setattr(TimeDecoding, "_alternate", alternate)
    job = TimeDecoding(models=(Path("a"), Path("b")), tokens=1, rounds=3)
    assert job.run(Work()) == (8.0, 18.0)


def test_decode_speed_of_several(tiny_onnx: Path) -> None:
    first, second = evaluate.decode_speed(evaluate.timing([tiny_onnx, tiny_onnx]))
    # How fast this machine is at the moment is nothing to assert.
    assert min(first, second) > 0


def test_source_of_decoded_weights_is_found_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = ModelFacts(
        name="a/b",
        source="hub: a/b@c0ffee (decoded from FP8)",
        source_sha256="0" * 64,
        architecture="LlamaForCausalLM",
        parameters=1,
        license="",
    )
    asked: list[str] = []

    def resolve(name: str, **_: bool) -> SimpleNamespace:
        asked.append(name)
        return SimpleNamespace(digest="0" * 64)

    monkeypatch.setattr(evaluate, "resolve", resolve)
    evaluate._reference_of(facts, False)
    assert asked == ["a/b@c0ffee"]
