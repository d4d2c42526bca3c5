"""ONNX Runtime GenAI behind our Protocol, with the tiny real model."""

from pathlib import Path

import pytest

from device_runtime.engine import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Message,
    PromptTooLongError,
    Usage,
)
from device_runtime.errors import EngineError, RequestError
from device_runtime.genai_engine import PROMPT_STEP, GenAIEngine

CONTEXT = 512


@pytest.fixture(scope="module")
def engine(tiny_onnx: Path) -> GenAIEngine:
    return GenAIEngine(tiny_onnx, context_length=CONTEXT, threads=1)


def request(prompt: str = "Hello", max_tokens: int = 40, **options: object) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, max_tokens=max_tokens, **options)  # type: ignore[arg-type]


def answer(engine: GenAIEngine, asked: GenerationRequest) -> tuple[str, GenerationChunk]:
    chunks = list(engine.generate(asked, lambda: False))
    assert chunks[0] == GenerationChunk()
    assert all(chunk.finish_reason is None for chunk in chunks[:-1])
    return "".join(chunk.text for chunk in chunks), chunks[-1]


def usage(chunk: GenerationChunk) -> Usage:
    assert chunk.usage is not None
    return chunk.usage


def test_length_of_an_answer(engine: GenAIEngine) -> None:
    _, last = answer(engine, request(max_tokens=5))
    assert last.finish_reason == FinishReason.LENGTH
    assert usage(last).completion_tokens == last.tokens == 5
    assert usage(last).prompt_tokens == len("Hello")
    assert usage(last).tokens_per_s


def test_context_bounds_an_answer(engine: GenAIEngine) -> None:
    prompt = "a" * (CONTEXT - 3)
    _, last = answer(engine, request(prompt, max_tokens=100))
    assert usage(last).prompt_tokens == CONTEXT - 3
    assert usage(last).completion_tokens <= 3


def test_prompt_that_fills_the_context_is_refused(engine: GenAIEngine) -> None:
    with pytest.raises(PromptTooLongError, match=str(CONTEXT)):
        next(engine.generate(request("a" * CONTEXT), lambda: False))


def test_empty_prompt_is_refused(engine: GenAIEngine) -> None:
    with pytest.raises(RequestError, match="empty"):
        next(engine.generate(request(""), lambda: False))


def test_chat_template_is_used(engine: GenAIEngine) -> None:
    chat = GenerationRequest(prompt=(Message(role="user", content='"é" 🤖'),), max_tokens=5)
    _, last = answer(engine, chat)
    # "<|im_start|>user\n", the content's bytes, "<|im_end|>\n", "<|im_start|>assistant\n"
    assert usage(last).prompt_tokens == 6 + len('"é" 🤖'.encode()) + 2 + 11


def test_greedy_and_seeded_answers_repeat(engine: GenAIEngine) -> None:
    assert answer(engine, request())[0] == answer(engine, request())[0]
    seeded = request(temperature=1.0, seed=2**40 + 7)
    assert answer(engine, seeded)[0] == answer(engine, seeded)[0]
    texts = {answer(engine, request(temperature=1.0, seed=seed))[0] for seed in range(5)}
    assert len(texts) > 1
    greedy = answer(engine, request())[0]
    for option in ({"top_p": 0.0}, {"top_k": 1}):
        assert answer(engine, request(temperature=1.0, seed=1, **option))[0] == greedy


def test_prompt_in_steps_gives_the_same_answer_as_at_once(
    engine: GenAIEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "the quick brown fox " * 16
    assert len(prompt) > 2 * PROMPT_STEP
    in_steps, _ = answer(engine, request(prompt))
    monkeypatch.setattr("device_runtime.genai_engine.PROMPT_STEP", len(prompt))
    assert answer(engine, request(prompt))[0] == in_steps


def sampled_text(engine: GenAIEngine) -> tuple[GenerationRequest, str]:
    asked = request(max_tokens=200, temperature=1.0, seed=3)
    text, _ = answer(engine, asked)
    assert len(text) > 20
    return asked, text


def test_stop_string_across_tokens_ends_the_answer_before_it(engine: GenAIEngine) -> None:
    """The tokenizer is byte-level: three characters are at least three tokens."""
    _, text = sampled_text(engine)
    stop = text[10:13]
    stopped, last = answer(
        engine, request(max_tokens=200, temperature=1.0, seed=3, stop=("never", stop))
    )
    assert stopped == text.partition(stop)[0]
    assert last.finish_reason == FinishReason.STOP


def test_held_back_text_is_given_at_the_end(engine: GenAIEngine) -> None:
    asked, text = sampled_text(engine)
    stop = text[-1] + "never"
    held = GenerationRequest(
        prompt=asked.prompt, max_tokens=200, temperature=1.0, seed=3, stop=(stop,)
    )
    assert answer(engine, held)[0] == text


def test_text_is_whole_characters(engine: GenAIEngine) -> None:
    """A random model writes broken UTF-8: none of it may come through."""
    for seed in range(5):
        text, _ = answer(engine, request(max_tokens=200, temperature=1.5, seed=seed))
        assert "\ufffd" not in text
        assert text.encode().decode() == text


def test_cancelled_within_a_prompt_and_within_an_answer(engine: GenAIEngine) -> None:
    *_, last = engine.generate(request("a" * 400), lambda: True)
    assert last.finish_reason == FinishReason.CANCELLED
    assert usage(last).completion_tokens == 0
    asked = iter([False, False, False, True])
    *_, last = engine.generate(request(temperature=1.0, seed=1), lambda: next(asked))
    assert last.finish_reason == FinishReason.CANCELLED
    assert usage(last).completion_tokens == 2


def test_model_that_does_not_load_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not load"):
        GenAIEngine(tmp_path, context_length=10, threads=0)
