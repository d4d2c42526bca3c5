"""The chat page as its user has it before them."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from playwright.sync_api import Browser, Locator, Page, expect

from device_runtime.api.app import Api
from device_runtime.api.served_model import ServedModel
from device_runtime.bundle.speech import Speech
from device_runtime.bundle.vision import Vision
from device_runtime.inference.engine import FinishReason, GenerationChunk, GenerationRequest
from device_runtime.server import page as chat_page
from device_runtime.server.listener import Server, bind, url_of
from device_runtime.status.report import RequestStats, SpeechState
from device_runtime.tools.dialect import Dialect
from tests.support.conversations import turns
from tests.support.fakes import FakeGenerator, runtime_status, usage

COMPLETIONS = "**/v1/chat/completions"
DEVICES: dict[str, Any] = {
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
    "desktop": {"viewport": {"width": 1280, "height": 800}},
}
SMALL = """[...document.querySelectorAll('button, summary, input, select, textarea')]
  .filter((e) => e.checkVisibility())
  .filter((e) => {
    const { width, height } = e.getBoundingClientRect();
    return width < 44 || height < 44;
  })
  .map((e) => e.outerHTML)"""
"""What is too small for a finger."""


class Echo(FakeGenerator):
    """Gives the last message back, a few characters at a time.

    What is before `</think>` in it are thoughts.
    """

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        self.requests.append(request)
        content = turns(request)[-1].content if request.prompt else ""
        text = "".join(part for part in content if isinstance(part, str))
        thoughts, _, text = text.rpartition("</think>")
        yield GenerationChunk(thoughts=thoughts)
        for at in range(0, len(text), 7):
            yield GenerationChunk(text=text[at : at + 7], tokens=1)
        yield GenerationChunk(finish_reason=FinishReason.STOP, usage=usage())


@contextmanager
def echoing(
    echo: Echo | None = None, vision: Vision | None = None, speech: Speech | None = None
) -> Iterator[str]:
    """A server with the page, whose model repeats what it is asked; its address."""
    stats = RequestStats()
    served = ServedModel(
        model="<b>tiny</b>", dialect=Dialect.of(""), max_tokens=64, vision=vision, speech=speech
    )
    api = Api(
        echo or Echo(),
        stats,
        lambda: msgspec.structs.replace(runtime_status(stats), speech=SpeechState.of(speech)),
        served,
        max_body_bytes=16 << 20,
        max_form_bytes=16 << 20,
    )
    app = api.app(chat_page.routes())
    started = threading.Event()
    server = Server(app, started.set, max_connections=20, client_timeout_s=30)
    listening = bind("127.0.0.1:0")
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    assert started.wait(60)
    try:
        yield url_of(listening, tls=False)
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        listening.close()


@contextmanager
def opened(browser: Browser, url: str, device: str, **options: Any) -> Iterator[Page]:
    """The page on a device that is ready."""
    with browser.new_context(**DEVICES[device], **options) as context:
        page = context.new_page()
        page.goto(url)
        expect(page.locator("#device")).to_contain_text("ready")
        yield page


def answering(page: Page, *deltas: dict[str, Any], finish: str = "stop", tokens: int = 5) -> None:
    """Has the device answer every question with these deltas."""
    choices: list[dict[str, Any]] = [
        *({"delta": delta, "finish_reason": None} for delta in deltas),
        {"delta": {}, "finish_reason": finish},
    ]
    used = {
        "prompt_tokens": 64,
        "completion_tokens": tokens,
        "prompt_tokens_details": {"cached_tokens": 45},
    }
    chunks: list[dict[str, Any]] = [{"choices": [choice]} for choice in choices]
    chunks.append({"choices": [], "usage": used})
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + ["data: [DONE]\n\n"]
    replace_route(
        page, lambda route: route.fulfill(content_type="text/event-stream", body="".join(events))
    )


def failing(page: Page, status: int, message: str, headers: dict[str, str] | None = None) -> None:
    """Has the device refuse every question."""
    body = {"error": {"message": message, "type": "server_error", "param": None, "code": None}}
    replace_route(page, lambda route: route.fulfill(status=status, headers=headers, json=body))


def replace_route(page: Page, handler: Any) -> None:
    page.unroute(COMPLETIONS)
    page.route(COMPLETIONS, handler)


class Seen:
    """What a page did beside being shown."""

    def __init__(self, page: Page) -> None:
        self.trouble: list[str] = []
        self.requests: list[str] = []
        page.on("pageerror", lambda error: self.trouble.append(str(error)))
        page.on("console", self._on_console)
        page.on("request", lambda request: self.requests.append(request.url))

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.trouble.append(message.text)


def send(page: Page, text: str) -> None:
    question = page.get_by_label("Your message")
    question.fill(text)
    question.press("Enter")


def answers(page: Page) -> Locator:
    return page.locator("article.assistant")
