"""Chat templates: which one, what it sees, and what it cannot do."""

import json
from pathlib import Path

import pytest

from device_runtime.errors import RequestError
from device_runtime.tokenizer.files import chat_templates, end_tokens, named_tokens, special_tokens
from device_runtime.tokenizer.templates import ChatTemplates

QUESTION = [{"role": "user", "content": " Hi\u2028"}]
TOOL = {"type": "function", "function": {"name": "f", "description": "<é>"}}


def render(template: str, *, tools: bool = False) -> str:
    return ChatTemplates({"default": template}, {"bos_token": "<s>"}).render(
        QUESTION, [TOOL] if tools else None
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content | trim }}", "<s>Hi"),
        ("{{ messages[0]['content'].strip().upper() }}", "HI"),
        ("{{ messages[0].content.replace('H', 'h') }}", " hi\u2028"),
        ("{{ 'Hi' in messages[0].content }}", "True"),
        (
            "{% for m in messages %}\n  {% if m.x %}x{% endif %}\n{{ m.role }}\n{% endfor %}",
            "user\n",
        ),
        ("{% for m in 'abc' %}{% if m == 'b' %}{% continue %}{% endif %}{{ m }}{% endfor %}", "ac"),
        ("{% generation %}{{ 'a' }}{% endgeneration %}b", "ab"),
        ("{% set n = namespace(x=1) %}{% set n.x = 2 %}{{ n.x }}{{ dict(a=1)['a'] }}", "21"),
        ("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}", "TrueTrueTrue"),
        ("{{ strftime_now('%Y') | length }}", "4"),
    ],
)
def test_what_templates_use(template: str, expected: str) -> None:
    assert render(template) == expected


CHATML = (
    "{{% for m in messages %}}<|{{{{ m.role }}}}|>{{{{ m.content{} }}}}<|end|>{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|assistant|>{{% endif %}}"
)


@pytest.mark.parametrize("strip", ["", " | trim"])
@pytest.mark.parametrize("content", ["The answer", "The answer is ", "\n a CONTINUE_FINAL "])
def test_last_turn_is_continued_as_in_transformers(strip: str, content: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = CHATML.format(strip)
    turns = [*QUESTION, {"role": "assistant", "content": content}]
    (expected,), _ = render_jinja_template(
        [turns], chat_template=template, continue_final_message=True
    )
    templates = ChatTemplates({"default": template}, {})
    assert templates.render(turns, continues=True) == expected
    assert expected.endswith(content.strip() if strip else content)
    assert turns[-1]["content"] == content
    assert templates.render(turns).endswith("<|end|><|assistant|>")


def test_template_that_leaves_out_the_last_turn_cannot_continue_it() -> None:
    template = "{{ messages[0].content }}"
    turns = [*QUESTION, {"role": "assistant", "content": "The answer"}]
    with pytest.raises(RequestError, match="leaves out the message to be continued"):
        ChatTemplates({"default": template}, {}).render(turns, continues=True)


def test_tools_are_json_without_escapes() -> None:
    assert render("{{ tools | tojson }}", tools=True) == json.dumps([TOOL], ensure_ascii=False)
    assert "\n    " in render("{{ tools | tojson(indent=4) }}", tools=True)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{{ messages[7].content }}", "no element 7"),
        ("{{ messages[0].content + 1 }}", "str"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ raise_exception.__globals__.json }}", "unsafe"),
        ("{% set n = namespace() %}{% set n.__html__ = 1 %}", "__html__"),
    ],
)
def test_rejected_conversations_and_forbidden_templates(template: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        render(template)


def test_model_without_a_template_takes_no_conversation() -> None:
    with pytest.raises(RequestError, match="no chat template"):
        ChatTemplates({}, {}).render(QUESTION)


def as_files(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("plain")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")


def as_list(folder: Path) -> None:
    named = {"default": "plain", "tool_use": "tools", "rag": "documents"}
    listed = [{"name": name, "template": text} for name, text in named.items()]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))


@pytest.mark.parametrize("write", [as_files, as_list])
def test_template_is_the_one_that_transformers_takes(tmp_path: Path, write: object) -> None:
    assert callable(write)
    write(tmp_path)
    templates = ChatTemplates.of(tmp_path)
    assert templates.render(QUESTION) == "plain"
    assert templates.render(QUESTION, [TOOL]) == "tools"


def test_one_template_serves_both(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ tools | length }}"}')
    assert ChatTemplates.of(tmp_path).render(QUESTION, [TOOL]) == "1"
    (tmp_path / "chat_template.jinja").write_text("own file")
    assert chat_templates(tmp_path) == {"default": "own file"}


def test_names_of_tokens(tmp_path: Path) -> None:
    assert named_tokens(tmp_path) == {}
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "unk_token": None, "x": "y"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert named_tokens(tmp_path) == {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(("ends", "expected"), [(3, (3,)), ([5, 4], (5, 4))])
def test_tokens_that_end_an_answer(tmp_path: Path, ends: object, expected: object) -> None:
    (tmp_path / "genai_config.json").write_text(json.dumps({"model": {"eos_token_id": ends}}))
    assert end_tokens(tmp_path) == expected


def test_special_tokens_of_a_damaged_file(tmp_path: Path) -> None:
    assert special_tokens(tmp_path) == {}
    (tmp_path / "tokenizer.json").write_text("{")
    assert special_tokens(tmp_path) == {}


def test_arguments_switch_and_never_replace_the_conversation() -> None:
    template = "{{ enable_thinking is defined and not enable_thinking }}{{ messages[0].content }}"
    templates = ChatTemplates({"default": template}, {})
    assert templates.render(QUESTION) == "False Hi\u2028"
    arguments = {"enable_thinking": False, "messages": []}
    assert templates.render(QUESTION, arguments=arguments) == "True Hi\u2028"
