"""A tiny model that thinks: the random one with markers of thoughts, and templates for them."""

import json
import shutil
from pathlib import Path
from typing import Any

from device_runtime.bundle.reasoning import Reasoning
from packager.jobs import reasoning

# In the way of Qwen3's: thoughts stay in the answers after the last question alone, so that a
# model remembers them while it calls tools.
QWEN3 = """\
{%- set state = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{%- set state.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for tool in tools or () %}{{- (tool | tojson) + '\\n' }}{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if message.reasoning_content and loop.index0 > state.last %}
            {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- message.content }}
        {%- for call in message.tool_calls or () %}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

ALWAYS = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n<think>\\n' }}{# </think> #}
"""
"""In the way of DeepSeek's: the prompt opens the thoughts."""

GEMMA4 = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}
{%- if not enable_thinking %}{{- '<|channel>thought\\n<channel|>' }}{%- endif %}
"""

QWEN3_TOKENS = {"<think>": False, "</think>": False}
DEEPSEEK_TOKENS = {"<think>": True, "</think>": True}
GEMMA4_TOKENS = {"<|channel>": True, "<channel|>": True}


def make(model: Path, folder: Path, template: str, added: dict[str, bool]) -> Reasoning:
    """Copy a model of `tiny_model` with another template, and describe how it thinks.

    Args:
        model: the model.
        folder: where its copy goes.
        template: the chat template.
        added: tokens to add; whether each is special.
    """
    shutil.copytree(model, folder)
    file = folder / "tokenizer.json"
    tokenizer: dict[str, Any] = json.loads(file.read_text())
    first = max(tokenizer["model"]["vocab"].values()) + 1
    for number, (text, special) in enumerate(added.items(), first):
        entry = {**tokenizer["added_tokens"][0], "content": text, "id": number, "special": special}
        tokenizer["added_tokens"].append(entry)
    file.write_text(json.dumps(tokenizer))
    (folder / "chat_template.jinja").write_text(template)
    thoughts = reasoning.find(folder)
    assert thoughts is not None
    return thoughts
