"""Pictures in the chat page: dropped, pasted, chosen, taken, scaled and sent."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect

from device_runtime.bundle.release import Release
from device_runtime.inference.engine import images_of
from tests.support import axe
from tests.support.browser import (
    COMPLETIONS,
    DEVICES,
    SMALL,
    Echo,
    Seen,
    answers,
    echoing,
    opened,
    send,
)
from tests.support.conversations import turns
from tests.support.pictures import (
    BLUE,
    DRAWING,
    RED,
    VISION,
    asked_turns,
    color,
    drawing,
    drop,
    encoded,
    hand_over,
    open_seeing,
    pending,
    photo,
    pictures,
    sent,
)
from tests.support.serving import Serving

pytestmark = pytest.mark.requires("chromium")


@pytest.fixture(scope="module")
def echo() -> Echo:
    """The model."""
    return Echo()


@pytest.fixture(scope="module")
def url(echo: Echo) -> Iterator[str]:
    with echoing(echo, VISION) as address:
        yield address


@pytest.fixture
def page(page: Page, url: str) -> Page:
    open_seeing(page, url)
    return page


def test_a_dropped_picture_is_scaled_sent_and_shown(page: Page, tmp_path: Path) -> None:
    seen = Seen(page)
    file = tmp_path / "photo.png"
    file.write_bytes(encoded(photo(1600, 1000)))
    # As a mouse drops it: without the page, the browser would open the file.
    drag = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        event = {"type": kind, "x": 300, "y": 300, "data": data}
        drag.send("Input.dispatchDragEvent", event)
    expect(pending(page).get_by_role("img", name="photo.png")).to_be_visible()
    expect(page.locator("body")).not_to_contain_class("dropping")
    (turn,) = sent(page, "What is it?")
    assert turn["content"][-1] == {"type": "text", "text": "What is it?"}
    (image,) = pictures(turn)
    assert (image.format, image.size) == ("JPEG", (1024, 640))
    expect(pending(page)).not_to_be_visible()
    shown = page.locator("article.user .picture img")
    assert shown.evaluate("(e) => [e.naturalWidth, e.naturalHeight]") == [1024, 640]
    assert seen.trouble == []


def test_the_engine_gets_text_and_pictures(page: Page, echo: Echo) -> None:
    drop(page, RED, BLUE)
    send(page, "What are these?")
    expect(answers(page).locator(".text")).to_have_text("What are these?")
    send(page, "Sure?")
    expect(answers(page).locator(".text").nth(1)).to_have_text("Sure?")
    first, *others = turns(echo.requests[-1])
    sizes = [Image.open(io.BytesIO(data)).size for data in images_of([first])]
    assert sizes == [(300, 200), (50, 80)]
    assert first.content[-1] == "What are these?"
    assert [turn.content for turn in others] == ["What are these?", "Sure?"]


def test_a_model_answers_about_pictures(page: Page, seeing_release: Release) -> None:
    texts = set()
    with Serving(seeing_release.folder, "--max-tokens", "12") as server:
        open_seeing(page, server.url)
        for file in (RED, BLUE):
            drop(page, file)
            send(page, "What is it?")
            answer = answers(page).last
            expect(answer.locator("footer")).to_contain_text(
                re.compile(r"0 of \d{4} prompt tokens")
            )
            texts.add(answer.locator(".text").inner_text())
            page.get_by_role("button", name="New chat").click()
    assert len(texts) == 2


def test_a_pasted_picture(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (png) => {
          const bytes = Uint8Array.from(atob(png), (character) => character.charCodeAt(0));
          const blob = new Blob([bytes], { type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        base64.b64encode(DRAWING).decode(),
    )
    page.get_by_label("Your message").press("Control+V")
    expect(pending(page).get_by_role("img", name="image.png")).to_be_visible()
    (turn,) = sent(page, "Hi")
    assert [image.size for image in pictures(turn)] == [(300, 200)]


def test_a_text_copied_with_a_picture_of_it_is_pasted_as_text(page: Page) -> None:
    hand_over(page, "paste", RED, texts=("text/plain", "text/html"))
    # A file, and its name.
    hand_over(page, "paste", BLUE, texts=("text/plain",))
    expect(pending(page).get_by_role("img", name="blue.png")).to_be_visible()
    expect(pending(page).get_by_role("img")).to_have_count(1)


def test_pictures_are_chosen_and_removed_by_keyboard(page: Page) -> None:
    question = page.get_by_label("Your message")
    question.focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Pictures")).to_be_focused()
    with page.expect_file_chooser() as choosing:
        page.keyboard.press("Enter")
    assert choosing.value.is_multiple()
    files = [FilePayload(name=name, mimeType=form, buffer=data) for name, form, data in (RED, BLUE)]
    choosing.value.set_files(files)
    expect(pending(page).get_by_role("img")).to_have_count(2)
    # The text is next.
    expect(question).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("button", name="Remove red.png")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Remove blue.png")).to_be_focused()
    page.keyboard.press("Enter")
    expect(pending(page)).not_to_be_visible()
    expect(page.get_by_role("button", name="Pictures")).to_be_focused()
    # A browser takes the same file again only if the choice was emptied.
    assert choosing.value.element.input_value() == ""
    with page.expect_file_chooser() as choosing:
        page.keyboard.press("Enter")
    choosing.value.set_files(files[1:])
    expect(pending(page).get_by_role("img")).to_have_count(1)
    (turn,) = sent(page, "Hi")
    assert [image.size for image in pictures(turn)] == [(50, 80)]
    question.press("Shift+Tab")
    while not page.evaluate("document.activeElement.matches('.picture')"):
        page.keyboard.press("Shift+Tab")
    enlarge = page.get_by_role("button", name="Enlarge blue.png")
    expect(enlarge).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="blue.png")
    expect(dialog.get_by_role("img", name="blue.png")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).not_to_be_visible()
    expect(enlarge).to_be_focused()


def test_a_phone_has_its_camera(browser: Browser, url: str) -> None:
    for device in DEVICES:
        with browser.new_context(**DEVICES[device]) as context:
            page = context.new_page()
            open_seeing(page, url)
            camera = page.get_by_role("button", name="Camera")
            expect(camera).to_be_visible(visible=device == "phone")
            for name, captures in (("Pictures", None), ("Camera", "environment")):
                if name == "Camera" and device == "desktop":
                    continue
                with page.expect_file_chooser() as choosing:
                    page.get_by_role("button", name=name).click()
                chosen = choosing.value.element
                assert chosen.get_attribute("accept") == "image/jpeg,image/png,image/webp"
                assert chosen.get_attribute("capture") == captures


@pytest.mark.parametrize(
    ("name", "data", "form", "size"),
    [
        ("photo as JPEG", encoded(photo(2000, 500), "JPEG"), "JPEG", (1024, 256)),
        ("photo as WebP", encoded(photo(500, 2000), "WEBP"), "JPEG", (256, 1024)),
        ("photo as PNG", encoded(photo(64, 64)), "JPEG", (64, 64)),
        ("drawing", DRAWING, "PNG", (300, 200)),
        ("large drawing", encoded(drawing(5000, 2500)), "PNG", (1024, 512)),
        ("line", encoded(Image.new("RGB", (5000, 1))), "PNG", (1024, 1)),
        ("dot", encoded(Image.new("1", (1, 1))), None, (1, 1)),
    ],
)
def test_format_and_size(
    page: Page, name: str, data: bytes, form: str | None, size: tuple[int, int]
) -> None:
    drop(page, (name, "", data))
    (image,) = pictures(sent(page, "Hi")[0])
    assert image.size == size
    assert form in (image.format, None)


def test_a_photo_is_turned_upright_and_does_not_say_where_it_was_taken(page: Page) -> None:
    image = Image.new("RGB", (400, 200), "blue")
    image.paste("red", (0, 0, 200, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # The left of what is stored is the top of the picture.
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 29.0)
    drop(page, ("turned.jpg", "image/jpeg", encoded(image, "JPEG", exif=exif)))
    (image,) = pictures(sent(page, "Hi")[0])
    assert image.size == (200, 400)
    red, _, blue = color(image, 100, 50)
    assert red > 200 > 50 > blue
    assert not image.getexif()


def test_what_is_transparent_is_white(page: Page) -> None:
    drop(page, ("glass.png", "image/png", encoded(Image.new("RGBA", (9, 9), (255, 0, 0, 0)))))
    (image,) = pictures(sent(page, "Hi")[0])
    assert color(image, 4, 4) == (255, 255, 255)


def test_a_picture_alone_is_sent(page: Page) -> None:
    drop(page, RED)
    (turn,) = sent(page, "")
    assert [part["type"] for part in turn["content"]] == ["image_url"]
    expect(page.locator("article.user .text")).not_to_be_visible()
    page.get_by_role("button", name="Chats").click()
    expect(page.get_by_role("button", name="red.png", exact=True)).to_be_visible()


def test_a_picture_that_is_still_being_scaled_is_sent(page: Page) -> None:
    page.get_by_label("Your message").fill("Hi")
    with page.expect_request(COMPLETIONS) as asked:
        page.evaluate("addEventListener('drop', () => window.ask.requestSubmit())")
        hand_over(page, "drop", RED)
    assert len(pictures(asked_turns(asked.value)[0])) == 1


def test_a_chat_takes_eight_pictures(page: Page) -> None:
    alert = page.get_by_role("alert")
    drop(page, *[(f"{number}.png", "image/png", DRAWING) for number in range(3)])
    sent(page, "Hi")
    drop(page, *[(f"{number}.png", "image/png", DRAWING) for number in range(3, 8)])
    hand_over(page, "drop", BLUE)
    expect(alert).to_have_text("A chat takes up to 8 pictures. Start a new chat for more.")
    page.get_by_role("button", name="Remove 3.png").click()
    drop(page, BLUE)
    expect(alert).not_to_be_visible()
    first, _, second = sent(page, "Hi")
    assert [image.size for image in pictures(first)] == [(300, 200)] * 3
    assert [image.size for image in pictures(second)] == [(300, 200)] * 4 + [(50, 80)]
    page.get_by_role("button", name="New chat").click()
    drop(page, BLUE)
    expect(alert).not_to_be_visible()


@pytest.mark.parametrize(
    "data", [b"", b"hello", DRAWING[:20], b"<svg xmlns='http://www.w3.org/2000/svg'"]
)
def test_what_is_not_a_picture_is_named(page: Page, data: bytes) -> None:
    drop(page, ("a <b>.png", "image/png", data), RED)
    expect(page.get_by_role("alert")).to_have_text(
        "a <b>.png cannot be opened as a picture. Use a JPEG, PNG or WebP file."
    )
    expect(pending(page).get_by_role("img")).to_have_count(1)


def test_a_text_model_takes_no_pictures(browser: Browser) -> None:
    for device in DEVICES:
        with echoing() as url, opened(browser, url, device) as page:
            for name in ("Pictures", "Camera"):
                expect(page.get_by_role("button", name=name)).not_to_be_visible()
            for kind in ("drop", "paste"):
                hand_over(page, kind, RED)
                expect(page.get_by_role("alert")).to_have_text(
                    "This model takes text alone: it cannot see pictures."
                )
                expect(pending(page)).not_to_be_visible()
                send(page, "Hi")
                expect(page.get_by_role("alert")).not_to_be_visible()


@pytest.mark.requires("npm")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", DEVICES)
def test_axe_finds_no_violation(browser: Browser, url: str, device: str, scheme: Any) -> None:
    with browser.new_context(**DEVICES[device], color_scheme=scheme) as context:
        page = context.new_page()
        open_seeing(page, url)
        for state in states(page):
            assert axe.violations(page) == [], state
            assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate(
                "innerWidth"
            )
            if device == "phone":
                assert page.evaluate(SMALL) == [], state


def states(page: Page) -> Iterator[str]:
    """Brings the page into each of its states with pictures."""
    wide = ("wide.png", "image/png", encoded(Image.new("RGB", (900, 30), "green")))
    drop(page, RED, BLUE, wide)
    yield "pending"
    send(page, "Hi")
    expect(answers(page).locator("footer")).to_be_visible()
    yield "sent"
    page.get_by_role("button", name="Enlarge wide.png").click()
    yield "enlarged"
    page.get_by_role("button", name="Close").click()
    hand_over(page, "drop", ("notes.txt", "text/plain", b"Hi"))
    expect(page.get_by_role("alert")).to_be_visible()
    yield "not a picture"
