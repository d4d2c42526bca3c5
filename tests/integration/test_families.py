"""Every family of models: what is built of it does as transformers does, and its chat likewise.

docs/families.md is the table of what is tested here.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
import pytest

from device_runtime.errors import RequestError
from device_runtime.inference.engine import GenerationRequest, Message
from device_runtime.inference.genai_engine import GenAIEngine
from device_runtime.tokenizer.templates import ChatTemplates
from device_runtime.tokenizer.tokenizer import Tokenizer
from packager.errors import QuantizeError
from packager.genai import folder as genai_folder
from packager.genai.corrections import BUILT_AS
from packager.jobs import check, generation
from packager.jobs.job import Work
from packager.jobs.measure import DecoderGraph, TimeDecoding
from packager.models.catalog import ARCHITECTURES, REFUSED
from packager.models.folder import _REMOTE_CODE
from packager.quantize import builder
from tests.support import families
from tests.support.commands import edgepack, make_offline, refused
from tests.support.families import CONVERSATIONS
from tests.support.families.builds import PRECISIONS, TOKENS
from tests.support.families.models import FAMILIES
from tests.support.families.variants import OTHERS, VARIANTS

pytestmark = pytest.mark.slow

CASES = [
    (family.name, length)
    for family in (*FAMILIES.values(), *VARIANTS.values(), *OTHERS.values())
    for length in family.prompt_tokens
]

WINDOWED = [name for name, family in FAMILIES.items() if family.window]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tiny models, built in one process."""
    folder = tmp_path_factory.mktemp("families")
    make_offline("tests.support.families.builds", folder)
    return folder


