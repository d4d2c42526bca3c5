"""Chat templates of model folders."""

import json
from pathlib import Path


def template(folder: Path) -> str:
    """Read the chat template of a model folder (Hugging Face or ONNX GenAI); empty without one."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    own = json.loads(config.read_text()).get("chat_template") if config.is_file() else None
    if isinstance(own, list):
        own = {entry["name"]: entry["template"] for entry in own}.get("default")
    return own or ""


def has_template(folder: Path) -> bool:
    """Look for a chat template in a model folder (Hugging Face or ONNX GenAI)."""
    return bool(template(folder))
