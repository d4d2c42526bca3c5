"""Answers that are decoded at the same time, in runs that they share."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from device_runtime.errors import EngineError
from device_runtime.inference.engine import GenerationChunk, GenerationRequest, Guidance
from device_runtime.inference.genai_engine import GenAIEngine
from device_runtime.inference.genai_library import Model
from device_runtime.inference.genai_objects import Generator
from device_runtime.inference.genai_sequences import GenAISequences
from device_runtime.inference.kv_cache import MAX_SLOTS
from device_runtime.inference.onnx_session import OnnxSession
from device_runtime.inference.text_graph import TextGraph
from device_runtime.inference.text_sequences import TextSequences
from device_runtime.tokenizer.files import end_tokens

CONTEXT = 256
END = 2
"""The token that ends an answer."""
PROMPTS = ("Hello", "The sea is", "a" * 40, "Once upon a time", "x", "12345678")


@pytest.fixture
def engine(tiny_onnx: Path) -> GenAIEngine:
    return loaded(tiny_onnx)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Shapes of the tokens of all runs: sequences and tokens of each."""
    shapes: list[tuple[int, int]] = []
    run = TextGraph.run

    def noted(graph: TextGraph, rows: Any, first: int, tokens: Any, *more: Any) -> Any:
        shapes.append(tokens.shape)
        return run(graph, rows, first, tokens, *more)

    monkeypatch.setattr(TextGraph, "run", noted)
    return shapes


def loaded(folder: Path) -> GenAIEngine:
    return GenAIEngine(folder, context_length=CONTEXT, threads=1, kv_cache_bytes=64 << 20)


def request(prompt: str, max_tokens: int = 24, **options: Any) -> GenerationRequest:
    bias = ((END, -100.0),)
    return GenerationRequest(prompt=prompt, max_tokens=max_tokens, logit_bias=bias, **options)


def texts(chunks: list[list[GenerationChunk]]) -> list[str]:
    return ["".join(chunk.text for chunk in answer) for answer in chunks]


def logprobs(chunks: list[GenerationChunk]) -> npt.NDArray[np.float64]:
    return np.array([token.logprob for chunk in chunks for token in chunk.logprobs], np.float64)


def alone(engine: GenAIEngine, *requests: GenerationRequest) -> list[list[GenerationChunk]]:
    return [list(engine.generate(asked, bool)) for asked in requests]


def together(engine: GenAIEngine, *requests: GenerationRequest) -> list[list[GenerationChunk]]:
    """All answers, a step of each in turns, as the inference process takes them."""
    answers = [engine.generate(asked, bool) for asked in requests]
    chunks: list[list[GenerationChunk]] = [[] for _ in answers]
    running = list(zip(answers, chunks, strict=True))
    while running:
        running = [pair for pair in running if advanced(*pair)]
    return chunks


def advanced(answer: Iterator[GenerationChunk], chunks: list[GenerationChunk]) -> bool:
    chunk = next(answer, None)
    chunks += [chunk] if chunk is not None else []
    return chunk is not None


def test_answers_together_are_those_of_each_alone(
    tiny_onnx: Path, engine: GenAIEngine, runs: list[tuple[int, int]]
) -> None:
    asked = [request(prompt, logprobs=1) for prompt in PROMPTS]
    separate = alone(loaded(tiny_onnx), *asked)
    alone_runs = len(runs)
    runs.clear()
    shared = together(engine, *asked)
    assert texts(shared) == texts(separate)
    for one, other in zip(shared, separate, strict=True):
        ours, theirs = (logprobs(chunks) for chunks in (one, other))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert max(sequences for sequences, _ in runs) == len(PROMPTS)
    # Few beside those that all take part in: while the last prompts are prefilled.
    assert len(runs) < alone_runs / 3


def test_sampled_and_guided_answers_share_runs_too(
    engine: GenAIEngine, runs: list[tuple[int, int]]
) -> None:
    guidance = Guidance(kind="regex", data="[a-z]{12}")
    asked = [
        request("Hello", temperature=1.0, seed=3),
        request("Hello", guidance=guidance),
        request("Hello", repetition_penalty=1.2),
    ]
    separate = texts(alone(engine, *asked))
    runs.clear()
    assert texts(together(engine, *asked)) == separate
    assert max(sequences for sequences, _ in runs) == 3


def test_answers_that_end_or_are_cancelled_leave_the_others(engine: GenAIEngine) -> None:
    asked = [request(prompt, max_tokens=20 + place) for place, prompt in enumerate(PROMPTS)]
    expected = texts(alone(engine, *asked))
    gone = engine.generate(request("Cancelled"), bool)
    for _ in range(4):
        next(gone)
    answers = [engine.generate(one, bool) for one in asked]
    said = ["" for _ in asked]
    for step in range(200):
        if step == 5:
            gone.close()
        for place, answer in enumerate(answers):
            chunk = next(answer, None)
            said[place] += chunk.text if chunk is not None else ""
    assert said == expected


def test_no_more_sequences_than_rows(engine: GenAIEngine) -> None:
    """More requests than KV caches wait for one, and are all answered."""
    asked = [request(f"Number {number}", max_tokens=8) for number in range(MAX_SLOTS + 3)]
    shared = texts(together(engine, *asked))
    assert shared == texts(alone(engine, *asked))


def test_failing_run_fails_its_answer_and_not_the_next(
    engine: GenAIEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = texts(alone(engine, request("Hello")))
    run = OnnxSession.run
    failures = iter([True])

    def failing(session: OnnxSession, *arguments: Any) -> Any:
        if next(failures, False):
            raise RuntimeError("a kernel failed")
        return run(session, *arguments)

    monkeypatch.setattr(OnnxSession, "run", failing)
    with pytest.raises(EngineError, match="a kernel failed"):
        list(engine.generate(request("Another"), bool))
    assert texts(alone(engine, request("Hello"))) == expected


@pytest.mark.parametrize("beams", [2, 4])
def test_beam_search_is_that_of_the_other_engine(tiny_onnx: Path, beams: int) -> None:
    prompt = np.array(list(b"Hello there"), np.int32)
    library = Generator(
        Model(tiny_onnx, {}, None),
        max_length=32,
        do_sample=False,
        num_beams=beams,
        early_stopping=True,
    )
    decoder = json.loads((tiny_onnx / "genai_config.json").read_bytes())["model"]["decoder"]
    session = OnnxSession(tiny_onnx / "model.onnx", threads=1)
    own = TextSequences(session, decoder, CONTEXT, end_tokens(tiny_onnx)).generator(32, "", beams)
    assert searched(own, prompt) == searched(library, prompt)


def searched(generator: Any, prompt: npt.NDArray[np.int32]) -> list[int]:
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)]


def test_model_with_more_than_a_graph_stays_with_the_other_engine(seeing_onnx: Path) -> None:
    engine = loaded(seeing_onnx)
    assert isinstance(engine._model.sequences, GenAISequences)
