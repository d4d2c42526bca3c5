"""The chat page in Chromium, with the frozen runtime and the default model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from device_runtime.bundle.release import Release
from tests.support.browser import Seen, answers, send
from tests.support.commands import edgepack_runtime
from tests.support.serving import Serving

pytestmark = [pytest.mark.slow, pytest.mark.requires("chromium")]

LONG = "Write a long story about a lighthouse."


@pytest.fixture(scope="module")
def server(host_release: Release) -> Iterator[Serving]:
    with Serving(host_release.folder) as serving:
        yield serving


def test_ask_read_ask_again_and_reload(server: Serving, page: Page) -> None:
    seen = Seen(page)
    page.goto(server.url)
    expect(page.locator("#device")).to_contain_text("ready")
    expect(page.locator("#model")).to_have_text(server.get("/v1/status")["identity"]["model"])
    send(page, "Name the capital of France.")
    first = answers(page).first
    expect(first).to_contain_text("Paris")
    expect(first.locator("footer")).to_contain_text("tokens/s")
    send(page, "And of Italy?")
    expect(answers(page).nth(1).locator("footer")).to_contain_text("prompt tokens reused")
    shown = page.locator("#log").inner_text()
    page.reload()
    expect(page.locator("#log")).to_have_text(shown, use_inner_text=True)
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("article")).to_have_count(0)
    page.get_by_role("button", name="Chats").click()
    page.get_by_role("button", name="Name the capital of France.", exact=True).click()
    expect(page.locator("#log")).to_have_text(shown, use_inner_text=True)
    assert seen.trouble == []
    assert [url for url in seen.requests if not url.startswith(server.url)] == []


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop(server: Serving, page: Page, way: str) -> None:
    cancelled = server.get("/v1/status")["requests"]["cancelled"]
    page.goto(server.url)
    send(page, LONG)
    text = answers(page).locator(".text")
    expect(text).not_to_be_empty()
    before = text.inner_text()
    # It grows while it is being written.
    expect(text).not_to_have_text(before)
    if way == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press(way)
    expect(answers(page).locator("footer")).to_contain_text("Stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.get_by_label("Your message")).to_be_focused()
    stopped = text.inner_text()
    assert server.get("/v1/status")["requests"]["cancelled"] == cancelled + 1
    # The next question is asked with what had come.
    with page.expect_request("**/v1/chat/completions") as asked:
        send(page, "Thank you.")
    messages = json.loads(asked.value.post_data or "")["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"].split()[:3] == stopped.split()[:3]
    expect(answers(page).nth(1).locator(".text")).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    assert text.first.inner_text() == stopped


def test_a_closed_tab_loses_at_most_the_last_second(server: Serving, page: Page) -> None:
    page.goto(server.url)
    send(page, LONG)
    # Its text is kept each second.
    kept = "JSON.parse(Object.values(localStorage).find((v) => v.includes('messages')))"
    while not page.evaluate(f"{kept}.messages[1]?.content.length > 20"):
        page.wait_for_timeout(20)
    page.reload()
    expect(answers(page).locator("footer")).to_contain_text("Interrupted")
    expect(answers(page).locator(".text")).not_to_be_empty()


def test_try_again(server: Serving, page: Page) -> None:
    page.goto(server.url)
    send(page, "Name a colour.")
    expect(answers(page).locator("footer")).to_contain_text("tokens/s")
    text = answers(page).locator(".text").inner_text()
    page.get_by_role("button", name="Try again").click()
    # Greedy: the same answer in place of the first.
    expect(answers(page).locator("footer")).to_contain_text("prompt tokens reused")
    expect(answers(page)).to_have_count(1)
    assert answers(page).locator(".text").inner_text() == text


def test_an_answer_at_the_length_limit_is_continued(server: Serving, page: Page) -> None:
    page.goto(server.url)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Maximum answer length").fill("5")
    page.get_by_role("button", name="Save").click()
    send(page, "Name the capital of France.")
    text = answers(page).locator(".text")
    expect(answers(page).locator("footer")).to_contain_text("Stopped at the length limit")
    expect(text).to_have_text("The capital of France is")
    page.get_by_role("button", name="Continue").click()
    # Greedy: the same text as without a limit.
    expect(text).to_have_text("The capital of France is Paris.")


def test_settings(server: Serving, page: Page) -> None:
    page.goto(server.url)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("You are a pirate.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Maximum answer length").fill("5")
    page.get_by_role("button", name="Save").click()
    page.reload()
    with page.expect_request("**/v1/chat/completions") as asked:
        send(page, "Hi")
    body = json.loads(asked.value.post_data or "")
    assert body == {
        "messages": [
            {"role": "system", "content": "You are a pirate."},
            {"role": "user", "content": "Hi"},
        ],
        "temperature": 0.5,
        "max_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    expect(answers(page).locator("footer")).to_contain_text("Stopped at the length limit · 5")


def test_settings_out_of_range_are_not_taken(server: Serving, page: Page) -> None:
    page.goto(server.url)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("7")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Temperature")).to_have_value("")


def test_chats_are_deleted(server: Serving, page: Page) -> None:
    page.goto(server.url)
    send(page, "Name a colour.")
    expect(answers(page).locator("footer")).to_contain_text("tokens/s")
    page.get_by_role("button", name="Chats").click()
    page.get_by_role("button", name="Delete Name a colour.").click()
    expect(page.get_by_text("No chats are saved in this browser yet.")).to_be_visible()
    page.reload()
    expect(page.locator("article")).to_have_count(0)
    assert "colour" not in page.evaluate("JSON.stringify(localStorage)")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_theme_follows_the_system_until_it_is_chosen(
    server: Serving, browser: Browser, scheme: Any
) -> None:
    other = "light" if scheme == "dark" else "dark"
    with browser.new_context(color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(server.url)
        html = page.locator("html")
        expect(html).to_have_attribute("data-theme", scheme)
        background = "getComputedStyle(document.body).backgroundColor"
        before = page.evaluate(background)
        page.get_by_role("button", name="Toggle dark theme").click()
        page.reload()
        expect(html).to_have_attribute("data-theme", other)
        assert page.evaluate(background) != before


def test_every_control_has_a_name_and_is_reached_by_keyboard(server: Serving, page: Page) -> None:
    page.goto(server.url)
    expect(page.get_by_label("Your message")).to_be_focused()
    reached = set()
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"send", "new", "show-chats", "show-settings", "theme", "log"} <= reached
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, select, textarea')].filter((e) =>"
        " !(e.ariaLabel || e.labels?.length || e.textContent.trim())).length"
    )
    assert unnamed == 0
    page.get_by_role("button", name="Settings").press("Enter")
    expect(page.get_by_role("dialog", name="Settings")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_api_key(host_release: Release, page: Page, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = edgepack_runtime("api-key", "new", "page", "--file", file)
    key = made.out.split()[0]
    with Serving(host_release.folder, "--api-keys-file", str(file)) as server:
        page.goto(server.url)
        expect(page.get_by_role("alert")).to_contain_text("requires an API key")
        send(page, "Name a colour.")
        expect(page.get_by_role("dialog", name="Settings")).to_be_visible()
        field = page.get_by_label("API key")
        expect(field).to_be_focused()
        field.fill("sk-edgepack-wrong")
        field.press("Enter")
        # What was asked is not lost.
        expect(page.get_by_label("Your message")).to_have_value("Name a colour.")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("alert")).to_contain_text("not valid")
        field.fill(key)
        field.press("Enter")
        expect(page.locator("#device")).to_contain_text("ready")
        page.get_by_role("button", name="Send").click()
        expect(answers(page).locator("footer")).to_contain_text("tokens/s")
        assert key not in page.evaluate("JSON.stringify(localStorage)")


def test_a_device_that_goes_away_and_comes_back(host_release: Release, page: Page) -> None:
    with Serving(host_release.folder) as server:
        page.goto(server.url)
        send(page, "Name a colour.")
        expect(answers(page).locator("footer")).to_contain_text("tokens/s")
        server.process.terminate()
        server.process.wait(timeout=60)
        send(page, "Are you there?")
        expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
        expect(page.get_by_label("Your message")).to_have_value("Are you there?")
        expect(page.locator("#device")).to_have_text("offline")
        expect(answers(page)).to_have_count(1)
