"""Facts from the files of a tokenizer, read without the tokenizer itself."""

import json
from pathlib import Path
from typing import Any

import msgspec

DEFAULT, TOOL_USE = "default", "tool_use"
"""Names of the templates that transformers chooses by itself."""

NAMED_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
"""Variables of a template beside messages and tools, as in transformers."""


class AddedToken(msgspec.Struct):
    """A token beside the vocabulary: its id, its text, and whether decoding omits it."""

    id: int
    content: str
    special: bool = False


class _Tokenizer(msgspec.Struct):
    """All but the vocabulary, which is slow to parse."""

    added_tokens: tuple[AddedToken, ...] = ()


def added_tokens(folder: Path) -> tuple[AddedToken, ...]:
    """Read the tokens beside the vocabulary; none of a file that is missing or damaged."""
    try:
        content = (folder / "tokenizer.json").read_bytes()
        return msgspec.json.decode(content, type=_Tokenizer).added_tokens
    except (OSError, msgspec.DecodeError):
        return ()


def special_tokens(folder: Path) -> dict[str, int]:
    """Read text and id of the special tokens, which decoding omits."""
    return {token.content: token.id for token in added_tokens(folder) if token.special}


def end_tokens(folder: Path) -> tuple[int, ...]:
    """Read the ids of the tokens that end an answer, in the order of genai_config.json."""
    ends = _json(folder / "genai_config.json").get("model", {}).get("eos_token_id", ())
    return (ends,) if isinstance(ends, int) else tuple(ends)


def chat_templates(folder: Path) -> dict[str, str]:
    """Read a model's chat templates, by name; empty if it has none.

    They are files of their own, or in the tokenizer's configuration: one, or a list with names.
    """
    default, others = folder / "chat_template.jinja", folder / "additional_chat_templates"
    files = {DEFAULT: default} if default.is_file() else {}
    files |= {file.stem: file for file in sorted(others.glob("*.jinja"))}
    if files:
        return {name: _text(file) for name, file in files.items()}
    template = _json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, str):
        return {DEFAULT: template}
    listed = template if isinstance(template, list) else []
    named = [entry for entry in listed if isinstance(entry, dict)]
    return {str(entry.get("name")): str(entry.get("template")) for entry in named}


def template_for(templates: dict[str, str], *, tools: bool) -> str:
    """Choose the template for a conversation with or without tools; empty if there is none."""
    return (tools and templates.get(TOOL_USE)) or templates.get(DEFAULT, "")


def named_tokens(folder: Path) -> dict[str, str]:
    """Read the tokens that a chat template knows by name, such as `bos_token`."""
    config = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
    named = {}
    for name in NAMED_TOKENS:
        token = config.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            named[name] = text
    return named


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
