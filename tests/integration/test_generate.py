"""`edgepack-runtime generate` answers as the service does."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from device_runtime.bundle.release import Release
from tests.support import releases
from tests.support.commands import edgepack_runtime, refused
from tests.support.serving import Serving

SEED = 7
SYSTEM = "Be brief — always."


@pytest.fixture(scope="module")
def release(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("generate") / "release"
    return releases.release(folder, tiny_onnx, context_length=512, max_tokens=20)


def generate(release: Release, *arguments: str) -> dict[str, Any]:
    done = edgepack_runtime("generate", "--release", release.folder, "--json", *arguments)
    assert done.status == 0, done.err
    answer: dict[str, Any] = json.loads(done.out)
    return answer


def test_without_sampling_options_it_repeats_itself_and_with_a_seed_it_samples(
    release: Release,
) -> None:
    greedy = generate(release, "Hi")["text"]
    assert generate(release, "--temperature", "0", "Hi")["text"] == greedy
    sampled = generate(release, "--seed", str(SEED), "Hi")["text"]
    assert sampled != greedy
    assert generate(release, "--seed", str(SEED), "--temperature", "1", "Hi")["text"] == sampled


def test_a_seed_gives_the_text_of_the_service(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(SYSTEM, "utf-8")
    monkeypatch.setenv("EDGEPACK_SYSTEM_PROMPT_FILE", str(prompt))
    with Serving(release.folder) as server:
        chat = server.chat("Hi", seed=SEED, max_tokens=20).json()
        body = {"prompt": "Once", "seed": SEED, "max_tokens": 20}
        raw = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
    answer = generate(release, "--seed", str(SEED), "Hi")
    assert answer["text"] == chat["choices"][0]["message"]["content"] != ""
    assert answer["prompt_tokens"] == chat["usage"]["prompt_tokens"]
    continued = generate(release, "--raw", "--seed", str(SEED), "Once")
    assert continued["text"] == raw["choices"][0]["text"] != ""


def test_a_model_without_a_chat_template_continues_the_text(
    tiny_onnx: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_onnx, tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    release = releases.release(tmp_path / "release", base, context_length=512, max_tokens=20)
    continued, raw = (generate(release, *options, "Once") for options in ((), ("--raw",)))
    assert continued["text"] == raw["text"] != ""
    assert continued["prompt_tokens"] == raw["prompt_tokens"]


def test_the_system_prompt_begins_the_conversation(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = generate(release, "Hi")["prompt_tokens"]
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(SYSTEM, "utf-8")
    monkeypatch.setenv("EDGEPACK_SYSTEM_PROMPT_FILE", str(prompt))
    assert generate(release, "Hi")["prompt_tokens"] > without
    prompt.write_bytes(b"\xff")
    refused(edgepack_runtime("generate", "--release", release.folder, "a"), 13, "not UTF-8")


def test_length_and_memory_are_those_configured(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(tiny_onnx, tmp_path / "model")
    config = model / "genai_config.json"
    # A whole context of the model as it is fits the smallest memory that can be configured.
    text = re.sub(r'"context_length": \d+', '"context_length": 8192', config.read_text())
    config.write_text(text)
    release = releases.release(tmp_path / "release", model, context_length=8192)
    monkeypatch.setenv("EDGEPACK_MAX_TOKENS", "3")
    assert generate(release, "Hi")["completion_tokens"] == 3
    monkeypatch.setenv("EDGEPACK_KV_CACHE_MIB", "1")
    outcome = edgepack_runtime("generate", "--release", release.folder, "--max-tokens", "4000", "a")
    refused(outcome, 12, "this device has 1 MiB for it")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(("--raw", ""), "prompt"), (("--seed", str(2**63), "Hi"), "seed"), (("a\udcff",), "UTF-8")],
)
def test_what_the_service_refuses_is_refused(
    release: Release, arguments: tuple[str, ...], word: str
) -> None:
    refused(edgepack_runtime("generate", "--release", release.folder, *arguments), 12, word)
