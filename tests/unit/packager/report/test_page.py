"""The report page: what was measured is on it, and what was not measured is not made up."""

import re
from typing import Any

import msgspec

from device_runtime.bundle.quantization import (
    Quality,
    QuantizationFacts,
    SourceType,
    TaskAnswer,
    TaskCounts,
    TriedRecipe,
)
from packager.report import page
from packager.report.page import ReportData
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
        tried=(TriedRecipe(recipe="int4-gptq", **{**fields, **tried}),),
    )
    html = page.render(
        ReportData(
            manifest=msgspec.structs.replace(manifest, quantization=facts),
            digest="0" * 64,
            bundle="tiny.epk",
            bundle_bytes=1,
            speeds={},
            limits={"max_kl": 0.1},
            text=text,
            layer_errors=[],
            command="edgepack build",
            host="a machine",
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
