"""Questions about images: each API's own client, unmodified, and the device's own commands."""

import io
import json
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import anthropic
import httpx
import ollama
import openai
import psutil
import pytest
from PIL import Image

from device_runtime.bundle.release import Release
from tests.support.commands import edgepack_runtime, environment, refused
from tests.support.hostile_images import hostile_images
from tests.support.serving import Serving
from tests.support.tiny_vision import SQUARE_TOKENS

pytestmark = pytest.mark.slow

QUESTION = "What colour is it?"
LIMIT = 12
"""Tokens of an answer."""
MOST_MEMORY = 800 << 20
"""Bytes that images may make a process grow by."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose images requests may refer to, and one file that is not an image."""
    folder = tmp_path_factory.mktemp("images") / "allowed"
    folder.mkdir()
    for colour, form in (("red", "PNG"), ("blue", "JPEG"), ("green", "WEBP")):
        image = Image.new("RGB", (64, 64), colour)
        image.save(folder / f"{colour}.{form.lower()}", form)
    (folder / "text.png").write_bytes(b"This is not an image.")
    return folder


@pytest.fixture(scope="module")
def host(folder: Path) -> Iterator[str]:
    """Another server, with the same images."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(seeing_release: Release, folder: Path, host: str) -> Iterator[Serving]:
    allowed = ("--image-hosts", host, "--image-folders", str(folder))
    with Serving(seeing_release.folder, "--max-tokens", str(LIMIT), *allowed) as server:
        yield server
        assert server.get("/v1/status")["worker_restarts"] == 0


@pytest.fixture(scope="module")
def chat(server: Serving) -> Iterator[Callable[..., Any]]:
    """Asks OpenAI's client about a URL."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:

        def ask(url: str, **fields: Any) -> Any:
            content = [
                {"type": "text", "text": QUESTION},
                {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
            ]
            messages: Any = [{"role": "user", "content": content}]
            return client.chat.completions.create(model="tiny", messages=messages, **fields)

        yield ask


def worker_of(server: Serving) -> int:
    """Id of the process with the model."""
    (worker,) = psutil.Process(server.process.pid).children()
    return int(worker.pid)


def peak_bytes(process: int) -> int:
    """The most memory that a process has had."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def base64(file: Path) -> str:
    return b64encode(file.read_bytes()).decode()


def data_url(file: Path) -> str:
    return f"data:image/{file.suffix[1:]};base64,{base64(file)}"


def text_of(answer: Any) -> str:
    text = answer.choices[0].message.content
    assert text
    return str(text)


@pytest.fixture(scope="module")
def answers(chat: Callable[..., Any], folder: Path) -> dict[str, str]:
    """Answers about images of the folder, by the files' names."""
    return {name: text_of(chat(data_url(folder / name))) for name in ("red.png", "blue.jpeg")}


def test_answers_depend_on_the_image(
    chat: Callable[..., Any], folder: Path, answers: dict[str, str]
) -> None:
    answer = chat(data_url(folder / "green.webp"))
    assert answer.usage.prompt_tokens > SQUARE_TOKENS
    assert len({text_of(answer), *answers.values()}) == 3


def test_links_are_loaded_where_they_are_allowed(
    chat: Callable[..., Any], folder: Path, host: str, answers: dict[str, str]
) -> None:
    file = folder / "red.png"
    for link in (f"http://{host}/red.png", str(file), file.as_uri()):
        assert text_of(chat(link)) == answers["red.png"], link
    for link in (
        f"http://localhost{host[9:]}/red.png",
        str(folder.parent / "red.png"),
        "/etc/hosts",
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            chat(link)
        assert caught.value.code == "image_url_not_allowed"
        assert caught.value.param == "messages[0].content[1].image_url"


def test_streamed_answer_is_the_whole_one(
    chat: Callable[..., Any], folder: Path, answers: dict[str, str]
) -> None:
    chunks = chat(data_url(folder / "red.png"), stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(parts) == answers["red.png"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_an_image_is_refused_before_the_answer(
    chat: Callable[..., Any], folder: Path, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(data_url(folder / "text.png"), stream=stream)
    assert caught.value.code == "invalid_image"
    assert caught.value.param == "messages"


def test_client_of_responses(server: Serving, folder: Path, answers: dict[str, str]) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="-") as client:
        for name, text in answers.items():
            url = data_url(folder / name)
            image = {"type": "input_image", "image_url": url, "detail": "auto"}
            content = [{"type": "input_text", "text": QUESTION}, image]
            asked: Any = [{"role": "user", "content": content}]
            answer = client.responses.create(model="tiny", input=asked)
            assert answer.output_text == text
            assert answer.usage is not None
            assert answer.usage.input_tokens > SQUARE_TOKENS
        more = client.responses.create(
            model="tiny", input="And now?", previous_response_id=answer.id
        )
        assert more.usage is not None
        assert more.usage.input_tokens > SQUARE_TOKENS


def test_client_of_anthropic(
    server: Serving, folder: Path, host: str, answers: dict[str, str]
) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="-") as client:
        for name, text in answers.items():
            kind = f"image/{name.rpartition('.')[2]}"
            given = {"type": "base64", "media_type": kind, "data": base64(folder / name)}
            for source in (given, {"type": "url", "url": f"http://{host}/{name}"}):
                content = [{"type": "text", "text": QUESTION}, {"type": "image", "source": source}]
                messages: Any = [{"role": "user", "content": content}]
                answer = client.messages.create(model="tiny", max_tokens=LIMIT, messages=messages)
                (block,) = answer.content
                assert block.type == "text"
                assert block.text == text
        count = client.messages.count_tokens(model="tiny", messages=messages)
        assert count.input_tokens == answer.usage.input_tokens


def test_client_of_ollama(server: Serving, folder: Path) -> None:
    texts = set()
    with ollama.Client(server.url) as client:
        for name in ("red.png", "blue.jpeg"):
            turn = {"role": "user", "content": QUESTION, "images": [str(folder / name)]}
            chat = client.chat("tiny", [turn]).message.content
            whole = client.generate("tiny", QUESTION, images=[(folder / name).read_bytes()])
            assert chat == whole.response
            assert whole.prompt_eval_count is not None
            assert whole.prompt_eval_count > SQUARE_TOKENS
            texts.add(chat)
        assert "vision" in (client.show("tiny").capabilities or ())
    assert len(texts) == 2


def test_text_after_images_and_several_images(server: Serving, folder: Path) -> None:
    images = [
        {"type": "image_url", "image_url": {"url": data_url(folder / name)}}
        for name in ("red.png", "blue.jpeg")
    ]

    def ask(*content: dict[str, Any]) -> dict[str, Any]:
        body = {"messages": [{"role": "user", "content": [*content]}]}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        whole: dict[str, Any] = answer.json()
        return whole

    text = {"type": "text", "text": QUESTION}
    both, turned = ask(*images, text), ask(*reversed(images), text)
    assert both["usage"]["prompt_tokens"] > 2 * SQUARE_TOKENS
    assert both["choices"][0]["message"] != turned["choices"][0]["message"]


def test_photo_of_a_phone_fits_into_a_body(server: Serving, chat: Callable[..., Any]) -> None:
    photo = io.BytesIO()
    Image.effect_noise((2400, 1800), 90).convert("RGB").save(photo, "JPEG", quality=95)
    size = photo.getbuffer().nbytes
    assert 1 << 20 < size < 10 << 20
    url = "data:image/jpeg;base64," + b64encode(photo.getvalue()).decode()
    assert text_of(chat(url))
    for length, status in ((11 << 20, 400), (13 << 20, 413)):
        url = "data:image/png;base64," + b64encode(bytes(length)).decode()
        body = {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
            ]
        }
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == status
        assert len(answer.text) < 500


def test_hostile_images_are_bad_requests_and_no_process_ends(server: Serving) -> None:
    """Without those that can be decoded, and with noise may be: that takes a second each."""
    files = [file for file in hostile_images() if not file.size and "noise" not in file.name]
    assert len(files) >= 100
    worker = worker_of(server)
    before = peak_bytes(worker)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for file in files:
            url = "data:image/png;base64," + b64encode(file.data).decode()
            content = [{"type": "input_image", "image_url": url}]
            body = {"input": [{"role": "user", "content": content}]}
            answer = client.post("/v1/responses/input_tokens", json=body)
            assert answer.status_code == 400, file.name
            error = answer.json()["error"]
            assert error["code"] in ("invalid_image", "image_too_large"), file.name
            assert error["param"].startswith("input"), file.name
    assert worker_of(server) == worker
    assert peak_bytes(worker) < before + MOST_MEMORY


def test_generate_and_chat_send_images(
    seeing_release: Release, server: Serving, folder: Path
) -> None:
    file = folder / "red.png"
    # The image precedes the text, as in Ollama's API.
    body: dict[str, Any] = {"model": "tiny", "prompt": QUESTION, "images": [base64(file)]}
    answer = httpx.post(f"{server.url}/api/generate", json=body | {"stream": False}, timeout=60)
    expected = answer.json()["response"]
    release = ("--release", str(seeing_release.folder), "--max-tokens", str(LIMIT))
    done = edgepack_runtime("generate", *release, "--json", "--image", str(file), QUESTION)
    assert done.status == 0, done.err
    assert json.loads(done.out)["text"] == expected
    assert json.loads(done.out)["prompt_tokens"] > SQUARE_TOKENS
    for where, sent in (
        (("--alone",), (f"/image {file}", QUESTION)),
        (("--listen", server.url.removeprefix("http://"), "--image", str(file)), (QUESTION,)),
    ):
        outcome = subprocess.run(
            [sys.executable, "-m", "device_runtime", "chat", *release, *where],
            input="".join(f"{line}\n" for line in sent),
            capture_output=True,
            text=True,
            env=environment(),
            check=True,
        )
        assert outcome.stdout == f"{expected}\n"


@pytest.mark.parametrize(
    ("name", "word"),
    [("nothing.png", "No such file"), (".", "Is a directory"), ("text.png", "image")],
)
def test_generate_refuses_what_it_cannot_send(
    seeing_release: Release, folder: Path, name: str, word: str
) -> None:
    arguments = ("--release", str(seeing_release.folder), "--image", str(folder / name), "Hi")
    refused(edgepack_runtime("generate", *arguments), 12, word)
