"""The chat page as its user has it before them."""

from typing import Any

from playwright.sync_api import Locator, Page


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
