"""What a release can answer, read from the files of its model."""

import json
from pathlib import Path
from typing import Any

import msgspec

from device_runtime.openai_requests import Served
from device_runtime.tool_dialects import Dialect


class _Token(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _TokenizerFile(msgspec.Struct):
    added_tokens: tuple[_Token, ...] = ()


def served(
    model: str, folder: Path, *, max_tokens: int, max_messages: int, system_prompt: str
) -> Served:
    """What is there to answer.

    Args:
        model: its name.
        folder: the model's.
        max_tokens: length of an answer for which a request gives none.
        max_messages: most turns of a conversation.
        system_prompt: begins conversations that have no system turn; empty for none.
    """
    ends = _json(folder / "genai_config.json").get("model", {}).get("eos_token_id", ())
    dialect = Dialect.of(
        _chat_template(folder),
        special=_special_tokens(folder / "tokenizer.json"),
        end_tokens=(ends,) if isinstance(ends, int) else ends,
    )
    return Served(
        model=model,
        dialect=dialect,
        adapters=tuple(sorted(path.stem for path in folder.glob("adapters/*.onnx_adapter"))),
        max_tokens=max_tokens,
        max_messages=max_messages,
        system_prompt=system_prompt,
    )


def _chat_template(folder: Path) -> str:
    """As ONNX Runtime GenAI finds it: a file of its own, or in the tokenizer's config."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8", errors="replace")
    found = _json(folder / "tokenizer_config.json").get("chat_template") or ""
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found}
        found = named.get("default") or ""
    return str(found)


def _special_tokens(tokenizer: Path) -> dict[str, int]:
    try:
        found = msgspec.json.decode(tokenizer.read_bytes(), type=_TokenizerFile)
    except (OSError, msgspec.DecodeError):
        return {}
    return {token.content: token.id for token in found.added_tokens if token.special}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
