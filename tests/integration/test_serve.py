"""The service as a process, from source, with the tiny real model."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from device_runtime.bundle.release import Release
from tests.support import releases
from tests.support.commands import edgepack_runtime, refused
from tests.support.serving import Serving, chat_body, eventually, is_gone

LONG: dict[str, Any] = {"max_tokens": 1900}
"""The tiny model repeats itself to the end; tests stop its process in the middle to have time."""


@pytest.fixture(scope="module")
def release(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("serve") / "release"
    return releases.release(folder, tiny_onnx, context_length=2048)


@pytest.fixture(scope="module")
def server(release: Release) -> Iterator[Serving]:
    with Serving(release.folder) as server:
        yield server


def test_openai_client_whole_and_streamed(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    done = client.chat.completions.create(
        model=model.id,
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=30,
        temperature=1,
        seed=1,
    )
    assert done.usage is not None
    assert 0 < done.usage.completion_tokens <= 30
    stream = client.chat.completions.create(
        model=model.id,
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=30,
        temperature=1,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, totals = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == done.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == done.choices[0].finish_reason
    assert totals.usage is not None
    assert totals.usage.total_tokens == done.usage.total_tokens


def test_openai_client_error_classes(client: openai.OpenAI) -> None:
    model = client.models.list().data[0].id
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Hi"}], temperature=-1
        )
    with pytest.raises(openai.NotFoundError, match="gpt"):
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "a" * 2048}], stream=True
        )
    assert caught.value.code == "context_length_exceeded"


def test_null_character_does_not_end_a_message(server: Serving) -> None:
    start, whole = (
        server.chat(text, max_tokens=1).json()["usage"]["prompt_tokens"]
        for text in ("You speak", "You speak\0 French.")
    )
    assert whole > start + len("French")


@pytest.mark.parametrize("announced", [True, False])
def test_large_body_is_refused_unread(server: Serving, announced: bool) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(160):
            yield b"x" * 65536

    content = b"x" * 10_000_000 if announced else pieces()
    response = httpx.post(f"{server.url}/v1/chat/completions", content=content)
    assert response.status_code == 413
    assert server.chat().status_code == 200


def test_client_that_goes_away_frees_the_model(server: Serving) -> None:
    before = server.get("/v1/status")["requests"]["cancelled"]
    body = chat_body(**LONG, stream=True)
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response:
        assert next(response.iter_lines())
        os.kill(server.worker, signal.SIGSTOP)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/chat/completions", json=chat_body(**LONG), timeout=1)
    os.kill(server.worker, signal.SIGCONT)
    eventually(lambda: server.get("/v1/status")["requests"]["cancelled"] == before + 2)
    assert server.chat().status_code == 200


def test_status_command(server: Serving) -> None:
    listen = server.url.removeprefix("http://")
    shown = edgepack_runtime("status", "--listen", listen)
    assert shown.status == 0, shown.err
    assert "health:      ready" in shown.out
    assert server.get("/v1/status")["worker_memory_bytes"] > 1 << 20
    assert '"health": "ready"' in edgepack_runtime("status", "--listen", listen, "--json").out


def test_port_in_use(server: Serving, release: Release) -> None:
    listen = server.url.removeprefix("http://")
    refused(edgepack_runtime("serve", "--release", release.folder, "--listen", listen), 9, "in use")


def test_killed_worker_fails_one_request_and_is_replaced(server: Serving) -> None:
    first = server.worker
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=chat_body(**LONG, stream=True), timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines)
        os.kill(first, signal.SIGSTOP)
        os.kill(first, signal.SIGKILL)
        last = [line for line in lines if line][-1]
    assert '"error"' in last
    assert "SIGKILL" in last
    assert server.get("/healthz")["health"] in ("degraded", "starting")
    assert server.chat().status_code == 200
    health = server.get("/healthz")
    assert (health["health"], health["worker_restarts"]) == ("ready", 1)
    assert "SIGKILL" in health["last_error"]
    assert server.worker != first


def test_an_idle_model_leaves_the_memory_until_the_next_request(release: Release) -> None:
    with Serving(release.folder, "--unload-after", "1") as server:
        before = server.chat().json()["choices"]
        eventually(lambda: server.get("/v1/status")["health"] == "unloaded")
        eventually(lambda: server.get("/v1/status")["worker_memory_bytes"] == 0)
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        assert server.chat().json()["choices"] == before
        assert server.get("/v1/status")["worker_restarts"] == 0


def test_killed_parent_leaves_no_worker(release: Release) -> None:
    with Serving(release.folder) as server:
        worker = server.worker
        os.kill(worker, signal.SIGSTOP)
        stopper = threading.Timer(0.3, server.process.kill)
        stopper.start()
        with pytest.raises(httpx.TransportError):
            server.chat(**LONG)
        stopper.join()
    eventually(lambda: is_gone(worker))


def test_system_prompt_is_utf8_and_read_once(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}.items():
        monkeypatch.setenv(name, value)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Be brief — always.", "utf-8")
    with Serving(release.folder, "--system-prompt-file", str(prompt)) as server:
        before = server.chat().json()
        prompt.unlink()
        os.kill(server.worker, signal.SIGKILL)
        eventually(lambda: server.get("/v1/status")["worker_restarts"] == 1)
        after = server.chat().json()
        assert server.get("/v1/status")["worker_restarts"] == 1
    assert after["choices"] == before["choices"]
    assert after["usage"]["prompt_tokens"] == before["usage"]["prompt_tokens"]


def test_sigterm_lets_the_running_answer_finish(release: Release) -> None:
    with Serving(release.folder) as server:
        worker = server.worker
        url = f"{server.url}/v1/chat/completions"
        body = chat_body(**LONG, stream=True)
        with httpx.stream("POST", url, json=body, timeout=60) as response:
            lines = response.iter_lines()
            assert next(lines)
            os.kill(worker, signal.SIGSTOP)
            server.process.terminate()
            eventually(lambda: not accepts(server.url))
            os.kill(worker, signal.SIGCONT)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert server.process.wait(60) == 0
        assert is_gone(worker)


def accepts(url: str) -> bool:
    try:
        httpx.get(f"{url}/healthz")
    except httpx.TransportError:
        return False
    return True


def test_second_signal_does_not_wait(release: Release) -> None:
    with Serving(release.folder) as server:
        url = f"{server.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=chat_body(**LONG, stream=True)) as response:
            lines = response.iter_lines()
            assert next(lines)
            os.kill(server.worker, signal.SIGSTOP)
            server.process.send_signal(signal.SIGINT)
            eventually(lambda: not accepts(server.url))
            server.process.send_signal(signal.SIGINT)
            assert "stopping" in [line for line in lines if line][-1]
        assert server.process.wait(60) == 0


def test_model_that_does_not_load_ends_the_service(tiny_onnx: Path, tmp_path: Path) -> None:
    broken = releases.release(tmp_path / "release", tiny_onnx)
    graph = broken.model_folder / "model.onnx"
    graph.unlink()
    graph.write_bytes(b"no graph")
    refused(edgepack_runtime("serve", "--release", broken.folder), 11, "does not load")
    refused(edgepack_runtime("generate", "--release", broken.folder, "Hi"), 11, "does not load")
    refused(edgepack_runtime("verify", broken.folder), 7, "model.onnx")


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        (
            "supervision",
            "from device_runtime.worker.supervisor import Supervisor as It; "
            "loaded = It._on_loaded; "
            "It._on_loaded = lambda *arguments: loaded(*arguments) or 1 / 0",
        ),
        (
            "MQTT reports",
            "from device_runtime.mqtt.reporter import Reporter as It; "
            "It._keep_connected = lambda self: 1 / 0",
        ),
        (
            "HTTP server",
            "from device_runtime.server.listener import Server as It; "
            "It.main_loop = lambda self: 1 / 0",
        ),
    ],
)
def test_part_that_ends_by_itself_ends_the_service(release: Release, part: str, fault: str) -> None:
    """So that systemd starts it again."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", f"from device_runtime import cli; {fault}; exit(cli.main())"),
            *("serve", "--release", release.folder, "--listen", "127.0.0.1:0"),
            *("--mqtt", "mqtt://127.0.0.1:1"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 13, done.stderr
    assert f"{part} ended unexpectedly: ZeroDivisionError" in done.stderr


def test_readiness_reports_a_worker_that_is_stopped(release: Release) -> None:
    with Serving(release.folder) as server:
        os.kill(server.worker, signal.SIGSTOP)
        eventually(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
        assert server.get("/healthz")["health"] == "degraded"
        os.kill(server.worker, signal.SIGCONT)
        eventually(lambda: httpx.get(f"{server.url}/readyz").status_code == 200)


def test_generate_and_verify(release: Release) -> None:
    shown = edgepack_runtime(
        "generate", "--release", release.folder, "--max-tokens", "5", "--json", "Hi"
    )
    assert shown.status == 0, shown.err
    assert '"completion_tokens": 5' in shown.out
    assert '"start_to_first_token_s"' in shown.out
    refused(edgepack_runtime("generate", "--release", release.folder, "a" * 2048), 12, "context")
    checked = edgepack_runtime("verify", release.folder, "--json")
    assert checked.status == 0, checked.err
    assert release.digest in checked.out


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (("serve", "--release", "/nowhere"), 7, "/nowhere"),
        (("serve", "--mqtt", "http://host"), 13, "MQTT"),
        (("serve", "--device-id", "a/b"), 13, "a/b"),
        (("serve", "--listen", "nonsense"), 13, "nonsense"),
        (("status", "--listen", "127.0.0.1:1"), 13, "127.0.0.1:1"),
        (("verify", "/nowhere.epk"), 7, "/nowhere.epk"),
    ],
)
def test_bad_options(release: Release, arguments: tuple[str, ...], status: int, word: str) -> None:
    if arguments[0] == "serve" and "--release" not in arguments:
        arguments = (*arguments, "--release", str(release.folder))
    refused(edgepack_runtime(*arguments), status, word)


