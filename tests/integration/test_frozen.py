"""The frozen runtime with the default model: what a user of a bundle meets."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from PIL import Image

from device_runtime.bundle.manifest import RUNTIME_ENTRY
from device_runtime.bundle.release import Release
from tests.support.bundles import draft
from tests.support.commands import edgepack, edgepack_runtime
from tests.support.frozen import frozen_modules
from tests.support.keys import ed25519_key, p256_key
from tests.support.serving import Serving, chat_body
from tests.support.targets import ELF_X86_64, make_root

pytestmark = pytest.mark.slow

QUESTION = "Name the capital of France."


@pytest.fixture(scope="module")
def server(host_release: Release) -> Iterator[Serving]:
    with Serving(host_release.folder) as serving:
        yield serving
        serving.process.terminate()
        assert serving.process.wait(60) == 0


def test_openai_client_gets_an_answer(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    done = client.chat.completions.create(
        model=model.id,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=16,
    )
    (choice,) = done.choices
    assert "Paris" in (choice.message.content or "")
    assert choice.finish_reason in ("stop", "length")
    assert done.usage is not None
    assert 0 < done.usage.completion_tokens <= 16


def test_frozen_program_decodes_images(
    host_release: Release, seeing_release: Release, tmp_path: Path
) -> None:
    """With Pillow's decoders, of which the freezer leaves out all others."""
    arguments = ("generate", "--release", str(seeing_release.folder), "--max-tokens", "4", "--json")
    for form in ("JPEG", "PNG", "WEBP"):
        file = tmp_path / f"red.{form}"
        Image.new("RGB", (64, 64), "red").save(file, form)
        asked = (*arguments, "--image", str(file), "Hi")
        frozen = subprocess.run(
            [host_release.folder / RUNTIME_ENTRY, *asked], capture_output=True, check=True
        )
        source = edgepack_runtime(*asked)
        assert json.loads(frozen.stdout)["text"] == json.loads(source.out)["text"] != ""


def test_openai_client_gets_a_streamed_answer(client: openai.OpenAI) -> None:
    model = client.models.list().data[0].id
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=16,
            stream=True,
        )
    ]
    assert len([piece for piece in pieces if piece]) > 1
    assert "Paris" in "".join(pieces)


def test_openai_client_gets_its_error_classes(client: openai.OpenAI) -> None:
    model = client.models.list().data[0].id
    messages = [{"role": "user", "content": QUESTION}]
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model=model, messages=messages, temperature=-1)  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        client.chat.completions.create(model="no-such-model", messages=messages)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "word " * 20000}]
        )
    assert caught.value.code == "context_length_exceeded"


def test_killed_worker_takes_one_answer_with_it(server: Serving) -> None:
    worker = server.worker
    body = chat_body("Tell me a long story.", max_tokens=1000, stream=True)
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        os.kill(worker, signal.SIGKILL)
        rest = [line for line in lines if line]
    assert "error" in json.loads(rest[-1].removeprefix("data: "))
    assert "Paris" in server.chat(QUESTION, max_tokens=16).text
    health = server.get("/healthz")
    assert (health["health"], health["worker_restarts"]) == ("ready", 1)
    assert "SIGKILL" in health["last_error"]


def test_run_prints_one_answer(host_bundle: Path) -> None:
    done = edgepack("run", host_bundle, "--generate", QUESTION, "--max-tokens", "16")
    assert done.status == 0, done.err
    assert "Paris" in done.out


def test_demo(host_bundle: Path) -> None:
    """All that `make demo` shows; the bundle's fixture has filled the cache."""
    done = edgepack("demo", "--json")
    assert done.status == 0, done.err
    result = json.loads(done.out)
    assert "Paris" in result["answer"]
    online, telemetry, offline = result["mqtt"]
    assert (online["retained"], online["payload"]["state"]) == (True, "online")
    assert telemetry["topic"].endswith("/telemetry")
    assert offline["payload"]["state"] == "offline"


def test_built_twice_is_the_same_bundle(host_bundle: Path, tmp_path: Path) -> None:
    profile = host_bundle.stem
    again = tmp_path / "again.epk"
    done = edgepack("build", "--profile", profile, "-o", again)
    assert done.status == 0, done.err
    assert again.read_bytes() == host_bundle.read_bytes()
    assert len(re.findall(r"taken from the cache", done.err)) >= 4


def test_frozen_program_installs_what_is_signed_and_nothing_else(
    host_release: Release, tmp_path: Path
) -> None:
    """The library that checks signatures is frozen, with all that it loads."""
    root = make_root(tmp_path / "root", ELF_X86_64, allow_unsigned=False)
    (tmp_path / "key.pem").write_bytes(p256_key().pem)
    signed = draft().signed(ed25519_key(), p256_key()).write(tmp_path / "signed.epk")
    stranger = draft().signed(ed25519_key()).write(tmp_path / "stranger.epk")

    def install(bundle: Path, *options: str | Path) -> tuple[int, str]:
        done = subprocess.run(
            [host_release.program, "install", bundle, "--root", root, *options],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    assert install(signed)[0] == 8
    assert install(signed, "--key", tmp_path / "key.pem") == (0, "")
    status, message = install(stranger)
    assert (status, "not trusted" in message) == (8, True)


def test_frozen_archive_holds_the_device_side_alone(host_release: Release) -> None:
    modules = frozen_modules(host_release.program.parent)
    assert "device_runtime.service" in modules
    roots = {module.partition(".")[0] for module in modules}
    assert not roots & {"torch", "transformers", "onnx", "pip", "packager", "rich", "setuptools"}
