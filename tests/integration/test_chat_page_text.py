"""What a model writes, shown by the chat page in Chromium: hostile, damaged, Markdown."""

import asyncio
import re
import threading
from collections.abc import AsyncGenerator, Iterator

import pytest
from playwright.sync_api import Page, expect

from device_runtime.api.app import Api
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.engine import FinishReason, GenerationChunk, GenerationRequest
from device_runtime.server import page
from device_runtime.server.listener import Server, bind, url_of
from device_runtime.status.report import RequestStats
from device_runtime.tools.dialect import Dialect
from tests.support.browser import Seen, answers, send
from tests.support.conversations import turns
from tests.support.fakes import runtime_status, usage

pytestmark = pytest.mark.requires("chromium")


class Echo:
    """Implements `Generator`: gives the last message back, a few characters at a time."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        text = turns(request)[-1].content
        yield GenerationChunk()
        for at in range(0, len(text), 7):
            yield GenerationChunk(text=text[at : at + 7], tokens=1)
        yield GenerationChunk(finish_reason=FinishReason.STOP, usage=usage())


@pytest.fixture(scope="module")
def echo_url() -> Iterator[str]:
    stats = RequestStats()
    served = ServedModel(model="<b>tiny</b>", dialect=Dialect.of(""), max_tokens=64)
    app = Api(Echo(), stats, lambda: runtime_status(stats), served).app(page.routes())
    started = threading.Event()
    server = Server(app, started.set, max_connections=20, client_timeout_s=30)
    listening = bind("127.0.0.1:0")
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    assert started.wait(60)
    yield url_of(listening, tls=False)
    server.should_exit = True
    thread.join(timeout=60)
    listening.close()


HOSTILE = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<svg onload=window.pwned=1><iframe srcdoc='<script>parent.pwned=1</script>'>",
    "[click](javascript:window.pwned=1)",
    "[click](JaVa\tScRiPt:window.pwned=1) [click](<javascript:window.pwned=1>)",
    "[click](data:text/html,<script>window.pwned=1</script>) <javascript:window.pwned=1>",
    "[a](https://x.example/\"onmouseover='window.pwned=1') [b](https://x.example/ \"' onclick=x\")",
    "![picture](http://127.0.0.1:9/leak?said=secret)",
    "```html\n</code></pre><script>window.pwned = 1</script>\n```",
    '```"><script>window.pwned=1</script>\nx\n```',
    "`</code><script>window.pwned = 1</script>`",
    "| a |\n|---|\n| <script>window.pwned=1</script> |",
    "> - # <style>@import 'http://127.0.0.1:9/x'</style><base href='http://127.0.0.1:9/'>",
    "<form action=http://127.0.0.1:9/><button name=x>Send</button></form><meta http-equiv=refresh"
    " content='0;url=http://127.0.0.1:9/'>",
    "{{constructor.constructor('window.pwned=1')()}} ${window.pwned=1} \\<script>pwned=1</script>",
]
CONTENT = {
    *("P", "BR", "EM", "STRONG", "DEL", "CODE", "PRE", "A", "DIV", "SPAN", "BUTTON", "UL", "OL"),
    *("LI", "BLOCKQUOTE", "HR", "TABLE", "THEAD", "TBODY", "TR", "TH", "TD", "ARTICLE", "FOOTER"),
    *("H2", "H3", "H4", "H5", "H6"),
}


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_model_writes_is_inert(echo_url: str, page: Page, text: str) -> None:
    seen = Seen(page)
    page.goto(echo_url)
    send(page, text)
    answer = answers(page).first
    expect(answer.locator("footer")).to_be_visible()
    # Once more from what is kept, title of the chat included.
    page.reload()
    expect(answer.locator("footer")).to_be_visible()
    page.get_by_role("button", name="Chats").click()
    page.keyboard.press("Escape")
    for link in answer.locator("a").all():
        assert re.match(r"https?://", link.get_attribute("href") or "")
        assert link.evaluate("(e) => [...e.attributes].map((a) => a.name).sort()") == [
            *("href", "rel", "target", "title")
        ]
    used = "[...new Set([...document.querySelectorAll('#log *, #chats li *')].map(e => e.tagName))]"
    assert {*page.evaluate(used)} <= CONTENT
    assert page.evaluate("window.pwned") is None
    assert [url for url in seen.requests if not url.startswith(echo_url)] == []
    assert seen.trouble == []
    if "script" in text and "click" not in text:
        assert "script" in answer.inner_text()


def test_the_policy_stops_a_script_that_got_in_all_the_same(echo_url: str, page: Page) -> None:
    page.goto(echo_url)
    for code in (
        "document.body.innerHTML = '<img src=x onerror=\"window.pwned = 1\">'",
        "document.body.append(Object.assign(document.createElement('script'), {text: 'pwned=1'}))",
        "location.assign('javascript:window.pwned=1')",
    ):
        page.evaluate(f"() => {{ try {{ {code} }} catch {{}} }}")
    leak = "fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')"
    assert page.evaluate(leak) == "refused"
    assert page.evaluate("window.pwned") is None
    assert page.locator("img[src=x]").count() == 0


def test_pages_of_others_cannot_show_it_in_a_frame(echo_url: str, page: Page) -> None:
    page.goto("about:blank")
    page.set_content(f"<iframe src='{echo_url}'></iframe>")
    page.wait_for_timeout(500)
    assert page.frames[1].locator("#question").count() == 0


def test_damaged_storage_is_left_out(echo_url: str, page: Page) -> None:
    page.goto(echo_url)
    send(page, "kept")
    expect(answers(page).locator("footer")).to_be_visible()
    page.evaluate(
        """() => {
          for (const [i, value] of ['{', 'null', '7', '{"messages": 3}', '{"messages": [null]}',
            '{"messages": [{"role": "user", "content": {}}]}'].entries())
            localStorage.setItem(`edgepack.chat.${i}`, value);
          localStorage.setItem('edgepack.settings', '{"temperature": "<b>", "system": 4}');
          localStorage.setItem('edgepack.theme', '<b>');
        }"""
    )
    seen = Seen(page)
    page.reload()
    expect(page.locator("article.user")).to_have_text(re.compile("kept"))
    page.get_by_role("button", name="Chats").click()
    expect(page.locator("#chat-list li")).to_have_count(1)
    assert seen.trouble == []


MARKDOWN = [
    ("one\ntwo", "<p>one<br>two</p>"),
    ("# A\n\ntext", "<h2>A</h2><p>text</p>"),
    ("**b** *i* ***bi*** ~~d~~ `c`",
     "<p><strong>b</strong> <em>i</em> <em><strong>bi</strong></em> <del>d</del> "
     "<code>c</code></p>"),
    ("snake_case_name 2 * 3 * 4", "<p>snake_case_name 2 * 3 * 4</p>"),
    ("- a\n- b\n  - c", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>"),
    ("3. x\n4. y", '<ol start="3"><li>x</li><li>y</li></ol>'),
    ("> q\n> r", "<blockquote><p>q<br>r</p></blockquote>"),
    ("---", "<hr>"),
    ("a < b & c", "<p>a &lt; b &amp; c</p>"),
    (r"\*not\* \_this\_", "<p>*not* _this_</p>"),
    ("**open", "<p>**open</p>"),
    ("", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "html"), MARKDOWN)
def test_markdown(echo_url: str, page: Page, text: str, html: str) -> None:
    page.goto(echo_url)
    assert _rendered(page, [text]) == html


TREATISE = (
    "# Title\n\nA *paragraph* with `code`, a [link](https://example.org/a_(b)) and\nhttps://example.org.\n"
    "\n1. one\n2. two\n   - nested\n\n   loose\n\n| a | b |\n|:-:|--:|\n| 1 | 2 \\| 3 |\n\n"
    "```python\nprint('*no*')\n```\n> quote\n> - list\n\n    indented\n\nSetext\n---\nend **bold"
)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 50])
def test_markdown_that_grows_ends_as_if_it_had_come_at_once(
    echo_url: str, page: Page, step: int
) -> None:
    page.goto(echo_url)
    grown = _rendered(
        page, [TREATISE[:end] for end in range(step, len(TREATISE), step)] + [TREATISE]
    )
    assert grown == _rendered(page, [TREATISE])
    assert '<a href="https://example.org/a_(b)"' in grown
    assert '<td class="right">2 | 3</td>' in grown


@pytest.mark.parametrize(
    "text",
    ["*a" * 20_000, "[" * 20_000, "`" * 9_999 + " x", "> " * 20_000, "![a](" * 5_000,
     "- " * 20_000, "a_*" * 20_000, "h" * 50_000, "<http://" * 9_000,
     "| a " * 9_000 + "\n" + "|-" * 9_000],
)  # fmt: skip
def test_markdown_made_to_be_slow_is_shown(echo_url: str, page: Page, text: str) -> None:
    page.goto(echo_url)
    page.set_default_timeout(10_000)
    # The page answers to its user again.
    assert len(_rendered(page, [text])) > 0
    expect(page.get_by_label("Your message")).to_be_visible()


def _rendered(page: Page, states: list[str]) -> str:
    """The HTML that a text gives which grows through these states."""
    result: str = page.evaluate(
        """async (states) => {
          const { LiveMarkdown } = await import("/page/markdown.js");
          const target = document.createElement("div");
          const live = new LiveMarkdown(target);
          for (const state of states) live.update(state);
          return target.innerHTML;
        }""",
        states,
    )
    return result
