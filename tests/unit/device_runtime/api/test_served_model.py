"""What a model's files say of its answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from device_runtime.api.chat_requests import parse_chat
from device_runtime.api.errors import ApiError
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.engine import GenerationRequest
from tests.support.conversations import turns

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
NATIVE = PLAIN + "{% for tool in tools %}<tool_call>{{ tool }}{% endfor %}"
CALL = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
HISTORY = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "noon"},
]
CLOCK = {"type": "function", "function": {"name": "clock"}}


def asked(folder: Path, **fields: Any) -> GenerationRequest:
    served = ServedModel.of("tiny", folder, max_tokens=9, max_messages=9, system_prompt="")
    return parse_chat(json.dumps({"messages": HISTORY, **fields}).encode(), served).generation


@pytest.mark.parametrize("own_template", [True, False])
def test_template_for_tools_is_for_conversations_with_tools(
    tmp_path: Path, own_template: bool
) -> None:
    named = {"default": PLAIN, "tool_use": NATIVE} if own_template else {"default": NATIVE}
    listed = [{"name": name, "template": text} for name, text in named.items()]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
    with_tools = asked(tmp_path, tools=[CLOCK])
    assert json.loads(with_tools.tools)[0]["function"]["name"] == "clock"
    assert turns(with_tools)[-1].role == "tool"
    without = asked(tmp_path)
    assert without.tools == ""
    # The template without tools gets earlier calls as text.
    roles = [turn.role for turn in turns(without)]
    assert roles == ["user", "assistant", "user" if own_template else "tool"]


def test_arguments_reach_the_template_and_never_replace_the_conversation(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(PLAIN)
    assert asked(tmp_path, chat_template_kwargs={"enable_thinking": False}).arguments == {
        "enable_thinking": False
    }
    assert asked(tmp_path).arguments == {}
    with pytest.raises(ApiError, match="documents is set by the server"):
        asked(tmp_path, chat_template_kwargs={"documents": "x"})