@pytest.mark.slow
def test_health_answers_in_time_while_a_prompt_is_read(default_model: Path, tmp_path: Path) -> None:
    """1,500 tokens take seconds; an answer that waited for them would take as long.

    A machine that is busy otherwise may delay one or the other by more than the usual 100 ms.
    """
    release = releases.release(tmp_path / "release", default_model, context_length=2048)
    times: list[float] = []
    with Serving(release.folder) as server, httpx.Client() as client:
        asking = threading.Thread(target=server.chat, args=(" ".join(["word"] * 1470),))
        asking.start()
        while asking.is_alive():
            started = time.perf_counter()
            assert client.get(f"{server.url}/healthz").status_code == 200
            times.append(time.perf_counter() - started)
            time.sleep(0.02)
        asking.join()
        assert server.get("/v1/status")["requests"]["completed"] == 1
        reading_s = server.get("/v1/status")["first_token_s"]["last"]
    assert reading_s > 0.5
    assert max(times) < reading_s / 2


def test_runtime_imports_nothing_of_the_host_side() -> None:
    """Also that `--version` and the worker stay quick to start: no HTTP server in them."""
    code = (
        "import sys, pkgutil, importlib, device_runtime\n"
        "import device_runtime.cli, device_runtime.worker.process\n"
        "assert not {'uvicorn', 'starlette', 'paho', 'numpy'} & set(sys.modules)\n"
        "assert not [name for name in sys.modules if name.startswith('device_runtime.commands.')]\n"
        "import device_runtime.api.chat_requests\n"
        "assert 'device_runtime.json_schema.grammar' not in sys.modules\n"
        "for module in pkgutil.walk_packages(device_runtime.__path__, 'device_runtime.'):\n"
        "    if module.name != 'device_runtime.__main__':\n"
        "        importlib.import_module(module.name)\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        "host = {'packager', 'torch', 'transformers', 'onnx', 'rich', 'httpx'}\n"
        "assert not roots & {*host, 'onnxruntime', 'onnxruntime_genai'}, roots\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
