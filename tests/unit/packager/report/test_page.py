"""The report page: what was measured is on it, and what was not measured is not made up."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_runtime.bundle.quantization import (
    Quality,
    QuantizationFacts,
    SourceType,
    TaskAnswer,
    TaskCounts,
    TokenizerComparison,
    TriedRecipe,
)
from device_runtime.bundle.reader import open_bundle
from device_runtime.bundle.vision import PictureAnswer, TriedVision, Vision
from packager import profile
from packager.evaluation import pictures
from packager.evaluation.picture_quality import PictureResult
from packager.report import build_report, page, tables
from packager.report.page import ReportData
from packager.request import BuildRequest
from tests.support.bundles import draft

QUALITY = Quality(
    kl=0.112,
    kl_interval=(0.1, 0.12),
    top1=0.85,
    top1_interval=(0.8, 0.9),
    perplexity=9.5,
    reference_perplexity=9.0,
    tokens=3060,
    kl_tail=1.79,
    kl_max=2.71,
    tasks=TaskCounts(tasks=24, compared=22, agreed=21, reference_right=16, quantized_right=17),
)
TASKS = (
    TaskAnswer(prompt="7 + 5?", right="12", reference="12", quantized="<b>13</b>"),
    TaskAnswer(prompt="Capital?", right="rome", reference="", quantized="rome"),
)


def rendered(
    quality: Quality,
    tasks: tuple[TaskAnswer, ...] = (),
    text: str = "",
    types: tuple[SourceType, ...] = (),
    tokenizer: TokenizerComparison | None = None,
    vision: Vision | None = None,
    pictures: tuple[PictureResult, ...] = (),
    **tried: Any,
) -> str:
    fields = {"model_bytes": 98_800_000, "memory_bytes": 1, "quality": quality, "exceeded": ()}
    manifest = draft().manifest
    facts: QuantizationFacts = msgspec.structs.replace(
        manifest.quantization,
        recipe="int4-gptq",
        quality=quality,
        tasks=tasks,
        source_types=types,
        tokenizer=tokenizer,
        tried=(TriedRecipe(recipe="int4-gptq", **{**fields, **tried}),),
    )
    html = page.render(
        ReportData(
            manifest=msgspec.structs.replace(manifest, quantization=facts, vision=vision),
            digest="0" * 64,
            bundle="tiny.epk",
            bundle_bytes=1,
            speeds={},
            limits={"max_kl": 0.1},
            text=text,
            layer_errors=[],
            command="edgepack build",
            host="a machine",
            pictures=pictures,
        )
    )
    return re.sub(r"\s+", " ", html)


def test_worst_tokens_and_tasks_are_beside_the_mean() -> None:
    html = rendered(QUALITY, TASKS, excused=("KL 0.112 > 0.1, but all 22 tasks agree",))
    for words in (
        "1.79 <small>largest 2.71</small>",
        "21/22 <small>17/24 right</small>",
        "<b>21 of 22</b>",
        "<small>KL 0.112 &gt; 0.1, but all 22 tasks agree</small>",
        "Limits of the profile for 0.0 M parameters: max_kl = 0.1</p>",
        "3060 tokens of text that the reference model wrote",
        # Escaped, and marked as another value than the reference model's.
        '<td class="bad">&lt;b&gt;13&lt;/b&gt;</td>',
        # The reference model gave no value: nothing to compare.
        "<td>–</td> <td>rome</td>",
    ):
        assert words in html


def test_pictures_are_shown_with_both_answers(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(next(pictures.drawn()).data)
    answer = PictureAnswer(picture="a.png", prompt="<Red>?", reference="Yes.", quantized="<No>.")
    result = PictureResult(file=tmp_path / "a.png", answer=answer, kl=0.0314, top1=0.875)
    quality = msgspec.structs.replace(QUALITY, kl=0.02, tokens=288, tasks=None)
    tried = (
        TriedVision(weights="int8", vision_bytes=1, quality=QUALITY, exceeded=("KL 0.112 > 0.1",)),
        TriedVision(weights="fp16", vision_bytes=1_600_000, quality=quality, exceeded=()),
    )
    vision = Vision(family="phi3v", image_tokens=9, weights="fp16", quality=quality, tried=tried)
    html = rendered(QUALITY, vision=vision, pictures=(result,))
    for words in (
        "take up to 9 tokens each. Measured on the 288 tokens",
        '<td>int8<br> <span class="bad">KL 0.112 &gt; 0.1</span> </td>',
        '<tr class="chosen"> <td>fp16<br>',
        '<td class="number">1.6</td>',
        '<img src="data:image/jpeg;base64,/9j/',
        "<h3>&lt;Red&gt;?</h3>",
        "a.png &middot; KL 0.031 &middot; top-1 87.5 %",
        "<small>int4-gptq, vision fp16</small>&lt;No&gt;.",
    ):
        assert words in html, words
    assert "Pictures, before and after" not in rendered(QUALITY)


def test_own_text_is_named() -> None:
    assert "3060 tokens of manual.txt" in rendered(QUALITY, text="manual.txt")


def test_bundle_without_the_newer_figures_is_shown() -> None:
    older = msgspec.structs.replace(QUALITY, kl_tail=None, kl_max=None, tasks=None)
    html = rendered(older)
    assert html.count('<td class="number">–</td>') == 3  # tail, tasks, speed
    assert "Short tasks" not in html


def test_what_was_kept_of_a_gguf_file_is_said() -> None:
    types = (
        SourceType(type="Q4_K", weights=900, kept=True),
        SourceType(type="IQ2_XS", weights=100, kept=False),
    )
    assert "Q4_K 90.0 % kept; IQ2_XS 10.0 % rounded again" in rendered(QUALITY, types=types)
    assert "Weights of the GGUF file" not in rendered(QUALITY)


def test_differences_of_the_tokenizer_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = TokenizerComparison(
        texts=2000,
        texts_differing=0,
        conversations=200,
        conversations_differing=0,
        tokens_left_out=0,
    )
    equal = "reads 2000 odd texts and 200 conversations as transformers does"
    for changes, words in (
        ({}, equal),
        ({"tokens_left_out": 3}, f"{equal}; 3 tokens that the model does not know are plain text"),
        ({"texts_differing": 4}, "reads 4 of 2000 odd texts and 0 of 200 conversations otherwise"),
    ):
        compared = msgspec.structs.replace(counts, **changes)
        assert words in rendered(QUALITY, tokenizer=compared)
        facts = msgspec.structs.replace(draft().manifest.quantization, tokenizer=compared)
        path = draft().replaced(quantization=facts).write(tmp_path / "b.epk")
        with open_bundle(path) as bundle:
            tables.inspect_text(path, bundle)
        assert words in " ".join(capsys.readouterr().out.split())
    assert "odd texts" not in rendered(QUALITY)


def test_command_builds_the_same_bundle_again() -> None:
    request = BuildRequest(profile=profile.load("mobile"), model="m")
    plain = "edgepack build --profile mobile --model m -o b.epk"
    assert build_report.command(request, Path("/tmp/b.epk")) == plain
    other = replace(request, chat_template=Path("t.jinja"), version="2.0.0", sequence=7)
    again = build_report.command(other, Path("b.epk"))
    for words in ("--chat-template t.jinja", "--bundle-version 2.0.0", "--sequence 7"):
        assert words in again
