"""Raw completions as evaluations use them: scores of the prompt, token ids, several prompts."""

import math
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from device_runtime.errors import RequestError
from device_runtime.inference.engine import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    PromptTooLongError,
    RawPrompt,
    TokenIds,
    TokenLogprob,
)
from device_runtime.inference.genai_engine import GenAIEngine
from device_runtime.memory import PROMPT_STEP
from tests.support import releases
from tests.support.serving import Serving

CONTEXT = 512
TEXTS = ("The capital of France is Paris.", "été, naïve 😀", "ab" * PROMPT_STEP + "!")


@pytest.fixture(scope="module")
def engine(tiny_onnx: Path) -> GenAIEngine:
    return GenAIEngine(tiny_onnx, context_length=CONTEXT, threads=1)


def chunks(engine: GenAIEngine, *prompts: RawPrompt, **options: Any) -> list[GenerationChunk]:
    options = {"prompts": prompts, "max_tokens": 1, "echo": True, "logprobs": 1, **options}
    return list(engine.generate(GenerationRequest(prompt="", **options), lambda: False))


def tokens_of(answer: list[GenerationChunk], index: int = 0) -> list[TokenLogprob]:
    return [part for chunk in answer if chunk.index == index for part in chunk.logprobs]


def text_of(answer: list[GenerationChunk], index: int = 0) -> str:
    return "".join(chunk.text for chunk in answer if chunk.index == index)


