"""Speech in the chat page: recorded, converted, written down by the device, put at the caret."""

import asyncio
import io
import shutil
import wave
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from device_runtime.speech.transcription import TranscriptionChunk, TranscriptionRequest
from tests.integration.conftest import PATIENCE_MS
from tests.support import axe
from tests.support.browser import DEVICES, SMALL, Echo, Seen, answers, echoing, opened, send
from tests.support.fakes import HEARING, usage
from tests.support.pictures import hand_over

pytestmark = pytest.mark.requires("chromium")

TONE_HZ = 700
MICROPHONE: dict[str, Any] = {"permissions": ["microphone"]}


class Hearing(Echo):
    """Writes the same text down for each recording."""

    def __init__(self) -> None:
        super().__init__()
        self.text = "what was said"
        self.waits = False

    async def transcribe(self, request: TranscriptionRequest) -> AsyncGenerator[TranscriptionChunk]:
        self.transcribed.append(request)
        if self.error is not None:
            raise self.error
        yield TranscriptionChunk()
        if self.waits:
            await asyncio.Event().wait()
        yield TranscriptionChunk(text=self.text)
        yield TranscriptionChunk(language="en", seconds=1, usage=usage())


@pytest.fixture
def device() -> Hearing:
    """The models."""
    return Hearing()


