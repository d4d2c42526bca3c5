"""ONNX Runtime GenAI behind our Protocol, with the tiny real model."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from device_runtime.api.served_model import ServedModel
from device_runtime.errors import EngineError, RequestError
from device_runtime.inference.engine import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Guidance,
    Message,
    NoMemoryNowError,
    OutOfMemoryError,
    PromptTooLongError,
    Usage,
)
from device_runtime.inference.genai_engine import GenAIEngine
from device_runtime.inference.kv_cache import Tokens
from device_runtime.inference.text_sequences import TextSequence
from device_runtime.memory import PROMPT_STEP
from tests.support import graphs

CONTEXT = 512
SEED = 11
"""One with which the tiny model says more than a few characters."""


@pytest.fixture(scope="module")
def engine(tiny_onnx: Path) -> GenAIEngine:
    return GenAIEngine(tiny_onnx, context_length=CONTEXT, threads=1)


def request(prompt: str = "Hello", max_tokens: int = 40, **options: object) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, max_tokens=max_tokens, **options)  # type: ignore[arg-type]


def answer(engine: GenAIEngine, asked: GenerationRequest) -> tuple[str, GenerationChunk]:
    chunks = list(engine.generate(asked, lambda: False))
    assert chunks[0] == GenerationChunk(prompt_tokens=usage(chunks[-1]).prompt_tokens)
    assert all(chunk.usage is None for chunk in chunks[:-1])
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


def test_tokens_of_a_prompt_are_counted_however_many(engine: GenAIEngine) -> None:
    for prompt in ("Hello", "a" * 2 * CONTEXT):
        text, last = answer(engine, request(prompt, counts=True))
        assert (text, last.finish_reason, last.tokens) == ("", FinishReason.STOP, 0)
        assert usage(last).prompt_tokens == len(prompt)
        assert usage(last).completion_tokens == 0


def test_empty_prompt_is_refused(engine: GenAIEngine) -> None:
    with pytest.raises(RequestError, match="empty"):
        next(engine.generate(request(""), lambda: False))


def test_text_with_null_characters_is_read_whole(engine: GenAIEngine) -> None:
    _, last = answer(engine, request("a\0b" * 3))
    assert usage(last).prompt_tokens == 9
    system = Message(role="system", content="You speak French.\0")
    turns = (system, Message(role="user", content="Name the capital of France."))
    without = (Message(role="system", content="You speak French."), turns[1])
    counts = [
        usage(answer(engine, GenerationRequest(prompt=prompt, max_tokens=2))[1]).prompt_tokens
        for prompt in (turns, without)
    ]
    assert counts[0] == counts[1] + 1


def test_text_with_a_token_that_the_model_does_not_know_is_refused(
    tiny_onnx: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_onnx, tmp_path / "model"))
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    like = tokenizer["added_tokens"][0]
    # The embedding has 288 rows, the vocabulary 259 tokens.
    tokenizer["added_tokens"] += [
        {**like, "content": f"<|{number}|>", "id": number} for number in range(259, 290)
    ]
    # Letters of byte-level vocabularies: bytes that are parts of characters.
    tokenizer["added_tokens"].append({**like, "content": "\u00c3\u00c3", "id": 290})
    path.write_text(json.dumps(tokenizer))
    larger = GenAIEngine(folder, context_length=CONTEXT, threads=1)
    with pytest.raises(RequestError, match=r"'<\|289\|>', which the tokenizer knows"):
        next(larger.generate(request("a<|289|>"), lambda: False))
    with pytest.raises(RequestError, match=r"'\ufffd\ufffd', which the tokenizer knows"):
        next(larger.generate(request("a\u00c3\u00c3"), lambda: False))
    answer(larger, request("a<|287|>"))


def test_chat_template_is_used(engine: GenAIEngine) -> None:
    chat = GenerationRequest(prompt=(Message(role="user", content='"é" 🤖'),), max_tokens=5)
    _, last = answer(engine, chat)
    # "<|im_start|>user\n", the content's bytes, "<|im_end|>\n", "<|im_start|>assistant\n"
    assert usage(last).prompt_tokens == 6 + len('"é" 🤖'.encode()) + 2 + 11


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0, "seed": 1}, {"logprobs": 2}, {"num_beams": 2}]
)
def test_model_that_stops_computing_numbers_fails_with_an_error(
    tiny_onnx: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    folder = graphs.filled(tiny_onnx, tmp_path / "onnx", math.nan, graphs.POSITIONS, row=40)
    engine = GenAIEngine(folder, context_length=CONTEXT, threads=1)
    assert answer(engine, request(max_tokens=5, **options))[1].tokens == 5
    with pytest.raises(EngineError, match="NaN or infinite") as caught:
        answer(engine, request("a" * 50, **options))
    assert caught.value.hint
    # What it computed is not reused.
    assert answer(engine, request(max_tokens=5, **options))[1].tokens == 5


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
    monkeypatch.setattr("device_runtime.inference.genai_engine.PROMPT_STEP", len(prompt))
    assert answer(engine, request(prompt))[0] == in_steps


def sampled_text(engine: GenAIEngine) -> tuple[GenerationRequest, str]:
    asked = request(max_tokens=200, temperature=1.0, seed=SEED)
    text, _ = answer(engine, asked)
    assert len(text) > 20
    return asked, text


def test_stop_string_across_tokens_ends_the_answer_before_it(engine: GenAIEngine) -> None:
    """The tokenizer is byte-level: three characters are at least three tokens."""
    _, text = sampled_text(engine)
    stop = text[10:13]
    stopped, last = answer(
        engine, request(max_tokens=200, temperature=1.0, seed=SEED, stop=("never", stop))
    )
    assert stopped == text.partition(stop)[0]
    assert last.stop == stop
    assert last.finish_reason == FinishReason.STOP


def test_held_back_text_is_given_at_the_end(engine: GenAIEngine) -> None:
    asked, text = sampled_text(engine)
    stop = text[-1] + "never"
    held = GenerationRequest(
        prompt=asked.prompt, max_tokens=200, temperature=1.0, seed=SEED, stop=(stop,)
    )
    assert answer(engine, held)[0] == text


def test_text_is_whole_characters(engine: GenAIEngine) -> None:
    """A random model writes broken UTF-8: none of it may come through."""
    for seed in range(5):
        text, _ = answer(engine, request(max_tokens=200, temperature=1.5, seed=seed))
        assert "\ufffd" not in text
        assert text.encode().decode() == text


def test_cancelled_within_a_prompt_and_within_an_answer(engine: GenAIEngine) -> None:
    *_, last = engine.generate(request("c" * 400), lambda: True)
    assert last.finish_reason == FinishReason.CANCELLED
    assert usage(last).completion_tokens == 0
    asked = iter([False, False, False, True])
    *_, last = engine.generate(request("new", temperature=1.0, seed=SEED), lambda: next(asked))
    assert last.finish_reason == FinishReason.CANCELLED
    assert usage(last).completion_tokens == 2


def test_model_that_does_not_load_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not load"):
        GenAIEngine(tmp_path, context_length=10, threads=0)


def chat(*texts: str) -> tuple[Message, ...]:
    """Turns of user and assistant, one after the other."""
    roles = ("user", "assistant")
    return tuple(Message(role=roles[number % 2], content=text) for number, text in enumerate(texts))


def fresh(model: Path, asked: GenerationRequest) -> tuple[str, GenerationChunk]:
    """The answer of an engine that remembers nothing."""
    return answer(GenAIEngine(model, context_length=CONTEXT, threads=1), asked)


@pytest.mark.parametrize("idle", [True, False])
def test_next_turn_reads_only_what_is_new(tiny_onnx: Path, idle: bool) -> None:
    engine = GenAIEngine(tiny_onnx, context_length=CONTEXT, threads=1)
    first = GenerationRequest(prompt=chat("Tell me " * 12), max_tokens=30)
    text, last = answer(engine, first)
    assert usage(last).cached_tokens == 0
    while idle and engine.idle():
        pass
    second = GenerationRequest(prompt=chat("Tell me " * 12, text, "And then?"), max_tokens=30)
    again, last = answer(engine, second)
    whole, new = fresh(tiny_onnx, second)
    assert again == whole
    assert usage(new).cached_tokens == 0
    assert usage(last).prompt_tokens == usage(new).prompt_tokens
    read = usage(last).prompt_tokens - usage(last).cached_tokens
    # The new turn, and without idle time between the two the answer to the first.
    assert read < (50 if idle else 90)


def test_same_question_again_reads_almost_nothing(engine: GenAIEngine) -> None:
    asked = request("The same question " * 5)
    once, _ = answer(engine, asked)
    again, last = answer(engine, asked)
    assert again == once
    assert usage(last).prompt_tokens - usage(last).cached_tokens == 2


def test_beginning_of_conversations_is_ready_before_the_first(tiny_onnx: Path) -> None:
    engine = GenAIEngine(tiny_onnx, context_length=CONTEXT, threads=1)
    engine.warm("You are a very helpful assistant. " * 6)
    assert engine.idle()
    while engine.idle():
        pass
    system = Message(role="system", content="You are a very helpful assistant. " * 6)
    asked = GenerationRequest(prompt=(system, *chat("Hi")), max_tokens=5)
    text, last = answer(engine, asked)
    assert usage(last).cached_tokens > 200
    assert text == fresh(tiny_onnx, asked)[0]


def test_several_answers_to_one_prompt(engine: GenAIEngine) -> None:
    chunks = list(
        engine.generate(request(n=3, temperature=1.0, seed=5, max_tokens=20), lambda: False)
    )
    texts = ["".join(each.text for each in chunks if each.index == index) for index in range(3)]
    alone = [
        answer(engine, request(temperature=1.0, seed=5 + n, max_tokens=20))[0] for n in range(3)
    ]
    assert texts == alone
    assert [chunk.index for chunk in chunks if chunk.finish_reason] == [0, 1, 2]
    assert usage(chunks[-1]).completion_tokens == sum(
        chunk.tokens for chunk in chunks if chunk.finish_reason
    )


def test_log_probabilities_are_of_the_model(engine: GenAIEngine) -> None:
    asked = request(max_tokens=6, logprobs=4)
    chunks = [chunk for chunk in engine.generate(asked, lambda: False) if chunk.logprobs]
    tokens = [token for chunk in chunks for token in chunk.logprobs]
    assert len(tokens) == 6
    for token in tokens:
        # Greedy: the token is the most likely one.
        assert token.top[0] == (token.data, token.logprob)
        assert [logprob for _, logprob in token.top] == sorted(
            (logprob for _, logprob in token.top), reverse=True
        )
        assert sum(math.exp(logprob) for _, logprob in token.top) <= 1
    assert b"".join(token.data for token in tokens).decode() == answer(engine, asked)[0]
    warm = answer(engine, request(max_tokens=6, temperature=2.0, seed=1))[0]
    assert warm != answer(engine, asked)[0]


def test_bias_bans_a_token(engine: GenAIEngine) -> None:
    """The tiny model repeats one letter."""
    text, _ = answer(engine, request(max_tokens=8))
    number = 3 + sorted(ByteLevel.alphabet()).index(text[0])
    banned, _ = answer(engine, request(max_tokens=8, logit_bias=((number, -100.0),)))
    assert text[0] not in banned
    forced, _ = answer(engine, request(max_tokens=8, logit_bias=((number + 1, 100.0),)))
    assert len(set(forced)) == 1


def test_bias_of_a_token_that_is_not_there_is_refused(engine: GenAIEngine) -> None:
    with pytest.raises(RequestError, match="99999"):
        next(engine.generate(request(logit_bias=((99999, 1.0),)), lambda: False))


def test_penalties_end_repetition(engine: GenAIEngine) -> None:
    text, _ = answer(engine, request())
    for option in ("frequency_penalty", "presence_penalty"):
        varied, _ = answer(engine, request(**{option: 2.0}))  # type: ignore[arg-type]
        assert len(set(varied)) > len(set(text))
    assert answer(engine, request(repetition_penalty=1.8))[0] != text


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_guided_answer_keeps_to_its_schema(engine: GenAIEngine, temperature: float) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    guidance = Guidance(kind="json_schema", data=json.dumps(schema))
    for seed in range(3):
        asked = request(guidance=guidance, temperature=temperature, seed=seed, max_tokens=200)
        text, last = answer(engine, asked)
        if last.finish_reason == FinishReason.STOP:
            assert json.loads(text)["a"] in ("x", "y")
        text_again, last = answer(engine, asked)
        assert text_again == text
        assert usage(last).cached_tokens > 0


def test_guided_answer_that_runs_out_of_tokens_says_so(engine: GenAIEngine) -> None:
    guidance = Guidance(kind="regex", data="a{20}")
    text, last = answer(engine, request(guidance=guidance, max_tokens=7))
    assert (text, last.finish_reason) == ("a" * 7, FinishReason.LENGTH)
    text, last = answer(engine, request(guidance=guidance))
    assert (text, last.finish_reason) == ("a" * 20, FinishReason.STOP)


def test_tokens_that_a_grammar_forces_go_through_the_model_together(
    engine: GenAIEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    append_tokens = TextSequence.append_tokens

    def counted(sequence: TextSequence, tokens: Tokens) -> None:
        runs.append(len(tokens))
        append_tokens(sequence, tokens)

    monkeypatch.setattr(TextSequence, "append_tokens", counted)
    guidance = Guidance(kind="lark_grammar", data='start: "ab" /[0-9]/ "cdef" /[0-9]/ "gh"\n')
    text, last = answer(engine, request(guidance=guidance))
    assert (text[:2], text[3:7], text[8:]) == ("ab", "cdef", "gh")
    # With the end token, which the model does not see, and neither do the last ones need it to.
    assert usage(last).completion_tokens == len(text) + 1
    assert runs[-2:] == [2, 5]


def test_guided_and_free_answers_share_a_prompt_cache(engine: GenAIEngine) -> None:
    prompt = "A prompt that no other test has, and long enough to be worth it"
    guidance = Guidance(kind="regex", data="a{3}")
    assert usage(answer(engine, request(prompt, max_tokens=2))[1]).cached_tokens == 0
    guided: dict[str, Any] = {"guidance": guidance}
    for options in (guided, {}, guided):
        text, last = answer(engine, request(prompt, **options))
        assert usage(last).cached_tokens == len(prompt) - 2
        assert (text == "aaa") == bool(options)


def test_conversation_goes_on_after_a_guided_answer(engine: GenAIEngine, tiny_onnx: Path) -> None:
    """What the model has not seen of that answer, it sees then."""
    guidance = Guidance(kind="lark_grammar", data='start: /[0-9]/ "and some certain text"\n')
    prompt = "Another prompt that no other test has"
    text, _ = answer(engine, request(prompt, guidance=guidance))
    later = request(prompt + text + " then", max_tokens=20)
    fresh = GenAIEngine(tiny_onnx, context_length=CONTEXT, threads=1)
    wanted, _ = answer(fresh, later)
    found, last = answer(engine, later)
    assert found == wanted
    assert usage(last).cached_tokens >= len(prompt)


def test_log_probabilities_are_those_of_forced_tokens_too(engine: GenAIEngine) -> None:
    guidance = Guidance(kind="lark_grammar", data='start: "ab" /[0-9]{3}/ "cde" /[0-9]+/\n')
    sampled: dict[str, Any] = {"temperature": 1.0, "seed": 3}
    for options in ({}, sampled):
        asked = request(guidance=guidance, max_tokens=12, **options)
        scored = request(guidance=guidance, max_tokens=12, logprobs=2, **options)
        chunks = list(engine.generate(scored, lambda: False))
        tokens = [token for chunk in chunks for token in chunk.logprobs]
        assert len(tokens) == 12
        assert all(token.logprob is not None and len(token.top) == 2 for token in tokens)
        text = "".join(chunk.text for chunk in chunks)
        assert b"".join(token.data for token in tokens) == text.encode()
        assert answer(engine, asked)[0] == text


def test_several_guided_answers(engine: GenAIEngine) -> None:
    guidance = Guidance(kind="regex", data="[a-z]{5}-[a-z]{5}")
    asked = request(guidance=guidance, n=3, temperature=1.0, seed=5)
    chunks = list(engine.generate(asked, lambda: False))
    texts = ["".join(chunk.text for chunk in chunks if chunk.index == n) for n in range(3)]
    assert all(re.fullmatch("[a-z]{5}-[a-z]{5}", text) for text in texts)
    assert len(set(texts)) == 3
    for number, text in enumerate(texts):
        alone = request(guidance=guidance, temperature=1.0, seed=5 + number)
        assert answer(engine, alone)[0] == text


def test_guidance_that_the_engine_cannot_read_is_a_fault_of_ours(
    engine: GenAIEngine, caplog: pytest.LogCaptureFixture
) -> None:
    bad = Guidance(kind="lark_grammar", data='start: ) "secret"')
    with pytest.raises(EngineError, match="rejected the response grammar") as caught:
        next(engine.generate(request(guidance=bad), lambda: False))
    assert caught.value.http_status == 500
    [line] = [line for line in caplog.records if line.message == "grammar_rejected"]
    assert "secret" not in str(vars(line))


def test_beam_search_finds_a_likelier_answer(engine: GenAIEngine) -> None:
    text, last = answer(engine, request(num_beams=4, max_tokens=12))
    assert usage(last).completion_tokens == last.tokens
    assert last.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    assert answer(engine, request(num_beams=4, max_tokens=12))[0] == text
    stopped, _ = answer(engine, request(num_beams=4, max_tokens=12, stop=(text[2:5],)))
    assert stopped == text.partition(text[2:5])[0]


def test_request_beyond_the_memory_for_kv_caches_is_refused(tiny_onnx: Path) -> None:
    small = GenAIEngine(tiny_onnx, context_length=CONTEXT, threads=1, kv_cache_bytes=100 << 10)
    with pytest.raises(OutOfMemoryError, match="KV cache") as caught:
        next(small.generate(request(max_tokens=500), lambda: False))
    assert "max_tokens" in caught.value.hint
    assert answer(small, request(max_tokens=20))[1].finish_reason


def test_request_waits_for_the_memory_that_another_has(tiny_onnx: Path) -> None:
    small = GenAIEngine(tiny_onnx, context_length=CONTEXT, threads=1, kv_cache_bytes=150 << 10)
    running = small.generate(request(max_tokens=100), lambda: False)
    assert [next(running) for _ in range(3)][-1].tokens == 1
    waiting = small.generate(request("Other", max_tokens=100), lambda: False)
    assert next(waiting) == GenerationChunk(prompt_tokens=len("Other"))
    assert [next(waiting) for _ in range(20)] == [GenerationChunk()] * 20
    *_, last = running
    assert usage(last).completion_tokens
    *_, last = waiting
    assert usage(last).completion_tokens


def test_cancelled_while_waiting_for_memory(tiny_onnx: Path) -> None:
    small = GenAIEngine(tiny_onnx, context_length=CONTEXT, threads=1, kv_cache_bytes=150 << 10)
    running = small.generate(request(max_tokens=100), lambda: False)
    next(running)
    *_, last = small.generate(request("Other", max_tokens=100), lambda: True)
    assert last.finish_reason == FinishReason.CANCELLED
    running.close()


def test_device_without_free_memory_says_so(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = GenAIEngine(tiny_onnx, context_length=CONTEXT, threads=1)
    monkeypatch.setattr(engine._cache, "_available", lambda: 0)
    with pytest.raises(NoMemoryNowError):
        next(engine.generate(request(), lambda: False))


@pytest.fixture(scope="module")
def adapted(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an adapter `other`: the weight of its last norm can be exchanged."""
    import onnx
    from onnxruntime import AdapterFormat, OrtValue

    folder = tmp_path_factory.mktemp("adapted") / "model"
    shutil.copytree(tiny_onnx, folder)
    graph = onnx.load(folder / "model.onnx")
    (norm,) = (each for each in graph.graph.initializer if "final_norm" in each.name)
    graph.graph.input.append(
        onnx.helper.make_tensor_value_info(norm.name, norm.data_type, list(norm.dims))
    )
    values = onnx.numpy_helper.to_array(norm)
    for path in folder.glob("model.onnx*"):
        path.unlink()
    onnx.save(graph, folder / "model.onnx")
    (folder / "adapters").mkdir()
    adapter = AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    adapter.set_parameters({norm.name: OrtValue.ortvalue_from_numpy(-values)})
    adapter.export_adapter(str(folder / "adapters" / "other.onnx_adapter"))
    return folder


