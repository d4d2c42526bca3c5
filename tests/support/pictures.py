"""Pictures for the chat page: made, handed over to it, and read from what it sends."""

import base64
import io
import json
from typing import Any

from PIL import Image, ImageDraw
from playwright.sync_api import Locator, Page, Request, expect

from device_runtime.bundle.vision import Vision
from tests.support.browser import COMPLETIONS, send

VISION = Vision(family="phi3v", image_tokens=600)
HAND_OVER = """([kind, files, texts]) => {
  const data = new DataTransfer();
  for (const [name, type, content] of files) {
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
    data.items.add(new File([bytes], name, { type }));
  }
  const options = { bubbles: true, cancelable: true, clipboardData: data, dataTransfer: data };
  for (const type of texts) data.items.add("text", type);
  const Event = kind === "paste" ? ClipboardEvent : DragEvent;
  document.getElementById("log").dispatchEvent(new Event(kind, options));
}"""


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photo(width: int, height: int) -> Image.Image:
    """A picture without two equal pixels side by side, as a camera takes it."""
    return Image.merge("RGB", [Image.effect_noise((width, height), 80) for _ in "RGB"])


def drawing(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), "white")
    for x in range(0, width, width // 20):
        ImageDraw.Draw(image).line((x, 0, width - x, height), "red", width // 100)
    return image


DRAWING = encoded(drawing(300, 200))
File = tuple[str, str, bytes]
RED: File = ("red.png", "image/png", DRAWING)
BLUE: File = ("blue.png", "image/png", encoded(Image.new("RGB", (50, 80), "blue")))


def open_seeing(page: Page, url: str) -> None:
    """Opens the page of a device whose model sees."""
    # Without a listener that stays, a choice now and then opens before it is waited for.
    page.on("filechooser", lambda _: None)
    page.goto(url)
    expect(page.get_by_role("button", name="Pictures")).to_be_visible()


def hand_over(page: Page, kind: str, *files: File, texts: tuple[str, ...] = ()) -> None:
    """Drops or pastes files on the conversation; with them texts, given by their types."""
    content = [(name, form, base64.b64encode(data).decode()) for name, form, data in files]
    page.evaluate(HAND_OVER, [kind, content, texts])


def drop(page: Page, *files: File) -> None:
    """Drops files on the conversation; waits until the last of them is shown."""
    hand_over(page, "drop", *files)
    expect(pending(page).get_by_role("img").last).to_have_accessible_name(files[-1][0])


def pending(page: Page) -> Locator:
    return page.get_by_role("list", name="Pictures to send")


def asked_turns(request: Request) -> list[Any]:
    messages: list[Any] = json.loads(request.post_data or "")["messages"]
    return messages


def pictures(turn: Any) -> list[Image.Image]:
    """The pictures of a turn, whose text comes after them."""
    kinds = [part["type"] for part in turn["content"]]
    assert kinds == sorted(kinds)
    urls = [part["image_url"]["url"] for part in turn["content"] if part["type"] == "image_url"]
    images: list[Image.Image] = []
    for url in urls:
        head, content = url.split(",")
        image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
        image.load()
        assert head == f"data:{Image.MIME[image.format or '']};base64"
        images.append(image)
    return images


def sent(page: Page, text: str) -> list[Any]:
    """The turns that the device gets when a text is sent."""
    with page.expect_request(COMPLETIONS) as asked:
        send(page, text)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    return asked_turns(asked.value)


def color(image: Image.Image, x: int, y: int) -> Any:
    return image.convert("RGB").getpixel((x, y))
