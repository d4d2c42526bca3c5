"""Every family of models: what is built of it does as transformers does, and its chat likewise.

docs/families.md is the table of what is tested here.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime_genai as og
import pytest

from device_runtime.errors import RequestError
from device_runtime.inference.engine import GenerationRequest, Message
from device_runtime.inference.genai_engine import GenAIEngine
from device_runtime.inference.genai_library import LONG_ROPE_FROM
from device_runtime.inference.genai_model import GenAIModel
from device_runtime.inference.kv_cache import Slot
from device_runtime.memory import PROMPT_STEP
from device_runtime.tokenizer.templates import ChatTemplates
from device_runtime.tokenizer.tokenizer import Tokenizer
from packager.errors import QuantizeError
from packager.genai import folder as genai_folder
from packager.genai import linears
from packager.genai.corrections import BUILT_AS
from packager.jobs import check, generation, reasoning
from packager.jobs.calibrate import Calibrate
from packager.jobs.job import Work
from packager.jobs.measure import DecoderGraph, TimeDecoding
from packager.models.catalog import ARCHITECTURES, REFUSED
from packager.models.folder import _REMOTE_CODE
from packager.quantize import builder
from packager.recipes.nodes import EMBEDDING, HEAD
from packager.recipes.recipes import RECIPES
from packager.weights import stored
from tests.support import families
from tests.support.commands import edgepack, make_offline, refused
from tests.support.families import CONVERSATIONS, builds
from tests.support.families.builds import BLOCK_SIZE, PRECISIONS, TOKENS
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
    tokens, logits = generate(built / name / "fp32", expected[f"prompt-{length}"])
    assert tokens == expected[f"tokens-{length}"].tolist()
    finite = np.isfinite(logits)
    wanted = expected[f"logits-{length}"][finite]
    assert np.abs(logits[finite] - wanted).max() < 1e-4 * wanted.std()


@pytest.mark.parametrize(("name", "length"), CASES, ids=[f"{n}-{length}" for n, length in CASES])
def test_device_generates_the_tokens_of_transformers(built: Path, name: str, length: int) -> None:
    """Of a prompt in chunks, of which a sliding window forgets the first."""
    expected = np.load(built / name / "expected.npz")
    prompt = expected[f"prompt-{length}"].astype(np.int32)
    model = GenAIModel(built / name / "fp32", context_length=length + TOKENS, threads=1)
    capacity = max(length + TOKENS, model.min_capacity)
    slot = Slot(model.generator(capacity, ""), capacity, "")
    step = len(prompt) if model.at_once(length + TOKENS) else PROMPT_STEP
    for begin in range(0, len(prompt), step):
        slot.append(prompt[begin : begin + step])
    for _ in range(TOKENS):
        logits = np.array(slot.generator.get_logits())
        logits[..., list(model.end_tokens)] = -np.inf  # as in what was expected
        slot.generator.set_logits(logits)
        slot.decode()
    assert slot.generated == expected[f"tokens-{length}"].tolist()


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_forget_without_a_trace(built: Path, name: str) -> None:
    """A conversation that goes on after its beginning has left the windows."""
    window = FAMILIES[name].window
    context = min(3 * window + 2048, FAMILIES[name].config["max_position_embeddings"])
    engine, fresh = (
        GenAIEngine(built / name / "int4", context_length=context, threads=1) for _ in range(2)
    )
    prompt = "word 1 and " * ((window + 1024) // 6)  # 6 tokens or more
    for turn in range(3):
        request = GenerationRequest(prompt=prompt, max_tokens=8)
        chunks = list(engine.generate(request, bool))
        text = "".join(chunk.text for chunk in chunks)
        usage = chunks[-1].usage
        assert usage is not None
        assert (usage.cached_tokens > window) == (turn > 0)
        prompt += text + " another word" * 30
        while engine.idle():
            pass
    expected = "".join(chunk.text for chunk in fresh.generate(request, bool))
    assert text == expected


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
    tokens, _ = generate(folder, expected["prompt-40"])
    assert len(tokens) == TOKENS
    logits, wanted = (
        DecoderGraph(built / name / each).logits(expected["prompt-40"])
        for each in (precision, "fp32")
    )
    likeness = np.corrcoef(logits.ravel(), wanted.ravel())[0, 1]
    assert likeness > {"int8": 0.95, "int4": 0.5}[precision]


@pytest.mark.parametrize("name", ["Gemma 4", "LFM2-VL", "Qwen3.5"])
def test_calibrated_weights_reach_every_linear_layer(
    built: Path, tmp_path: Path, name: str
) -> None:
    source, folder, model = built / name / "text", tmp_path / "gptq", tmp_path / "model"
    np.save(tmp_path / "windows.npy", np.random.default_rng(0).integers(10, 400, size=(4, 32)))
    folder.mkdir()
    job = Calibrate(source=source, windows=tmp_path / "windows.npy", block_size=BLOCK_SIZE)
    job.run(Work(folder))
    builds.build(source, model, RECIPES["int4-gptq"], calibrated=folder)
    known: dict[int, set[str]] = {}
    for error in stored.errors(folder):
        known.setdefault(error.layer, set()).add(error.name)
    for weight in check.inspect_graph(model).quantized:
        place = linears.layer_and_name(weight.node)
        origin = linears.origin(weight.node, known[place[0]]) if place else None
        assert origin or weight.node in (EMBEDDING, HEAD), weight.node
    expected = np.load(built / name / "expected.npz")
    tokens, _ = generate(model, expected["prompt-40"])
    assert len(tokens) == TOKENS


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


@pytest.mark.parametrize(
    ("name", "positions", "rows"),
    # The cache of Mistral's window is opened whole.
    [("Gemma 4", 1100, 1100), ("Mistral", 2048, 4096)],
)
def test_graph_has_no_positions_beyond_the_context(
    built: Path, tmp_path: Path, name: str, positions: int, rows: int
) -> None:
    expected = np.load(built / name / "expected.npz")
    source = built / name / ("text" if FAMILIES[name].around else "hf")
    (tmp_path / "model").mkdir()
    job = builder.job(
        source,
        precision="fp32",
        execution_provider="cpu",
        options={},
        trust_remote_code=False,
        positions=positions,
    )
    builder.build(job, tmp_path / "model")
    tables = {
        tensor.dims[0]
        for tensor in onnx.load(str(tmp_path / "model" / "model.onnx")).graph.initializer
        if tensor.name.startswith(("cos_cache", "sin_cache"))
    }
    assert tables == {rows}
    config = json.loads((tmp_path / "model" / "genai_config.json").read_text())
    assert config["model"]["context_length"] == rows
    for length in FAMILIES[name].prompt_tokens:
        if length + TOKENS <= rows:
            tokens, _ = generate(tmp_path / "model", expected[f"prompt-{length}"])
            assert tokens == expected[f"tokens-{length}"].tolist()


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


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if f.thinks])
def test_thinking_is_switched_as_in_transformers(built: Path, name: str, value: bool) -> None:
    folder = built / name / "fp32"
    found = reasoning.find(folder)
    assert found is not None
    assert (found.argument, found.on, found.off) == ("enable_thinking", True, False)
    tokenizer = Tokenizer(folder)
    assert tokenizer.encode(found.begin, special=False) == list(found.begin_tokens)
    text = ChatTemplates.of(folder).render(
        CONVERSATIONS["a conversation"], arguments={"enable_thinking": value}
    )
    expected = json.loads((built / name / "templates.json").read_text())[f"thinking: {value}"]
    assert tokenizer.encode(text, special=False) == expected


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
    # Short convolutions cannot go back: such a conversation is read anew.
    assert remembered > 20 or name == "LFM2-VL"


@pytest.mark.parametrize("name", ["Qwen3.5", "LFM2-VL", "Gemma 4"])
def test_second_turn_of_a_chat_goes_on_as_a_fresh_prompt_would(built: Path, name: str) -> None:
    """Also after an answer whose thoughts the template leaves out, and for two answers."""
    folder = built / name / "fp32"
    told = CONVERSATIONS["thoughts in an earlier answer"]
    turns = [Message(role=turn["role"], content=turn["content"]) for turn in told]
    engine, fresh = (GenAIEngine(folder, context_length=1024, threads=1) for _ in range(2))
    list(engine.generate(GenerationRequest(prompt=tuple(turns[:1]), max_tokens=12), lambda: False))
    while engine.idle():
        pass
    texts = []
    for each in (engine, fresh):
        request = GenerationRequest(prompt=tuple(turns), max_tokens=12, n=2)
        chunks = list(each.generate(request, lambda: False))
        texts.append(["".join(c.text for c in chunks if c.index == index) for index in (0, 1)])
        if each is engine and name == "Qwen3.5":
            usage = chunks[-1].usage
            assert usage is not None
            assert usage.cached_tokens > 20
    assert texts[0] == texts[1]
    assert texts[0][0] == texts[0][1]


@pytest.mark.parametrize("name", ["Qwen3.5", "LFM2-VL"])
def test_beam_search_is_refused_where_the_engine_cannot_do_it(built: Path, name: str) -> None:
    engine = GenAIEngine(built / name / "fp32", context_length=256, threads=1)
    with pytest.raises(RequestError, match="num_beams must be 1"):
        list(engine.generate(GenerationRequest(prompt="a", max_tokens=4, num_beams=2), bool))


@pytest.mark.parametrize("name", ["Qwen2", "Qwen3.5"])
def test_padding_in_a_prompt_is_text(built: Path, name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = built / name / ("text" if FAMILIES[name].around else "hf")
    pad = AutoTokenizer.from_pretrained(source).pad_token_id
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    for prompt in ([0, 20, pad, 30, 40], [20, 30, 0, 40, pad]):
        with torch.inference_mode():
            wanted = model(torch.tensor([prompt])).logits[0, -1].numpy()
        _, logits = generate(built / name / "fp32", np.array(prompt))
        finite = np.isfinite(logits)
        assert np.abs(logits[finite] - wanted[finite]).max() < 1e-4 * wanted.std()


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


def test_tokens_given_across_the_switch_of_long_rope(built: Path) -> None:
    """As when all are given at once: those before the switch take the long factors, too."""
    model = GenAIModel(built / "Phi-3.5" / "fp32", context_length=8192, threads=1)
    tokens = np.arange(LONG_ROPE_FROM + 8, dtype=np.int32) % 300
    whole, parts = model.generator(8192, ""), model.generator(8192, "")
    whole.append_tokens(tokens)
    for part in np.split(tokens, [LONG_ROPE_FROM - 4]):
        parts.append_tokens(part)
    assert np.abs(parts.get_logits()[0, -1] - whole.get_logits()[0, -1]).max() < 1e-4


def test_which_architectures_are_compared() -> None:
    compared = {family.architecture for family in (*FAMILIES.values(), *OTHERS.values())}
    # GPT-OSS is read from its own packed experts; others exist as code beside the weights alone, or
    # are the text models of those that are compared. Phi-3-vision is in test_vision_phi3v.
    without = {"GptOssForCausalLM", "Phi3VForCausalLM", *_REMOTE_CODE, *BUILT_AS}
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
