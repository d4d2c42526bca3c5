"""Chat templates of model folders."""

import json
from pathlib import Path


def has_template(folder: Path) -> bool:
    """Look for a chat template in a model folder (Hugging Face or ONNX GenAI)."""
    config = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or (
        config.is_file() and "chat_template" in json.loads(config.read_text())
    )
