"""What the chat page shows in each of its states, on a phone and on a desktop."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support import axe
from tests.support.browser import (
    DEVICES,
    SMALL,
    Seen,
    answering,
    answers,
    echoing,
    failing,
    opened,
    replace_route,
    send,
)

pytestmark = pytest.mark.requires("chromium")

CODE = f"```python\nprint('{'long ' * 60}')\n```\n\n| a | {'b' * 300} |\n|---|---|\n| 1 | 2 |"
THOUGHT = {"reasoning_content": "The user wants\n\na function."}
CALL: dict[str, Any] = {
    "tool_calls": [
        {
            "index": 0,
            "id": "1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": '},
        }
    ]
}
CALL_END = {"tool_calls": [{"index": 0, "function": {"arguments": '"Paris"}'}}]}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with echoing() as address:
        yield address


def choose(page: Page, name: str) -> None:
    """Presses a button of the header, which a phone has in its menu."""
    menu = page.get_by_role("button", name="Menu")
    if menu.is_visible():
        menu.click()
    page.get_by_role("button", name=name).click()


def states(page: Page) -> Iterator[str]:
    """Brings the page into each of its states."""
    yield "empty"
    answering(page, THOUGHT, CALL, CALL_END, {"content": CODE}, finish="length")
    send(page, "Hi")
    expect(answers(page).locator("footer")).to_be_visible()
    yield "answered"
    for summary in page.locator("summary").all():
        summary.click()
    page.get_by_role("button", name="Details").click()
    yield "unfolded"
    menu = page.get_by_role("button", name="Menu")
    if menu.is_visible():
        menu.click()
        yield "menu"
        page.keyboard.press("Escape")
    choose(page, "Settings")
    yield "settings"
    page.get_by_role("button", name="Close").click()
    choose(page, "Chats")
    yield "chats"
    page.get_by_role("button", name="Delete Hi").click()
    yield "deleted"
    page.get_by_role("button", name="Close").click()
    failing(page, 429, "the queue is full")
    send(page, "Hi")
    expect(page.get_by_role("alert")).to_be_visible()
    yield "error"
    go_offline(page)
    yield "offline"


def go_offline(page: Page) -> None:
    page.route("**/v1/**", lambda route: route.abort())
    look_again(page)
    expect(page.locator("#device")).to_have_text("offline")


def look_again(page: Page) -> None:
    """Has the page see to the device now, as it does whenever its tab is shown."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


@pytest.mark.requires("npm")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", DEVICES)
def test_axe_finds_no_violation(browser: Browser, url: str, device: str, scheme: str) -> None:
    with opened(browser, url, device, color_scheme=scheme) as page:
        assert {state: axe.violations(page) for state in states(page)} == {
            state: []
            for state in (
                *("empty", "answered", "unfolded", *(["menu"] if device == "phone" else [])),
                *("settings", "chats", "deleted", "error", "offline"),
            )
        }


def test_what_is_touched_has_44_pixels(browser: Browser, url: str) -> None:
    with opened(browser, url, "phone") as page:
        for state in states(page):
            assert page.evaluate(SMALL) == [], state


def test_a_phone_has_one_row_and_a_menu(browser: Browser, url: str) -> None:
    with opened(browser, url, "phone") as page:
        menu = page.get_by_role("button", name="Menu")
        header = page.locator("header").bounding_box()
        assert header is not None
        assert header["height"] <= 64
        names = ("New chat", "Chats", "Settings", "Toggle dark theme")
        for name in names:
            expect(page.get_by_role("button", name=name)).not_to_be_visible()
        menu.press("Enter")
        for name in names:
            expect(page.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="Chats")).not_to_be_visible()
        expect(menu).to_be_focused()
        # What is chosen from it closes it.
        dark = page.locator("html[data-theme=dark]")
        choose(page, "Toggle dark theme")
        expect(dark).to_have_count(1)
        expect(page.get_by_role("button", name="Chats")).not_to_be_visible()
        choose(page, "Settings")
        expect(page.get_by_role("dialog")).to_be_visible()