@pytest.fixture
def url(device: Hearing) -> Iterator[str]:
    with echoing(device, speech=HEARING) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium with a microphone that hears a tone again and again."""
    file = tmp_path_factory.mktemp("sound") / "tone.wav"
    file.write_bytes(tone(48_000, 2))
    expect.set_options(timeout=PATIENCE_MS)
    arguments = (
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={file}",
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=arguments
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, url, "desktop", **MICROPHONE) as page:
        page.set_default_timeout(PATIENCE_MS)
        yield page


def tone(rate: int, channels: int) -> bytes:
    """Three seconds of a tone that comes and goes, as WAV."""
    times = np.arange(3 * rate) / rate
    loud = np.sin(2 * np.pi * TONE_HZ * times) * (np.sin(2 * np.pi * 3 * times) > 0)
    samples = np.repeat((loud * 20_000).astype("<i2"), channels)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((channels, 2, rate, 0, "NONE", ""))
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def check_tone(audio: bytes) -> float:
    """Checks that a recording is 16 kHz, mono, and the tone; returns its length, seconds."""
    with wave.open(io.BytesIO(audio)) as file:
        assert file.getparams()[:3] == (1, 2, 16_000)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
    spectrum = np.abs(np.fft.rfft(samples))
    loudest = np.argmax(spectrum) * 16_000 / len(samples)
    assert abs(loudest - TONE_HZ) < 20, loudest
    return len(samples) / 16_000


def record(page: Page) -> None:
    """Records for more than a second."""
    page.get_by_role("button", name="Speak").click()
    expect(page.locator("#seconds")).to_have_text("0:01")


def question(page: Page) -> Any:
    return page.get_by_label("Your message")


def test_speech_is_put_at_the_caret_and_not_sent(page: Page, device: Hearing) -> None:
    seen = Seen(page)
    question(page).fill("Say that is true")
    question(page).evaluate("(e) => e.setSelectionRange(8, 8)")
    record(page)
    expect(page.locator("#dictation")).to_contain_text("Recording")
    page.get_by_role("button", name="Done").click()
    expect(question(page)).to_have_value("Say that what was said is true")
    expect(question(page)).to_be_focused()
    assert question(page).evaluate("(e) => e.selectionStart") == 22
    expect(page.locator("#dictation")).not_to_be_visible()
    expect(page.locator("article")).to_have_count(0)
    (request,) = device.transcribed
    assert check_tone(request.audio) > 1
    assert seen.trouble == []


def test_keyboard_alone(page: Page, device: Hearing) -> None:
    question(page).press("Tab")
    expect(page.get_by_role("button", name="Speak")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#seconds")).to_have_text("0:01")
    page.keyboard.press("Space")
    expect(question(page)).to_have_value("what was said")
    page.keyboard.press("Enter")
    expect(answers(page).locator(".text")).to_have_text("what was said")
    assert len(device.transcribed) == 1


@pytest.mark.parametrize("way", ["Escape", "button"])
def test_recording_can_be_discarded(page: Page, device: Hearing, way: str) -> None:
    record(page)
    if way == "Escape":
        page.keyboard.press("Escape")
    else:
        page.get_by_role("button", name="Discard").click()
    expect(page.locator("#dictation")).not_to_be_visible()
    expect(page.get_by_role("button", name="Speak")).to_be_focused()
    assert question(page).input_value() == ""
    assert device.transcribed == []


def test_writing_down_can_be_discarded(page: Page, device: Hearing) -> None:
    device.waits = True
    record(page)
    page.get_by_role("button", name="Done").click()
    expect(page.locator("#dictation")).to_contain_text("Writing down …")
    page.keyboard.press("Escape")
    expect(page.locator("#dictation")).not_to_be_visible()
    expect(page.locator("#problem")).not_to_be_visible()
    device.waits = False
    record(page)
    page.get_by_role("button", name="Done").click()
    expect(question(page)).to_have_value("what was said")


def test_escape_leaves_the_answer_that_is_written_meanwhile(page: Page) -> None:
    page.route("**/v1/chat/completions", lambda route: None)
    send(page, "Hi")
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_visible()
    record(page)
    page.keyboard.press("Escape")
    expect(page.locator("#dictation")).not_to_be_visible()
    expect(stop).to_be_visible()
    page.keyboard.press("Escape")
    expect(stop).not_to_be_visible()


def test_silence(page: Page, device: Hearing) -> None:
    device.text = " "
    record(page)
    page.get_by_role("button", name="Done").click()
    expect(page.locator("#problem")).to_have_text("No speech was heard.")


def test_error_of_the_device_is_shown(page: Page) -> None:
    body = {"error": {"message": "the queue is full", "type": "x", "param": None, "code": None}}
    page.route("**/v1/audio/transcriptions", lambda route: route.fulfill(status=429, json=body))
    record(page)
    page.get_by_role("button", name="Done").click()
    expect(page.locator("#problem")).to_have_text(
        "The device is busy with other requests. The queue is full."
    )


def test_microphone_that_is_not_allowed(browser: Browser, url: str) -> None:
    with opened(browser, url, "desktop") as page:
        page.get_by_role("button", name="Speak").click()
        expect(page.locator("#problem")).to_contain_text(
            "does not let this page use the microphone"
        )
        expect(page.locator("#dictation")).not_to_be_visible()


def test_device_that_does_not_hear_has_no_button(browser: Browser) -> None:
    with echoing() as url, opened(browser, url, "desktop", **MICROPHONE) as page:
        expect(page.get_by_role("button", name="Speak")).not_to_be_visible()
        hand_over(page, "drop", ("a.wav", "audio/wav", tone(8_000, 1)))
        expect(page.locator("#problem")).to_contain_text("This device has no speech model")


def test_page_that_may_not_record_has_no_button(browser: Browser, url: str) -> None:
    with browser.new_context() as context:
        # As over HTTP from another machine.
        context.add_init_script("delete Navigator.prototype.mediaDevices")
        page = context.new_page()
        page.goto(url)
        expect(page.locator("#device")).to_contain_text("ready")
        expect(page.locator("#model")).to_have_text("tiny")
        # The device hears all the same.
        hand_over(page, "drop", ("a.wav", "audio/wav", tone(8_000, 1)))
        expect(question(page)).to_have_value("what was said")
        expect(page.get_by_role("button", name="Speak")).not_to_be_visible()


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2)])
def test_dropped_recording_is_converted(
    page: Page, device: Hearing, rate: int, channels: int
) -> None:
    hand_over(page, "drop", ("a.wav", "audio/wav", tone(rate, channels)))
    expect(question(page)).to_have_value("what was said")
    assert check_tone(device.transcribed[0].audio) == pytest.approx(3, abs=0.01)


def test_file_that_is_not_a_recording(page: Page) -> None:
    hand_over(page, "drop", ("a.mp3", "audio/mpeg", b"text"))
    expect(page.locator("#problem")).to_have_text("a.mp3 cannot be opened as a recording.")


@pytest.mark.parametrize("device_name", DEVICES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessible_and_large_enough(
    browser: Browser, url: str, device_name: str, theme: Any
) -> None:
    with opened(browser, url, device_name, color_scheme=theme, **MICROPHONE) as page:
        record(page)
        assert axe.violations(page) == []
        width = DEVICES[device_name]["viewport"]["width"]
        assert page.evaluate("document.documentElement.scrollWidth") == width
        if device_name == "phone":
            assert page.evaluate(SMALL) == []
