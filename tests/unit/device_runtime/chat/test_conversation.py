"""A chat in a terminal, with a model that says what it is told to."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_runtime.chat.conversation import Chat, Conversation, printable
from device_runtime.chat.images import image_part
from device_runtime.chat.models import Piece
from device_runtime.errors import DeviceError, EngineError, RequestError, ResourceError


class Parrot:
    """Implements `ChatModel`: repeats the last message word by word.

    `refuse` and `fail` are refused and fail; `halt` is stopped in the middle by Ctrl-C.
    """

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._stopped = False

    def answer(self, body: dict[str, Any]) -> Iterator[Piece]:
        self.bodies.append(body)
        self._stopped = False
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        if text == "refuse":
            raise RequestError("the prompt is too long", hint="Shorten it.")
        for word in text.split():
            yield Piece(text=f"{word} ")
            if text == "fail at once":
                raise EngineError("the model failed")
            if text.startswith("halt"):
                os.kill(os.getpid(), signal.SIGINT)
            if self._stopped:
                return
        yield Piece(finish="stop")
        yield Piece(tokens=len(text.split()), prompt_tokens=9, cached_tokens=4)

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        pass


class Terminal:
    """A chat, and what it has shown."""

    def __init__(self, system: str = "", **options: Any) -> None:
        self.shown = ""
        self.notes: list[str] = []
        self.model = Parrot()
        self.conversation = Conversation(system)
        self._chat = Chat(
            self.model,
            self.conversation,
            options,
            show=self._show,
            think=self._think,
            note=self.notes.append,
        )

    def _show(self, text: str) -> None:
        self.shown += text

    def _think(self, text: str) -> None:
        self.shown += f"[{text}]"

    def take(self, line: str) -> bool:
        return self._chat.take(line)


def test_turns_are_remembered() -> None:
    here = Terminal("Be brief.", temperature=0.5)
    assert here.take("one two")
    assert here.take("three")
    assert here.shown == "one two \nthree \n"
    assert here.model.bodies[1] == {
        "temperature": 0.5,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "one two"},
            {"role": "assistant", "content": "one two "},
            {"role": "user", "content": "three"},
        ],
    }
    assert here.notes[0].startswith("2 tokens · first after ")
    assert here.notes[0].endswith("4 of 9 prompt tokens reused")


def test_nothing_is_asked_by_an_empty_line() -> None:
    here = Terminal()
    assert here.take("  ")
    assert here.model.bodies == []


def test_ctrl_c_stops_the_answer_and_keeps_what_came() -> None:
    here = Terminal()
    handler = signal.getsignal(signal.SIGINT)
    here.take("halt one two")
    assert here.conversation.messages[-1] == {"role": "assistant", "content": "halt "}
    assert here.notes[-1].startswith("stopped")
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_refused_question_is_taken_back() -> None:
    here = Terminal()
    with pytest.raises(RequestError, match="too long") as caught:
        here.take("refuse")
    assert caught.value.hint == "Shorten it."
    assert here.conversation.messages == []
    here.take("one")
    with pytest.raises(RequestError) as caught:
        here.take("refuse")
    assert "/reset" in caught.value.hint
    assert len(here.conversation.messages) == 2


def test_what_came_before_a_failure_is_kept() -> None:
    here = Terminal()
    with pytest.raises(EngineError):
        here.take("fail at once")
    assert here.conversation.messages[-1]["content"] == "fail "


def test_images_go_with_the_next_question_alone(tmp_path: Path) -> None:
    file = tmp_path / "a b.png"
    file.write_bytes(b"x")
    part = image_part(file)
    here = Terminal()
    for line in (f"/image {file}", f"/image  {file} ", "What?", "More"):
        assert here.take(line)
    first, _, second, _ = here.conversation.messages
    assert first["content"] == [part, part, {"type": "text", "text": "What?"}]
    assert second["content"] == "More"
    assert here.notes[0] == f"The next message has the image {file}."
    here.take(f"/image {file}")
    here.take("/reset")
    here.take("Again")
    assert here.conversation.messages[0]["content"] == "Again"


def test_image_that_cannot_be_read_is_not_sent() -> None:
    here = Terminal()
    with pytest.raises(RequestError, match=r"cannot read the image nothing\.png"):
        here.take("/image nothing.png")
    here.take("What?")
    assert here.conversation.messages[0]["content"] == "What?"


def test_system_prompt_begins_anew() -> None:
    here = Terminal()
    here.take("one")
    here.take("/system Be a pirate.")
    assert here.conversation.messages == [{"role": "system", "content": "Be a pirate."}]
    here.take("/system")
    assert here.notes[-1] == "Be a pirate."
    here.take("two")
    here.take("/reset")
    assert here.conversation.messages == [{"role": "system", "content": "Be a pirate."}]


@pytest.mark.parametrize("line", ["/exit", "/exit  "])
def test_exit(line: str) -> None:
    assert not Terminal().take(line)


def test_help_names_all_commands() -> None:
    here = Terminal()
    assert here.take("/help")
    for name in ("/system", "/image", "/save", "/reset", "/exit"):
        assert name in here.notes[0]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("/savee x", "Did you mean /save?"),
        ("/zzz", "/help lists the commands."),
        ("/save", "/save"),
        ("/image", "/image cat.jpg"),
    ],
)
def test_wrong_commands(line: str, hint: str) -> None:
    here = Terminal()
    with pytest.raises(RequestError) as caught:
        here.take(line)
    assert hint in caught.value.hint
    assert here.model.bodies == []


def test_save_writes_messages_and_again(tmp_path: Path) -> None:
    here = Terminal("Be brief.")
    file = tmp_path / "talk.json"
    for line in ("é", f"/save {file}", "two", f"/save {file}"):
        here.take(line)
    assert json.loads(file.read_text(encoding="utf-8")) == here.conversation.messages
    assert len(here.conversation.messages) == 5
    assert [*tmp_path.iterdir()] == [file]


def test_save_leaves_files_of_others_alone(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text("mine")
    with pytest.raises(ResourceError, match="already exists"):
        Terminal().take(f"/save {file}")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", ["no/talk.json", "~nobody-of-this-name/talk.json", "a\0b"])
def test_save_where_nothing_can_be_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DeviceError, match="cannot write") as caught:
        Terminal().take(f"/save {name}")
    assert [*tmp_path.iterdir()] == []
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("é 日本 😀\n\tx", "é 日本 😀\n\tx"),
        ("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m"),
        ("\x1b]52;c;aGk=\x07", "\ufffd]52;c;aGk=\ufffd"),
        ("a\rb\x08\x00\x7f", "ab\ufffd\ufffd\ufffd"),
        ("\x9b2J", "\ufffd2J"),
        ("\u202eabc\u2066", "\ufffdabc\ufffd"),
        ("\ud800", "\ufffd"),
    ],
)
def test_nothing_steers_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