def test_adapter_changes_the_answer_of_its_requests_alone(adapted: Path) -> None:
    engine = GenAIEngine(adapted, context_length=CONTEXT, threads=1)
    plain = answer(engine, request())[0]
    other = answer(engine, request(adapter="other"))[0]
    assert other != plain
    assert answer(engine, request())[0] == plain
    assert answer(engine, request(adapter="other"))[0] == other
    with pytest.raises(RequestError, match="none"):
        next(engine.generate(request(adapter="none"), lambda: False))


def test_adapters_are_models_of_the_api(adapted: Path) -> None:
    found = ServedModel.of("tiny", adapted, max_tokens=5, max_messages=9, system_prompt="")
    assert found.models == ("tiny", "tiny:other")


def test_model_built_for_webgpu_runs_on_the_cpu(
    engine: GenAIEngine, tiny_onnx: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_onnx, folder)
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    options = config["model"]["decoder"]["session_options"]
    options["provider_options"] = [{"webgpu": {"validationMode": "basic"}}]
    path.write_text(json.dumps(config))
    same = GenAIEngine(folder, context_length=CONTEXT, threads=1)
    answers = [
        "".join(chunk.text for chunk in one.generate(request(), lambda: False))
        for one in (engine, same)
    ]
    assert answers[0] == answers[1] != ""