def generate(folder: Path, prompt: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Greedy tokens, whatever ends a text, and the logits of the first."""

    model = og.Model(str(folder))
    length = len(prompt) + TOKENS
    generator = generation.generator(model, folder, length, min_length=length)
    generator.append_tokens(prompt.astype(np.int32))
    logits = np.array(generator.get_logits()).reshape(-1)
    for _ in range(TOKENS):
        generator.generate_next_token()
    return generator.get_sequence(0)[len(prompt) :].tolist(), logits


@pytest.mark.parametrize(("name", "length"), CASES, ids=[f"{n}-{length}" for n, length in CASES])
def test_fp32_generates_the_tokens_of_transformers(built: Path, name: str, length: int) -> None:
    expected = np.load(built / name / "expected.npz")
    # Else the test would tell of rounding, or of nothing.
    assert expected[f"margin-{length}"] > 1e-3
    assert len(set(expected[f"tokens-{length}"].tolist())) > TOKENS / 8
    tokens, logits = generate(built / name / "fp32", expected[f"prompt-{length}"])
    assert tokens == expected[f"tokens-{length}"].tolist()
    finite = np.isfinite(logits)
    wanted = expected[f"logits-{length}"][finite]
    assert np.abs(logits[finite] - wanted).max() < 1e-4 * wanted.std()


@pytest.mark.parametrize("name", [*FAMILIES, *VARIANTS, *OTHERS])
def test_evaluation_sees_the_logits_of_transformers(built: Path, name: str) -> None:
    expected = np.load(built / name / "expected.npz")
    logits = DecoderGraph(built / name / "fp32").logits(expected["prompt-40"])[-1]
    wanted = expected["logits-40"]
    # Tokens that end a text are ruled out in what was expected.
    finite = np.isfinite(wanted)
    assert np.abs(logits[finite] - wanted[finite]).max() < 1e-4 * wanted[finite].std()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_quantized_model_loads_and_generates(built: Path, name: str, precision: str) -> None:
    folder = built / name / precision
    graph = check.inspect_graph(folder)
    bits = {weight.bits for weight in graph.quantized}
    assert bits == {int(precision.removeprefix("int"))}
    if name in FAMILIES:
        assert "MatMul" not in graph.operators
    assert graph.operators["GatherBlockQuantized"] == 1
    expected = np.load(built / name / "expected.npz")
    tokens, logits = generate(folder, expected["prompt-40"])
    assert len(tokens) == TOKENS
    finite = np.isfinite(logits)
    likeness = np.corrcoef(logits[finite], expected["logits-40"][finite])[0, 1]
    assert likeness > {"int8": 0.99, "int4": 0.7}[precision]


@pytest.mark.parametrize("name", WINDOWED)
def test_short_question_runs_on_a_model_with_a_longer_window(built: Path, name: str) -> None:
    folder = built / name / "int4"
    decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
    assert decoder["sliding_window"]["window_size"] == FAMILIES[name].window >= 512
    model = generation.load(folder)
    assert isinstance(generation.respond(model, Tokenizer(folder), folder, "Hi", 4), str)
    assert all(
        speed > 0 for speed in TimeDecoding(models=(folder,), tokens=4, rounds=1).run(Work())
    )


def test_context_shorter_than_the_window_opens_the_whole_window(
    built: Path, tmp_path: Path
) -> None:

    folder = Path(shutil.copytree(built / "Mistral" / "int4", tmp_path / "model"))
    genai_folder.limit_context(folder, 2048)
    config = json.loads((folder / "genai_config.json").read_text())
    assert genai_folder.context_length(config, 2048) == 2048
    # As an application that links ONNX Runtime GenAI itself runs it, with the folder's own options.
    model = og.Model(str(folder))
    generator = og.Generator(model, og.GeneratorParams(model))
    generator.append_tokens(np.arange(20, 30, dtype=np.int32))
    generator.generate_next_token()
    assert generator.token_count() == 11


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", [name for name, each in FAMILIES.items() if each.template])
def test_chat_template_gives_the_tokens_of_transformers(
    built: Path, name: str, conversation: str
) -> None:
    folder = built / name / "fp32"
    templates = ChatTemplates.of(folder)
    messages = CONVERSATIONS[conversation]
    expected = json.loads((built / name / "templates.json").read_text())[conversation]
    if expected is None:
        assert not FAMILIES[name].system
        assert messages[0]["role"] == "system"
        with pytest.raises(RequestError, match="System role not supported"):
            templates.render(messages)
    else:
        text = templates.render(messages)
        assert Tokenizer(folder).encode(text, special=False) == expected


@pytest.mark.parametrize("text", families.TEXTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_plain_text_gives_the_tokens_of_transformers(built: Path, name: str, text: str) -> None:
    expected = json.loads((built / name / "templates.json").read_text())[text]
    assert Tokenizer(built / name / "fp32").encode(text, special=True) == expected


def test_device_normalizes_text_as_the_tokenizer_wants_it(built: Path) -> None:
    decomposed = "Cafe\u0301, u\u0308ber"
    counts = {}
    for text in (decomposed, "Caf\u00e9, \u00fcber"):
        engine = GenAIEngine(built / "Qwen2" / "int4", context_length=256, threads=1)
        request = GenerationRequest(prompt=(Message(role="user", content=text),), max_tokens=1)
        *_, last = engine.generate(request, lambda: False)
        assert last.usage is not None
        counts[text] = last.usage.prompt_tokens
    assert len(set(counts.values())) == 1


def test_device_reads_a_long_prompt_as_transformers_does(built: Path) -> None:
    folder = built / "Phi-3.5" / "fp32"
    tokenizer = Tokenizer(folder)
    text = "word 1 and " * 900
    prompt = tokenizer.encode(text, special=True)
    assert len(prompt) > families.SWITCH
    engine = GenAIEngine(folder, context_length=8192, threads=1)
    request = GenerationRequest(prompt=text, max_tokens=8)
    answer = "".join(chunk.text for chunk in engine.generate(request, lambda: False))
    at_once = generate(folder, np.array(prompt, np.int32))[0][:8]
    assert answer.strip() == tokenizer.decode(at_once).strip()


def answer(engine: GenAIEngine, text: str) -> tuple[str, int]:
    """The greedy answer, and how many tokens of the prompt were remembered."""
    request = GenerationRequest(prompt=text, max_tokens=12)
    *chunks, last = engine.generate(request, lambda: False)
    assert last.usage is not None
    return "".join(chunk.text for chunk in chunks) + last.text, last.usage.cached_tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_remembered_conversation_goes_on_as_a_new_one_would(built: Path, name: str) -> None:
    folder = built / name / "int4"
    engine = GenAIEngine(folder, context_length=1024, threads=1)
    first = "word 1 and " * 20
    second = first + answer(engine, first)[0] + " another word"
    while engine.idle():
        pass
    with_reuse, remembered = answer(engine, second)
    fresh = GenAIEngine(folder, context_length=1024, threads=1)
    assert (with_reuse, 0) == answer(fresh, second)
    # A KV cache with a sliding window cannot go back: such a conversation is read anew.
    assert remembered > 20 or name in WINDOWED


def test_remembered_conversation_across_the_switch_of_long_rope(built: Path) -> None:
    """What was read with the short factors is not used for a text that takes the long ones."""
    folder = built / "Phi-3.5" / "fp32"
    engine = GenAIEngine(folder, context_length=8192, threads=1)
    short, long = "word 1 and " * 300, "word 1 and " * 900
    answer(engine, short)
    for text in (long, short, long):
        found = answer(engine, text)
        assert found[0] == answer(GenAIEngine(folder, context_length=8192, threads=1), text)[0]
        assert (found[1] == 0) == (text is long)


def test_which_architectures_are_compared() -> None:
    compared = {family.architecture for family in (*FAMILIES.values(), *OTHERS.values())}
    # GPT-OSS is read from its own packed experts; others exist as code beside the weights alone, or
    # are the text models of those that are compared.
    without = {"GptOssForCausalLM", *_REMOTE_CODE, *BUILT_AS}
    assert compared | without == set(ARCHITECTURES)
    assert not compared & without


@pytest.mark.parametrize(("architecture", "reason"), REFUSED.items())
def test_refused_architecture_says_why(tmp_path: Path, architecture: str, reason: str) -> None:
    hf = families.make_hf(FAMILIES["Qwen2"], tmp_path / "hf")
    path = hf / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": [architecture]}))
    outcome = edgepack("build", "--profile", "mobile", "--model", hf, "-o", tmp_path / "b.epk")
    refused(outcome, 4, architecture, reason)


def test_olmo_that_clips_is_refused(tmp_path: Path) -> None:
    base = OTHERS["OLMo"]
    hf = families.make_hf(replace(base, config={**base.config, "clip_qkv": 8.0}), tmp_path / "hf")
    with pytest.raises(QuantizeError, match="clip_qkv"):
        job = builder.job(
            hf, precision="fp32", execution_provider="cpu", options={}, trust_remote_code=False
        )
        builder.build(job, tmp_path / "onnx")