def test_nothing_is_wider_than_a_phone(browser: Browser, url: str) -> None:
    with opened(browser, url, "phone") as page:
        send(page, f"{'W' * 200}\n\n{CODE}")
        expect(answers(page).locator("footer")).to_be_visible()
        for scrolled in ("documentElement", "getElementById('log')"):
            assert page.evaluate(f"document.{scrolled}.scrollWidth") <= 390
        expect(page.get_by_role("button", name="Send")).to_be_in_viewport(ratio=1)


def test_a_phone_brings_up_no_keyboard_by_itself(browser: Browser, url: str) -> None:
    with opened(browser, url, "phone") as page:
        question = page.get_by_label("Your message")
        expect(question).not_to_be_focused()
        question.fill("Hi")
        page.get_by_role("button", name="Send").tap()
        expect(answers(page).locator("footer")).to_be_visible()
        expect(page.get_by_role("button", name="Send")).to_be_focused()
        choose(page, "New chat")
        expect(question).not_to_be_focused()


def test_details_hold_reuse_and_memory(page: Page, url: str) -> None:
    page.goto(url)
    answering(page, {"content": "Paris."})
    send(page, "Hi")
    footer = answers(page).locator("footer")
    show = page.get_by_role("button", name="Details")
    expect(show).to_have_attribute("aria-expanded", "false")
    for fact in ("45 of 64 prompt tokens reused", "MiB of memory"):
        expect(footer).not_to_contain_text(fact, use_inner_text=True)
    show.press("Enter")
    expect(show).to_have_attribute("aria-expanded", "true")
    for fact in ("First token after", "45 of 64 prompt tokens reused", "MiB of memory"):
        expect(footer).to_contain_text(fact, use_inner_text=True)
    expect(page.locator("#device")).not_to_contain_text("MiB")
    show.press("Enter")
    expect(footer).not_to_contain_text("MiB", use_inner_text=True)


def test_an_answer_at_the_length_limit_is_continued(page: Page, url: str) -> None:
    page.goto(url)
    answering(page, {"content": "One, two"}, finish="length", tokens=4)
    send(page, "Count.")
    footer = answers(page).locator("footer")
    expect(footer).to_contain_text("Stopped at the length limit · 4 tokens")
    answering(page, {"content": ", three."}, tokens=3)
    with page.expect_request("**/v1/chat/completions") as asked:
        page.get_by_role("button", name="Continue").click()
    body = json.loads(asked.value.post_data or "")
    assert body["messages"] == [
        {"role": "user", "content": "Count."},
        {"role": "assistant", "content": "One, two"},
    ]
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False
    expect(answers(page).locator(".text")).to_have_text("One, two, three.")
    expect(answers(page)).to_have_count(1)
    expect(footer).to_contain_text("7 tokens")
    expect(page.get_by_role("button", name="Continue")).to_have_count(0)
    page.reload()
    expect(answers(page).locator(".text")).to_have_text("One, two, three.")


def test_an_answer_that_cannot_be_continued_now_stays(page: Page, url: str) -> None:
    page.goto(url)
    answering(page, {"content": "One, two"}, finish="length")
    send(page, "Count.")
    failing(page, 429, "the queue is full")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("alert")).to_contain_text("busy")
    expect(answers(page).locator(".text")).to_have_text("One, two")
    expect(page.get_by_role("button", name="Continue")).to_be_visible()


def test_a_deletion_is_undone(page: Page, url: str) -> None:
    page.goto(url)
    answering(page, {"content": "Blue."})
    for question in ("Name a colour.", "Name another."):
        page.get_by_role("button", name="New chat").click()
        send(page, question)
        expect(answers(page).locator("footer")).to_be_visible()
    shown = page.locator("#log").inner_text()
    page.get_by_role("button", name="Chats").click()
    listed = page.locator("#chat-list .open")
    for question in ("Name a colour.", "Name another."):
        page.get_by_role("button", name=f"Delete {question}").click()
        assert question not in page.evaluate("JSON.stringify(localStorage)")
        undo = page.get_by_role("button", name="Undo")
        expect(undo).to_be_focused()
        expect(undo).to_have_accessible_description(f"Deleted: {question}")
        page.keyboard.press("Enter")
        expect(listed).to_have_text(["Name another.", "Name a colour."])
        expect(undo).not_to_be_visible()
    # The one that was open is open again.
    expect(page.locator("#log")).to_have_text(shown, use_inner_text=True)
    page.reload()
    expect(page.locator("#log")).to_have_text(shown, use_inner_text=True)


