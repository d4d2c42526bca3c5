"""The genai_config.json of a built folder, corrected where the runtime would misread a prompt."""

import json
from pathlib import Path

_NO_TOKEN = -1


def adapt(folder: Path, positions: int | None) -> None:
    """Name tokens of a prompt that mean nothing special here by an id that no token has, and limit
    the context length.

    The runtime leaves out padding at the end of a prompt (and before, counts its positions wrongly
    in Qwen3.5): but prompts come one at a time, and what looks like padding is text. In Qwen3.5 it
    looks for images and videos at their tokens, which are token 0 unless named.

    Args:
        folder: ONNX GenAI folder as the model builder wrote it.
        positions: positions that the graph has tables for; None if it has them for all.
    """
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["pad_token_id"] = _NO_TOKEN
    if positions is not None:
        config["model"]["context_length"] = min(config["model"]["context_length"], positions)
    if config["model"]["type"].startswith("qwen3_5"):
        config["model"]["image_token_id"] = config["model"]["video_token_id"] = _NO_TOKEN
    path.write_text(json.dumps(config, indent=4) + "\n", newline="\n")
