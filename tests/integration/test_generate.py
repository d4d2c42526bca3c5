"""`edgepack-runtime generate` answers as the service does."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from device_runtime.bundle.release import Release
from device_runtime.commands.engine import load_engine
from device_runtime.config.options import RuntimeConfig
from device_runtime.errors import ResourceError
from device_runtime.inference import genai_library
from device_runtime.processor import cores
from tests.support import releases
from tests.support.commands import Outcome, edgepack_runtime, refused
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
    [
        (("--raw", ""), "prompt"),
        (("--seed", str(2**63), "Hi"), "seed"),
        (("a\udcff",), "UTF-8"),
        (("--image", __file__, "Hi"), "text alone"),
        (("--image", __file__, "--raw", "Hi"), "template"),
        (("--image", "nothing.png", "Hi"), "No such file"),
    ],
)
def test_what_the_service_refuses_is_refused(
    release: Release, arguments: tuple[str, ...], word: str
) -> None:
    refused(edgepack_runtime("generate", "--release", release.folder, *arguments), 12, word)


def test_lack_of_memory_is_one_clear_error(release: Release) -> None:
    command = f"ulimit -v 64000; exec {sys.executable} -m device_runtime generate --release"
    done = subprocess.run(
        ["bash", "-c", f"{command} {release.folder} Hi"],
        capture_output=True,
        text=True,
        check=False,
    )
    refused(Outcome(done.returncode, done.stdout, done.stderr), 9, "not enough memory")


def test_lack_of_memory_while_the_model_loads(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("Exception caught: std::bad_alloc")

    monkeypatch.setattr(genai_library, "load_model", fail)
    with pytest.raises(ResourceError, match=r"not enough memory to load the model: .*bad_alloc"):
        load_engine(release, RuntimeConfig())


def test_more_threads_than_cores_are_warned_of(
    release: Release, caplog: pytest.LogCaptureFixture
) -> None:
    load_engine(release, RuntimeConfig(threads=cores() + 1))
    assert "too_many_threads" in caplog.text
    caplog.clear()
    load_engine(release, RuntimeConfig(threads=cores()))
    assert "too_many_threads" not in caplog.text