@pytest.mark.parametrize("device", DEVICES)
def test_dialogs_close_at_the_same_place(browser: Browser, url: str, device: str) -> None:
    with opened(browser, url, device) as page:
        corners = []
        for name in ("Settings", "Chats"):
            choose(page, name)
            dialog = page.get_by_role("dialog").bounding_box()
            close = page.get_by_role("button", name="Close").bounding_box()
            assert dialog is not None
            assert close is not None
            right = dialog["x"] + dialog["width"] - close["x"] - close["width"]
            corners.append((right, close["y"] - dialog["y"]))
            page.get_by_role("button", name="Close").click()
            expect(page.get_by_role("dialog")).to_have_count(0)
        assert corners[0] == corners[1]


def test_an_empty_chat_offers_three_questions(page: Page, url: str) -> None:
    page.goto(url)
    examples = page.get_by_role("region", name="Example questions").get_by_role("button")
    expect(examples).to_have_count(3)
    text = examples.nth(1).inner_text()
    examples.nth(1).press("Enter")
    expect(page.locator("article.user .text")).to_have_text(text)
    expect(answers(page).locator(".text")).to_have_text(text)
    expect(examples).to_have_count(0)
    page.get_by_role("button", name="New chat").click()
    expect(examples).to_have_count(3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_long_code_shows_that_it_scrolls(browser: Browser, url: str, scheme: str) -> None:
    with opened(browser, url, "phone", color_scheme=scheme) as page:
        answering(page, {"content": CODE})
        send(page, "Hi")
        expect(answers(page).locator("footer")).to_be_visible()
        code = answers(page).locator("pre")
        box = code.bounding_box()
        assert box is not None
        # Above the text, at both edges.
        clips: list[Any] = [
            {"x": x, "y": box["y"] + 2, "width": 6, "height": 6}
            for x in (box["x"] + 2, box["x"] + box["width"] - 8)
        ]
        left, right = (page.screenshot(clip=clip) for clip in clips)
        assert left != right
        code.evaluate("(e) => { e.scrollLeft = e.scrollWidth; }")
        plain = left
        left, right = (page.screenshot(clip=clip) for clip in clips)
        assert left != plain
        assert right == plain


def test_one_line_tells_of_trouble(page: Page, url: str) -> None:
    page.goto(url)
    failing(page, 429, "the queue is full")
    send(page, "Hi")
    trouble = page.get_by_role("alert")
    expect(trouble).to_contain_text("busy")
    # The device going away outdates that, and its return outdates what was said meanwhile.
    go_offline(page)
    expect(trouble).to_have_text("The device cannot be reached. Is it on, and on the same network?")
    page.get_by_label("Your message").press("Enter")
    expect(page.get_by_label("Your message")).to_have_value("Hi")
    expect(trouble).to_have_text("The device cannot be reached. Is it on, and on the same network?")
    page.unroute("**/v1/**")
    look_again(page)
    expect(page.locator("#device")).to_contain_text("ready")
    expect(trouble).not_to_be_visible()
    assert "reached" not in page.locator("body").inner_text()


@pytest.mark.parametrize(
    ("message", "shown"),
    [("the queue is full. Try again in 5 s.", "The queue is full. Try again in 5 s."),
     ("the queue is full", "The queue is full. Try again in 5 s."),
     ("", "Try again in 5 s.")],
)  # fmt: skip
def test_the_time_to_wait_is_told_once(page: Page, url: str, message: str, shown: str) -> None:
    page.goto(url)
    failing(page, 429, message, {"Retry-After": "5"})
    send(page, "Hi")
    expect(page.get_by_role("alert")).to_have_text(
        f"The device is busy with other requests. {shown}"
    )


def test_thinking_is_folded_and_stays_here(page: Page, url: str) -> None:
    page.goto(url)
    answering(page, THOUGHT, {"content": "Blue."})
    send(page, "Name a colour.")
    for _ in range(2):
        thinking = answers(page).locator("details.thinking")
        expect(thinking.locator("pre")).not_to_be_visible()
        thinking.get_by_text("Thinking").click()
        expect(thinking.locator("pre")).to_have_text("The user wants\n\na function.")
        expect(answers(page).locator(".text")).to_have_text("Blue.")
        above, below = thinking.bounding_box(), answers(page).locator(".text").bounding_box()
        assert above is not None
        assert below is not None
        assert above["y"] < below["y"]
        page.reload()
    with page.expect_request("**/v1/chat/completions") as asked:
        answering(page, {"content": "Red."})
        send(page, "Another?")
    assert "wants" not in (asked.value.post_data or "")


def test_thinking_as_the_api_gives_it(page: Page, url: str) -> None:
    page.goto(url)
    send(page, "The user wants a colour.</think>Blue.")
    expect(answers(page).locator("details.thinking pre")).to_have_text("The user wants a colour.")
    expect(answers(page).locator(".text")).to_have_text("Blue.")


def test_an_answer_of_thoughts_alone_is_kept(page: Page, url: str) -> None:
    page.goto(url)
    answering(page, THOUGHT, finish="length")
    send(page, "Name a colour.")
    expect(answers(page).locator("footer")).to_contain_text("Stopped at the length limit")
    expect(answers(page).locator("details.thinking")).to_be_visible()
    # There is no answer yet to go on with.
    expect(page.get_by_role("button", name="Continue")).to_have_count(0)


def test_tool_calls_are_shown(page: Page, url: str) -> None:
    page.goto(url)
    second = {"index": 1, "id": "2", "function": {"name": "get_time", "arguments": "{}"}}
    answering(page, CALL, CALL_END, {"tool_calls": [second]}, finish="tool_calls")
    send(page, "What is the weather?")
    for _ in range(2):
        calls = answers(page).locator("details.call")
        expect(calls.locator("summary")).to_have_text(
            ["Tool call: get_weather", "Tool call: get_time"]
        )
        expect(calls.first.locator("pre")).not_to_be_visible()
        calls.first.locator("summary").press("Enter")
        expect(calls.first.locator("pre")).to_have_text('{"city": "Paris"}')
        page.reload()


def test_thoughts_and_calls_are_inert(page: Page, url: str) -> None:
    seen = Seen(page)
    page.goto(url)
    hostile = "<img src=x onerror='window.pwned = 1'><script>window.pwned = 1</script>"
    called = {"index": 0, "function": {"name": hostile, "arguments": hostile}}
    answering(page, {"reasoning_content": hostile}, {"tool_calls": [called]})
    send(page, "Hi")
    expect(answers(page).locator("summary")).to_have_text(["Thinking", f"Tool call: {hostile}"])
    expect(answers(page).locator("details pre")).to_have_text([hostile, hostile])
    assert page.evaluate("window.pwned") is None
    assert seen.trouble == []


@pytest.mark.parametrize("kept", ['{"reasoning": 3, "calls": 7}', '{"calls": [null, {"name": 1}]}'])
def test_damaged_thoughts_and_calls_are_left_out(page: Page, url: str, kept: str) -> None:
    page.goto(url)
    page.evaluate(
        """(damage) => localStorage.setItem("edgepack.chat.1", JSON.stringify({
          messages: [
            { role: "user", content: "Hi" },
            { role: "assistant", content: "Hello.", ...damage },
          ],
        }))""",
        json.loads(kept),
    )
    seen = Seen(page)
    page.reload()
    expect(answers(page).locator(".text")).to_have_text("Hello.")
    expect(answers(page).locator(".thinking")).to_have_count(0)
    assert seen.trouble == []


@pytest.mark.parametrize(("motion", "animation"), [("reduce", "none"), ("no-preference", "blink")])
def test_nothing_moves_for_who_wants_that(
    browser: Browser, url: str, motion: str, animation: str
) -> None:
    with opened(browser, url, "desktop", reduced_motion=motion) as page:
        replace_route(page, lambda route: None)  # it is being answered, without end
        send(page, "Hi")
        expect(page.locator("article[aria-busy]")).to_be_visible()
        moving = "getComputedStyle(document.querySelector('[aria-busy] .text'), '::after')"
        assert page.evaluate(f"{moving}.animationName") == animation
