"""A cache for builds, a broker, and clients of the service: OpenAI's, and Chromium."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.mosquitto import Mosquitto, running
from tests.support.serving import Serving

PATIENCE_MS = 30_000
"""A slow machine writes the longest answer of these tests within it."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for builds of the tiny model: what does not differ between them is made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that anybody may use."""
    with running(tmp_path) as broker:
        yield broker


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    """OpenAI's client of the service that the module starts as its fixture `server`."""
    with server.openai() as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not work for root, as which CI runs.
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new browser, as far as its storage is concerned."""
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE_MS)
        yield context.new_page()
