"""Pictures in the conversations that the chat page keeps."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import COMPLETIONS, Seen, echoing, failing, send
from tests.support.pictures import (
    BLUE,
    RED,
    VISION,
    asked_turns,
    drop,
    open_seeing,
    pending,
    pictures,
    sent,
)

pytestmark = pytest.mark.requires("chromium")

STORED = """new Promise((resolve, reject) => {
  const opening = indexedDB.open("edgepack");
  opening.onerror = () => reject(opening.error);
  opening.onsuccess = () => {
    const all = opening.result.transaction("pictures").objectStore("pictures").getAll();
    all.onsuccess = () => resolve(all.result.map(({ url }) => url));
  };
})"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with echoing(vision=VISION) as address:
        yield address


@pytest.fixture
def page(page: Page, url: str) -> Page:
    open_seeing(page, url)
    return page


def has_stored(page: Page, count: int) -> None:
    """Wait until so many pictures are stored: the page does not wait for its database."""
    deadline = time.monotonic() + 10
    while (stored := len(page.evaluate(STORED))) != count and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    assert stored == count


def tried_again(page: Page) -> list[Any]:
    """The turns that the device gets when a question is tried again."""
    with page.expect_request(COMPLETIONS) as asked:
        page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    return asked_turns(asked.value)


def test_earlier_turns_keep_their_pictures(page: Page) -> None:
    drop(page, RED)
    sent(page, "What is it?")
    drop(page, BLUE)
    turns = sent(page, "And this?")
    assert [len(pictures(turn)) for turn in (turns[0], turns[2])] == [1, 1]
    assert turns[1] == {"role": "assistant", "content": "What is it?"}
    page.reload()
    expect(page.locator(".picture")).to_have_count(2)
    assert tried_again(page) == turns
    # They are not in the storage that holds the text, which has no room for many.
    assert "data:" not in page.evaluate("JSON.stringify(localStorage)")


def test_a_question_without_an_answer_comes_back_with_its_pictures(page: Page) -> None:
    drop(page, RED, BLUE)
    failing(page, 429, "the queue is full")
    send(page, "What is it?")
    expect(page.get_by_role("alert")).to_contain_text("busy")
    expect(page.get_by_label("Your message")).to_have_value("What is it?")
    expect(page.locator("article")).to_have_count(0)
    page.get_by_role("button", name="Remove red.png").click()
    page.unroute(COMPLETIONS)
    (turn,) = sent(page, "What is this?")
    assert turn["content"][-1]["text"] == "What is this?"
    assert [image.size for image in pictures(turn)] == [(50, 80)]
    page.reload()
    expect(page.locator(".picture")).to_have_count(1)


def test_pictures_of_a_deleted_chat_are_deleted_until_that_is_undone(page: Page) -> None:
    drop(page, RED)
    sent(page, "Red?")
    page.get_by_role("button", name="New chat").click()
    drop(page, BLUE)
    sent(page, "Blue?")
    has_stored(page, 2)
    for question in ("Red?", "Blue?"):
        page.get_by_role("button", name="Chats").click()
        page.get_by_role("button", name=f"Delete {question}").click()
        has_stored(page, 1)
        page.get_by_role("button", name="Undo").click()
        expect(page.get_by_role("button", name="Undo")).not_to_be_visible()
        has_stored(page, 2)
        page.reload()
        page.get_by_role("button", name="Chats").click()
        page.get_by_role("button", name=question, exact=True).click()
        expect(page.locator(".picture")).to_have_count(1)


@pytest.mark.parametrize("trouble", ["full", "disabled"])
def test_pictures_that_cannot_be_saved_do_not_cost_the_text(
    page: Page, url: str, trouble: str
) -> None:
    if trouble == "full":
        storage = page.context.new_cdp_session(page)
        storage.send("Storage.overrideQuotaForOrigin", {"origin": url, "quotaSize": 1000})
    else:
        page.add_init_script("Object.defineProperty(window, 'indexedDB', { value: undefined })")
        page.reload()
        expect(page.get_by_role("button", name="Pictures")).to_be_visible()
    drop(page, RED)
    sent(page, "What is it?")
    expect(page.get_by_role("alert")).to_have_text(
        "The pictures cannot be saved: this browser's storage is full or disabled."
    )
    # It is there as long as the page is.
    assert len(pictures(tried_again(page)[0])) == 1
    page.reload()
    expect(page.locator("article.user")).to_contain_text("red.png was not saved.")
    assert tried_again(page) == [{"role": "user", "content": "What is it?"}]
    failing(page, 429, "the queue is full")
    tried_again(page)
    expect(page.get_by_label("Your message")).to_have_value("What is it?")
    expect(pending(page)).not_to_be_visible()


@pytest.mark.parametrize("kept", ["3", "[null, 3, {}]", '[{"id": {}, "name": 7}]'])
def test_damaged_pictures_are_left_out(page: Page, kept: str) -> None:
    page.evaluate(
        """(pictures) => localStorage.setItem("edgepack.chat.1", JSON.stringify({
          messages: [{ role: "user", content: "Hi", pictures }],
        }))""",
        json.loads(kept),
    )
    seen = Seen(page)
    page.reload()
    expect(page.locator("article.user .text")).to_have_text("Hi")
    assert sent(page, "Again")[0] == {"role": "user", "content": "Hi"}
    assert seen.trouble == []
