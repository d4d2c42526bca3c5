"""Prompts with images, with an image processor that says what the engine's would."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from device_runtime import memory
from device_runtime.errors import EngineError, RequestError
from device_runtime.inference.engine import (
    GenerationRequest,
    Image,
    ImageError,
    Message,
    NoMemoryNowError,
)
from device_runtime.inference.prompt_encoder import PromptEncoder
from device_runtime.inference.vision_families import FAMILIES, MARKED, PHI
from device_runtime.inference.vision_prompt import IMAGE_BYTES, VisionPrompts
from device_runtime.tokenizer.templates import ChatTemplates
from device_runtime.tokenizer.tokenizer import Tokenizer
from tests.support.hostile_images import encoded, picture, png

MARKS = sorted({token for family in MARKED.values() for token in family.tokens})


class Array:
    """A tensor as the engine returns it."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self._values = values

    def as_numpy(self) -> npt.NDArray[Any]:
        return self._values


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One of bytes, with the marks of all families, and a BOS token before plain text."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({c: n for n, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(MARKS)
    inner.add_special_tokens(["<s>"])
    bos = inner.token_to_id("<s>")
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    inner.save(str(folder / "tokenizer.json"))
    return Tokenizer(Path(folder))


def processor(tokenizer: Tokenizer, family: str, sizes: Sequence[int] = (2, 3)) -> Any:
    """Return an image processor that gives images these numbers of tokens."""

    def process(prompt: str, files: list[bytes]) -> dict[str, Any]:
        assert all(file.startswith(b"\x89PNG") for file in files)
        ids: list[int | None] = []
        for number, size in enumerate(sizes[: len(files)], 1):
            if family == PHI:
                assert f"<|image_{number}|>" in prompt
                ids += [7, *[-number] * size]
            else:
                assert prompt.count(MARKED[family].marker) == len(files)
                first, inner, last = map(tokenizer.id_of, MARKED[family].tokens)
                ids += [7, first, *[inner] * size, last]
        width, height = struct.unpack_from(">II", files[0], 16)
        pixels = np.ones((len(files), 3, height, width), np.float32)
        return {"input_ids": Array(np.array([ids])), "pixel_values": Array(pixels)}

    return process


def rendered(turns: list[dict[str, Any]], marker: str = "") -> str:
    """Render turns as a template that takes lists, with a marker for each image."""
    text = ""
    for turn in turns:
        content = turn["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text += "[" + "".join(part.get("text", marker) for part in parts) + "]"
    return text


def plain(turns: list[dict[str, Any]]) -> str:
    """Render turns as a template that takes text alone."""
    return "".join("[" + turn["content"] + "]" for turn in turns)


def user(*content: str | Image) -> Message:
    return Message(role="user", content=content)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, special=False)


@pytest.mark.parametrize("family", sorted(MARKED))
@pytest.mark.parametrize("takes_lists", [True, False])
def test_images_stand_where_the_template_puts_them(
    tokenizer: Tokenizer, family: str, takes_lists: bool
) -> None:
    known = MARKED[family]
    messages = [
        Message(role="system", content="Be brief."),
        user("A", Image(png()), "B"),
        Message(role="assistant", content="C"),
        user(Image(png()), Image(png())),
    ]

    def render(turns: list[dict[str, Any]]) -> str:
        if takes_lists:
            return rendered(turns, known.marker)
        if any(isinstance(turn["content"], list) for turn in turns):
            raise RequestError("the model's chat template rejected the messages")
        return plain(turns)

    prompts = VisionPrompts(family, tokenizer, processor(tokenizer, family, (2, 3, 4)))
    tokens, tensors = prompts.encode(messages, render)
    first, inner, last = known.tokens
    blocks = [known.around + first + inner * n + last + known.around for n in (2, 3, 4)]
    text = f"[Be brief.][A{blocks[0]}B][C][{blocks[1]}{blocks[2]}]"
    assert tokens == ids_of(tokenizer, text)
    assert "pixel_values" in tensors


def test_phi_has_negative_ids_and_texts_of_their_own(tokenizer: Tokenizer) -> None:
    prompts = VisionPrompts(PHI, tokenizer, processor(tokenizer, PHI))
    messages = [user(Image(png()), "A"), user("B", Image(png()), "C")]
    tokens, _ = prompts.encode(messages, plain)
    texts = ("[", "\nA][B\n", "\nC]")
    before, between, after = (tokenizer.encode(text, special=True) for text in texts)
    assert tokens == [*before, -1, -1, *between, -2, -2, -2, *after]
    # What looks like the engine's marker is text.
    tokens, _ = prompts.encode([user("<|image_1|>", Image(png()))], plain)
    before, after = (tokenizer.encode(text, special=True) for text in ("[<|image_1|>\n", "]"))
    assert tokens == [*before, -1, -1, *after]