@pytest.fixture(scope="module")
def reference(tiny_hf: Path) -> Any:
    """The logarithms of the probabilities of each token of a text, and of the best one there."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_hf, dtype=torch.float32)

    def score(ids: list[int]) -> tuple[list[float], list[float]]:
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        own = [float(logprobs[place, token]) for place, token in enumerate(ids[1:])]
        return own, logprobs.max(-1).values.tolist()[:-1]

    return score


@pytest.mark.parametrize("text", TEXTS, ids=["ascii", "parts of characters", "several chunks"])
def test_scores_of_a_prompt_are_those_of_transformers(
    engine: GenAIEngine, reference: Any, text: str
) -> None:
    answer = chunks(engine, text, max_tokens=0)
    echoed = tokens_of(answer)
    own, best = reference([part.token for part in echoed])
    assert echoed[0].logprob is None
    assert [part.logprob for part in echoed[1:]] == pytest.approx(own, abs=1e-4)
    assert [part.top[0][1] for part in echoed[1:]] == pytest.approx(best, abs=1e-4)
    assert b"".join(part.data for part in echoed) == text.encode()
    assert sum(part.characters for part in echoed) == len(text)
    assert text_of(answer) == text
    assert answer[-1].finish_reason is FinishReason.LENGTH
    assert answer[-1].usage is not None
    assert answer[-1].usage.completion_tokens == 0


def test_scores_do_not_depend_on_what_is_cached(engine: GenAIEngine) -> None:
    first = tokens_of(chunks(engine, TEXTS[0]))
    assert tokens_of(chunks(engine, TEXTS[0])) == first
    longer = tokens_of(chunks(engine, TEXTS[0] + " It"))
    assert longer[: len(TEXTS[0])] == first[: len(TEXTS[0])]


def test_one_token_more_than_the_prompt_is_scored_whatever_it_is(engine: GenAIEngine) -> None:
    """lm-evaluation-harness leaves out the last: it must be the generated one."""
    for seed in range(20):
        answer = chunks(engine, "Hi", seed=seed, temperature=2.0, logit_bias=((2, 12.0),))
        assert len(tokens_of(answer)) == 3
        if answer[-1].finish_reason is FinishReason.STOP:
            assert tokens_of(answer)[-1].token == 2
            return
    pytest.fail("no answer ended with the end token")


def test_token_ids_are_taken_as_they_are(engine: GenAIEngine) -> None:
    text = chunks(engine, "Hello", max_tokens=5)
    ids = tuple(part.token for part in tokens_of(text)[:5])
    assert text_of(chunks(engine, TokenIds(ids), max_tokens=5)) == text_of(text)
    special = chunks(engine, TokenIds((0, *ids)), max_tokens=0)
    assert (text_of(special), tokens_of(special)[0].characters) == ("Hello", 0)
    one = chunks(engine, TokenIds(ids[:1]), max_tokens=0)
    assert [part.logprob for part in tokens_of(one)] == [None]


def test_prompts_are_answered_in_order(engine: GenAIEngine) -> None:
    options = {"max_tokens": 4, "seed": 3, "n": 2}
    both = chunks(engine, "Once", "Hello", **options)
    for number, prompt in enumerate(("Once", "Hello")):
        alone = chunks(engine, prompt, **options)
        for index in range(2):
            assert text_of(both, 2 * number + index) == text_of(alone, index)
            assert tokens_of(both, 2 * number + index) == tokens_of(alone, index)
    assert [chunk.usage is None for chunk in both[:-1]] == [True] * (len(both) - 1)
    usage = both[-1].usage
    assert usage is not None
    assert usage.prompt_tokens == len("Once") + len("Hello")


def test_prompts_end_with_the_client(engine: GenAIEngine) -> None:
    request = GenerationRequest(prompt="", prompts=("a", "b"), max_tokens=3)
    answer = engine.generate(request, lambda: True)
    assert [chunk.finish_reason for chunk in answer][-1] is FinishReason.CANCELLED


def test_context_without_an_answer_can_be_full(engine: GenAIEngine) -> None:
    text = "a" * CONTEXT
    assert len(tokens_of(chunks(engine, text, max_tokens=0))) == CONTEXT
    words = f"This model's maximum context length is {CONTEXT} tokens. However, you requested 513"
    with pytest.raises(PromptTooLongError, match=words):
        chunks(engine, text)
    with pytest.raises(PromptTooLongError):
        chunks(engine, "a", text + "a", max_tokens=0)


def test_token_beyond_the_vocabulary_is_refused(engine: GenAIEngine) -> None:
    with pytest.raises(RequestError, match="token 5000 is not in the model's vocabulary"):
        chunks(engine, TokenIds((5, 5000)))


@pytest.fixture(scope="module")
def server(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("completions") / "release"
    release = releases.release(folder, tiny_onnx, context_length=CONTEXT, max_tokens=20)
    with Serving(release.folder) as serving:
        yield serving


def post(server: Serving, **fields: Any) -> dict[str, Any]:
    response = httpx.post(f"{server.url}/v1/completions", json=fields, timeout=60)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_requests_of_lm_evaluation_harness(server: Serving, reference: Any) -> None:
    """Its `local-completions`: log-likelihoods of continuations, in batches of token ids."""
    texts = ("Paris is a city", "Rome is old")
    whole = post(server, prompt=list(texts), max_tokens=0, echo=True, logprobs=0)
    assert [choice["text"] for choice in whole["choices"]] == list(texts)
    ids = [[3 + byte for byte in range(40, 52)], [3 + byte for byte in range(60, 67)]]
    fields = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    answer = post(server, prompt=ids, **fields)
    for number, (choice, prompt) in enumerate(zip(answer["choices"], ids, strict=True)):
        assert choice["index"] == number
        own, best = reference(prompt)
        context = 4
        scores = choice["logprobs"]["token_logprobs"][context:-1]
        assert scores == pytest.approx(own[context - 1 :], abs=1e-4)
        greedy = [max(top.values()) for top in choice["logprobs"]["top_logprobs"][context:-1]]
        assert greedy == pytest.approx(best[context - 1 :], abs=1e-4)
        assert len(choice["logprobs"]["token_logprobs"]) == len(prompt) + 1


def test_texts_of_lm_evaluation_harness_score_as_their_ids(server: Serving, tiny_hf: Path) -> None:
    """Its `tokenized_requests=False`; for a perplexity, the text begins with a special token."""
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(tiny_hf)("<|endoftext|>Paris, été").input_ids
    assert ids[0] == 0
    fields = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    prompts: tuple[Any, ...] = ("<|endoftext|>Paris, été", ["<|endoftext|>Paris, été"], [ids])
    answers = [post(server, prompt=prompt, **fields)["choices"] for prompt in prompts]
    scores = [choice["logprobs"]["token_logprobs"] for (choice,) in answers]
    assert scores[0] == scores[1] == scores[2]
    assert len(scores[0]) == len(ids) + 1


def test_answers_to_lm_evaluation_harness_end_before_any_of_its_stop_strings(
    server: Serving,
) -> None:
    """Its `generate_until`: a task's strings, more than OpenAI's four, and the end token's."""
    ids = [[3 + byte for byte in text.encode()] for text in ("Paris is", "Rome")]
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 20, "seed": 1234}
    unbound = [choice["text"] for choice in post(server, prompt=ids, **fields)["choices"]]
    stop = ["\n\n", "Question:", "Answer:", "</s>", unbound[0][5:8], "<|im_end|>"]
    bound = post(server, prompt=ids, stop=stop, **fields)["choices"]
    assert [choice["index"] for choice in bound] == [0, 1]
    assert [choice["text"] for choice in bound] == [
        text.partition(unbound[0][5:8])[0] for text in unbound
    ]
    assert bound[0]["finish_reason"] == "stop"


def test_openai_client_streams_several_prompts(server: Serving) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=60)
    options: dict[str, Any] = {"model": "tiny", "max_tokens": 3, "echo": True, "logprobs": 1}
    prompts = ["Once", "Hello"]
    model = client.models.list().data[0].id
    whole = client.completions.create(**{**options, "model": model}, prompt=prompts)
    texts = {choice.index: choice.text for choice in whole.choices}
    streamed = dict.fromkeys(texts, "")
    scores: dict[int, list[float | None]] = {index: [] for index in texts}
    with client.completions.create(
        **{**options, "model": model}, prompt=prompts, stream=True
    ) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                streamed[choice.index] += choice.text
                if choice.logprobs is not None:
                    scores[choice.index] += choice.logprobs.token_logprobs or []
    assert streamed == texts
    for choice in whole.choices:
        assert choice.logprobs is not None
        assert scores[choice.index] == choice.logprobs.token_logprobs
        assert all(math.isfinite(score) for score in scores[choice.index][1:] if score is not None)


def test_limits_are_told(server: Serving) -> None:
    (model,) = httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"]
    assert model["max_model_len"] == CONTEXT
    settings = httpx.get(f"{server.url}/v1/status", timeout=60).json()["settings"]
    names = ("context_length", "max_tokens", "threads")
    assert [settings[name] for name in names] == [CONTEXT, 20, 2]
