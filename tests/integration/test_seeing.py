"""Prompts with images in the inference process: tokens, KV caches, limits, hostile files."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image as Picture

from device_runtime import memory
from device_runtime.bundle.release import Release
from device_runtime.errors import DeviceError, RequestError
from device_runtime.inference.engine import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Guidance,
    Image,
    Message,
    NoMemoryNowError,
    PromptTooLongError,
    Usage,
)
from device_runtime.inference.genai_engine import GenAIEngine
from device_runtime.inference.genai_library import LONG_ROPE_FROM
from tests.support import seeing, tiny_seeing, tiny_vision
from tests.support.hostile_images import encoded, hostile_images
from tests.support.serving import Serving, chat_body

END_TOKEN = 2
MOST_GROWTH = 600 << 20
"""Growth of the inference process, bytes: a decoder's and the image processor's, and the pool of
the engine."""


def image(colour: str, size: tuple[int, int] = (64, 64), form: str = "PNG") -> Image:
    return Image(encoded(Picture.new("RGB", size, colour), form))


def request(*content: str | Image, **options: Any) -> GenerationRequest:
    has_image = any(isinstance(part, Image) for part in content)
    turn = Message(role="user", content=content if has_image else "Hello")
    return GenerationRequest(prompt=(turn,), **{"max_tokens": 8, **options})


def answers(engine: GenAIEngine, asked: GenerationRequest) -> tuple[list[str], GenerationChunk]:
    texts = [""] * asked.n
    for chunk in engine.generate(asked, lambda: False):
        texts[chunk.index] += chunk.text
    return texts, chunk


def usage(chunk: GenerationChunk) -> Usage:
    assert chunk.usage is not None
    return chunk.usage


@pytest.fixture(scope="module")
def engine(seeing_onnx: Path) -> GenAIEngine:
    return GenAIEngine(seeing_onnx, context_length=tiny_vision.POSITIONS, threads=2)


def test_answers_depend_on_the_image_and_not_on_what_was_asked_before(engine: GenAIEngine) -> None:
    plain, _ = answers(engine, request())
    by_colour: dict[str, list[str]] = {}
    for colour in ("red", "blue", "green", "red"):
        text, last = answers(engine, request(image(colour), "What?"))
        assert by_colour.setdefault(colour, text) == text
        assert usage(last).cached_tokens == 0
        assert usage(last).prompt_tokens > tiny_vision.SQUARE_TOKENS
    assert len({str(text) for text in by_colour.values()}) == 3
    engine.warm("Be brief.")
    while engine.idle():
        pass
    assert answers(engine, request())[0] == plain


def test_format_of_the_file_does_not_matter(engine: GenAIEngine) -> None:
    texts = {
        answers(engine, request(image("red", form=form), "What?"))[0][0]
        for form in ("PNG", "JPEG", "WEBP")
    }
    assert len(texts) == 1


def test_tokens_are_those_of_the_engines_own_processor(
    engine: GenAIEngine, seeing_onnx: Path
) -> None:
    import onnxruntime_genai as og

    pictures = [image("red"), image("blue", (300, 100))]
    asked = request(pictures[0], "and", pictures[1], "differ")
    tokens = engine._model.prompts.encode(asked, asked.prompt).tokens
    model = og.Model(str(seeing_onnx))
    turn = "<|im_start|>user\n<|image_1|>\nand\n<|image_2|>\ndiffer<|im_end|>\n"
    files = og.Images.open_bytes(*(picture.data for picture in pictures))
    processed = model.create_multimodal_processor()(f"{turn}<|im_start|>assistant\n", images=files)
    assert tokens.tolist() == processed["input_ids"].as_numpy()[0].tolist()


def test_several_answers_to_a_prompt_are_those_of_several_requests(engine: GenAIEngine) -> None:
    sampled = {"temperature": 1.0, "repetition_penalty": 1.1, "max_tokens": 6}
    both, last = answers(engine, request(image("red"), "What?", n=2, seed=4, **sampled))
    separate = [
        answers(engine, request(image("red"), "What?", seed=seed, **sampled))[0][0]
        for seed in (4, 5)
    ]
    assert both == separate
    assert usage(last).completion_tokens == 12


def test_options_of_an_answer_apply_to_images_too(engine: GenAIEngine) -> None:
    digits = Guidance(kind="regex", data="[0-9]{5}")
    (text,), _ = answers(engine, request(image("red"), "x", guidance=digits))
    assert text.isdigit()
    chunks = list(engine.generate(request(image("red"), "x", logprobs=2), lambda: False))
    assert sum(len(chunk.logprobs) for chunk in chunks) == 8
    for refused in ({"num_beams": 2}, {"adapter": "none"}):
        with pytest.raises(RequestError):
            answers(engine, request(image("red"), "x", **refused))


def test_tokens_of_images_are_counted(engine: GenAIEngine) -> None:
    _, text = answers(engine, request(counts=True))
    for size, tokens in (((64, 64), tiny_vision.SQUARE_TOKENS), ((10, 160), 2653)):
        _, last = answers(engine, request(image("red", size), "Hello", counts=True))
        # The line break after the image.
        assert usage(last).prompt_tokens == usage(text).prompt_tokens + tokens + 1


def test_image_that_does_not_fit_into_the_context_is_refused(seeing_onnx: Path) -> None:
    engine = GenAIEngine(seeing_onnx, context_length=1024, threads=1)
    with pytest.raises(PromptTooLongError, match="maximum context length is 1024") as refusal:
        answers(engine, request(image("red"), "x"))
    assert "fewer images" in refusal.value.hint


def test_answer_ends_where_earlier_positions_would_change(engine: GenAIEngine) -> None:
    asked = request(image("red"), "x", max_tokens=4000, logit_bias=((END_TOKEN, -100.0),))
    _, last = answers(engine, asked)
    assert last.finish_reason is FinishReason.LENGTH
    assert usage(last).prompt_tokens + usage(last).completion_tokens == LONG_ROPE_FROM


def test_request_with_an_image_can_be_cancelled(engine: GenAIEngine) -> None:
    *_, last = engine.generate(request(image("red"), "x"), lambda: True)
    assert last.finish_reason is FinishReason.CANCELLED
    assert usage(last).completion_tokens == 0


def test_memory_that_is_short_is_told(engine: GenAIEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 32 << 20)
    with pytest.raises(NoMemoryNowError):
        answers(engine, request(image("red"), "x"))


def test_model_that_takes_text_alone_says_so(tiny_onnx: Path) -> None:
    engine = GenAIEngine(tiny_onnx, context_length=512, threads=1)
    with pytest.raises(RequestError, match="takes text alone"):
        answers(engine, request(image("red"), "x"))


@pytest.mark.parametrize(
    ("family", "architecture", "names"),
    [
        ("gemma3", "Gemma3", {"pixel_values": "pixel_values"}),
        (
            "lfm2_vl",
            "Lfm2Vl",
            {
                "pixel_values": "pixel_values",
                "image_sizes": "spatial_shapes",
                "image_attention_mask": "pixel_attention_mask",
            },
        ),
        ("mistral3", "Mistral3", {"pixel_values": "pixel_values", "image_sizes": "image_sizes"}),
        (
            "qwen2_5_vl",
            "Qwen2_5_VL",
            {"pixel_values": "pixel_values", "image_grid_thw": "image_grid_thw"},
        ),
    ],
)
def test_answers_of_other_families_are_those_of_transformers(
    family: str, architecture: str, names: dict[str, str], tmp_path: Path
) -> None:
    import torch
    import transformers

    hf = getattr(tiny_seeing, f"make_{family}")(tmp_path / "hf")
    folder = seeing.build(hf, tmp_path / "work")
    loaded = getattr(transformers, f"{architecture}ForConditionalGeneration")
    reference = loaded.from_pretrained(hf, dtype=torch.float32)
    engine = GenAIEngine(folder, context_length=2048, threads=2)
    sizes = ((140, 84), (56, 112))
    if family == "lfm2_vl":
        together = [Image(seeing.png(seeing.picture(3, *size))) for size in sizes]
        with pytest.raises(RequestError, match="does not take these images together"):
            answers(engine, request(*together, "?"))
        sizes = ((128, 128), (64, 96))
    pictures = [Image(seeing.png(seeing.picture(3, *size))) for size in sizes]
    for content in (pictures[:1], ["One", *pictures, "two"]):
        asked = request(*content, "?", logprobs=0, max_tokens=seeing.TOKENS)
        prompt = engine._model.prompts.encode(asked, asked.prompt)
        given = {
            name: torch.from_numpy(value if isinstance(value, np.ndarray) else value.as_numpy())
            for own, name in names.items()
            for value in (prompt.images[own],)
        }
        ids = prompt.tokens[None]
        is_image = torch.from_numpy(ids == reference.config.image_token_id).long()
        if family == "gemma3":
            # The tokens of a picture see each other.
            given["token_type_ids"] = is_image
        elif family == "qwen2_5_vl":
            # They have positions of their own.
            given["mm_token_type_ids"] = is_image
        expected, _ = seeing.expected(reference, ids, **given)
        chunks = engine.generate(asked, lambda: False)
        actual = [token.token for chunk in chunks for token in chunk.logprobs]
        assert actual == expected[: len(actual)]
        assert len(actual) >= seeing.TOKENS - 1


@pytest.fixture(scope="module")
def server(seeing_release: Release) -> Iterator[Serving]:
    with Serving(seeing_release.folder, "--max-body-kib", "65536") as serving:
        yield serving


def test_status_says_how_the_model_sees(server: Serving) -> None:
    assert server.get("/v1/status")["vision"] == {
        "family": "phi3v",
        "image_tokens": tiny_vision.VISION.image_tokens,
        "prompt_cache": False,
    }


def test_odd_images_that_decode_or_may_leave_the_process_as_it_is(server: Serving) -> None:
    """A third of them, for the image processor makes 2,000 tokens of each; `test_images.py` has
    those that must be refused."""
    files = [file for file in hostile_images() if file.size or "noise" in file.name][::3]
    assert len(files) >= 70
    worker = server.worker
    process = psutil.Process(worker)
    before = peak = process.memory_info().rss
    with httpx.Client(base_url=server.url, timeout=120) as client:
        for file in files:
            data = base64.b64encode(file.data).decode()
            source = {"type": "base64", "media_type": "image/png", "data": data}
            content = [{"type": "image", "source": source}, {"type": "text", "text": "?"}]
            body = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
            answer = client.post("/v1/messages/count_tokens", json=body)
            allowed = (200,) if file.size else (200, 400)
            assert answer.status_code in allowed, (file.name, answer.text)
            peak = max(peak, process.memory_info().rss)
    assert peak - before < MOST_GROWTH
    assert server.worker == worker
    assert server.get("/v1/status")["worker_restarts"] == 0
    assert server.chat(**chat_body()).status_code == 200


def test_errors_of_images_are_errors_of_requests(engine: GenAIEngine) -> None:
    for data in (b"", b"GIF89a", bytes(100)):
        with pytest.raises(DeviceError) as refusal:
            answers(engine, request(Image(data), "x"))
        assert (refusal.value.http_status, refusal.value.wire_name) == (400, "image")