@pytest.mark.parametrize("family", sorted(MARKED))
def test_marks_of_images_in_texts_are_refused(tokenizer: Tokenizer, family: str) -> None:
    known = MARKED[family]
    prompts = VisionPrompts(family, tokenizer, processor(tokenizer, family))

    def encode(*content: str | Image) -> None:
        prompts.encode([user(*content)], lambda turns: rendered(turns, known.marker))

    with pytest.raises(RequestError, match="which stands for an image"):
        encode(f"see {known.marker}", Image(png()))
    for token in known.tokens:
        if token != known.marker:
            with pytest.raises(RequestError, match="which stands for a part of an image"):
                encode(f"see {token} ", Image(png()))
    with pytest.raises(RequestError, match="which stands for"):
        prompts.check(ids_of(tokenizer, f"text {known.tokens[1]}"))
    prompts.check(ids_of(tokenizer, "text"))


def test_template_that_leaves_images_out_is_told(tokenizer: Tokenizer) -> None:
    prompts = VisionPrompts(PHI, tokenizer, processor(tokenizer, PHI))
    with pytest.raises(RequestError, match="leaves out an image"):
        prompts.encode([user(Image(png()))], lambda turns: "nothing")


def test_images_of_different_sizes_are_padded_for_a_family_that_needs_it(
    tokenizer: Tokenizer,
) -> None:
    prompts = VisionPrompts("mistral3", tokenizer, processor(tokenizer, "mistral3"))
    images = [Image(encoded(picture(size=size), "PNG")) for size in ((8, 9), (7, 12))]
    marker = MARKED["mistral3"].marker
    _, tensors = prompts.encode([user(*images)], lambda turns: rendered(turns, marker))
    pixels = tensors["pixel_values"]
    assert pixels.shape == (2, 3, 12, 8)
    assert pixels[0, :, :9, :8].all()
    assert pixels[1, :, :12, :7].all()
    assert pixels.sum() == 3 * (8 * 9 + 7 * 12)


def test_padding_of_patches_is_taken_out(tokenizer: Tokenizer) -> None:
    grids = np.array([[1, 2, 4], [1, 2, 6]])
    patches = np.arange(2 * 12 * 5, dtype=np.float32).reshape(24, 5)
    others = processor(tokenizer, "qwen2_5_vl")

    def process(prompt: str, files: list[bytes]) -> dict[str, Any]:
        tensors: dict[str, Any] = others(prompt, files)
        more = {"pixel_values": Array(patches), "image_grid_thw": Array(grids)}
        return tensors | more

    prompts = VisionPrompts("qwen2_5_vl", tokenizer, process)
    marker = MARKED["qwen2_5_vl"].marker
    messages = [user(Image(png()), Image(png()))]
    _, tensors = prompts.encode(messages, lambda turns: rendered(turns, marker))
    kept = [*range(8), *range(12, 24)]
    assert np.array_equal(tensors["pixel_values"], patches[kept])


def test_image_that_cannot_be_used_is_named_by_its_number(tokenizer: Tokenizer) -> None:
    prompts = VisionPrompts(PHI, tokenizer, processor(tokenizer, PHI))
    with pytest.raises(ImageError, match=r"^the image is not a JPEG"):
        prompts.encode([user(Image(b"x"))], plain)
    with pytest.raises(ImageError, match=r"^image 2 of 2: the image is not a JPEG"):
        prompts.encode([user(Image(png()), Image(b"x"))], plain)


def test_processor_that_loses_an_image_is_a_fault(tokenizer: Tokenizer) -> None:
    prompts = VisionPrompts(PHI, tokenizer, processor(tokenizer, PHI, (2,)))
    with pytest.raises(EngineError, match="lost one of 2 images"):
        prompts.encode([user(Image(png()), Image(png()))], plain)


def test_images_wait_for_memory(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = VisionPrompts(PHI, tokenizer, processor(tokenizer, PHI))
    monkeypatch.setattr(memory, "available", lambda: 2 * IMAGE_BYTES - 1)
    prompts.encode([user(Image(png()))], plain)
    with pytest.raises(NoMemoryNowError, match="for 2 images"):
        prompts.encode([user(Image(png()), Image(png()))], plain)


def test_prompt_with_images_waits_for_the_memory_of_its_logits(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    vision = VisionPrompts(PHI, tokenizer, processor(tokenizer, PHI, (1_000,)))
    template = "{{ messages[0]['content'] }}"
    encoder = PromptEncoder(
        tokenizer=tokenizer,
        templates=ChatTemplates({"default": template}, {}),
        vision=vision,
        vocabulary=1_000_000,
        context_length=2_000,
    )
    monkeypatch.setattr(memory, "available", lambda: 1 << 30)
    turn = user(Image(png()))
    request = GenerationRequest(prompt=(turn,), max_tokens=1)
    with pytest.raises(NoMemoryNowError, match="this prompt with images"):
        encoder.encode(request, (turn,))
    assert len(encoder.encode(request, "x" * 1_000).tokens) == 1_001


def test_families_are_those_of_the_table() -> None:
    assert {PHI, *MARKED} == FAMILIES
