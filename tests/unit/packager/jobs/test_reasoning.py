"""How a model thinks, found from its chat template as the device's engine renders it."""

from pathlib import Path

import pytest

from device_runtime.bundle.reasoning import Reasoning
from packager.jobs import reasoning
from tests.support.families import templates, tokenizers
from tests.support.families.tokenizer_files import TokenizerSpec, write

GPT_OSS = (
    "{{ 'Reasoning: ' + (reasoning_effort if reasoning_effort is defined else 'medium') }}"
    "{{ messages[0].content + '<|start|>assistant' }}"
    "{# an answer: <|channel|>analysis<|message|>thoughts<|end|> #}"
)
MISTRAL_SMALL4 = (
    "{% set effort = reasoning_effort if reasoning_effort is defined else 'none' %}"
    "{% if effort not in ['none', 'high'] %}{{ raise_exception('effort') }}{% endif %}"
    "{{ '[MODEL_SETTINGS]' + effort + messages[0].content }}{# [THINK] [/THINK] #}"
)
SEED_OSS = (
    "{% if thinking_budget is not defined %}{% set thinking_budget = -1 %}{% endif %}"
    "{{ messages[0].content }}{% if thinking_budget == 0 %}{{ '<seed:think></seed:think>' }}"
    "{% endif %}"
)


def thoughts(folder: Path, spec: TokenizerSpec, template: str) -> Reasoning | None:
    """What is found in a folder with a tokenizer and a template; its model is not looked at."""
    write(spec, folder, {**spec.config, "chat_template": template})
    (folder / "genai_config.json").write_text(
        '{"model": {"type": "llama", "vocab_size": 500, "context_length": 64, '
        '"decoder": {"filename": "model.onnx"}}}'
    )
    return reasoning.find(folder)


def described(found: Reasoning | None) -> tuple[object, ...]:
    assert found is not None
    return (found.begin, found.argument, found.on, found.off, found.default, found.opened)


@pytest.mark.parametrize(
    ("spec", "template", "expected"),
    [
        (tokenizers.QWEN3, templates.QWEN3, ("<think>", "enable_thinking", True, False, 1, 0)),
        (tokenizers.QWEN3_5, templates.QWEN3_5, ("<think>", "enable_thinking", True, False, 1, 1)),
        (tokenizers.SMOLLM3, templates.SMOLLM3, ("<think>", "enable_thinking", True, False, 1, 0)),
        (
            tokenizers.GEMMA4,
            templates.GEMMA4,
            ("<|channel>thought", "enable_thinking", True, False, False, False),
        ),
        (tokenizers.MINISTRAL3, templates.MINISTRAL3, ("[THINK]", None, None, None, True, False)),
        (tokenizers.QWEN3, SEED_OSS, ("<seed:think>", "thinking_budget", -1, 0, True, False)),
        (
            tokenizers.MINISTRAL3,
            MISTRAL_SMALL4,
            ("[THINK]", "reasoning_effort", "high", "none", False, False),
        ),
        (
            tokenizers.QWEN3,
            GPT_OSS,
            ("<|channel|>analysis<|message|>", "reasoning_effort", "high", None, True, False),
        ),
    ],
)
def test_switch_and_markers_are_found(
    tmp_path: Path, spec: TokenizerSpec, template: str, expected: tuple[object, ...]
) -> None:
    assert described(thoughts(tmp_path, spec, template)) == expected


@pytest.mark.parametrize(
    ("spec", "template"),
    [
        (tokenizers.QWEN2, templates.CHATML),
        (tokenizers.PHI4, templates.PHI4),
        (tokenizers.GEMMA, templates.GEMMA3),
        (tokenizers.QWEN3, "{{ raise_exception('no') }} <think>"),
    ],
)
def test_model_that_does_not_think_has_none(
    tmp_path: Path, spec: TokenizerSpec, template: str
) -> None:
    assert thoughts(tmp_path, spec, template) is None


def test_markers_are_single_tokens_or_text(tmp_path: Path) -> None:
    (tmp_path / "token").mkdir()
    (tmp_path / "text").mkdir()
    single = thoughts(tmp_path / "token", tokenizers.QWEN3, templates.QWEN3)
    plain = thoughts(tmp_path / "text", tokenizers.SMOLLM3, templates.SMOLLM3)
    assert single is not None
    assert plain is not None
    assert (len(single.begin_tokens), len(single.end_tokens)) == (1, 1)
    assert len(plain.begin_tokens) > 1
