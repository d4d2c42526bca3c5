"""The terminal chat: the conversation, its commands, and the display of answers."""

import difflib
import json
import signal
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from device_runtime.chat.display import AnswerDisplay
from device_runtime.chat.images import content, image_part
from device_runtime.chat.models import ChatModel, Piece
from device_runtime.durable import written_aside
from device_runtime.errors import RequestError, ResourceError

HELP = """\
/system TEXT   set the system prompt and start a new conversation; without TEXT, show it
/image FILE    send an image with the next message; can be repeated
/save FILE     save the conversation as JSON, in the form of OpenAI's messages
/reset         start a new conversation
/help          show this help
/exit          leave (or press Ctrl-D)
Ctrl-C stops an answer. Esc Enter inserts a line break."""
COMMANDS = ("/system", "/image", "/save", "/reset", "/help", "/exit")


class Conversation:
    """The turns so far, and the system prompt.

    Args:
        system: system prompt; empty for the device's default.
        images: images of the first question, as parts of a message.

    Attributes:
        images: images of the next question.
    """

    def __init__(self, system: str = "", images: Iterable[dict[str, Any]] = ()) -> None:
        self.system = system
        self.images = [*images]
        self._turns: list[dict[str, Any]] = []
        self._saved: set[Path] = set()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All turns, as messages of OpenAI's API."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self._turns]

    def add_question(self, text: str) -> None:
        """Add a turn of the user, with the images for it."""
        self._turns.append({"role": "user", "content": content(text, self.images)})
        self.images = []

    def add_answer(self, text: str) -> None:
        """Add a turn of the model; if it is empty, remove the question instead."""
        if text:
            self._turns.append({"role": "assistant", "content": text})
        else:
            self._turns.pop()

    def reset(self) -> None:
        """Delete all turns, and the images of the next one."""
        self._turns.clear()
        self.images = []

    def save(self, file: Path) -> None:
        """Write all turns to a file; only a file that this conversation wrote is replaced.

        Raises:
            ResourceError: the file already exists, or cannot be written.
        """
        text = json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n"
        try:
            target = file.expanduser().resolve()
            if target.exists() and target not in self._saved:
                raise ResourceError(f"{file} already exists", hint="Use another name.")
            with written_aside(target) as opened:
                opened.write(text.encode())
        except (OSError, RuntimeError, ValueError) as error:
            # Besides errors of the system: an unknown user's home, an invalid file name.
            reason = getattr(error, "strerror", None) or error
            raise ResourceError(
                f"cannot write {file}: {reason}", hint="Use another name."
            ) from None
        self._saved.add(target)


class Chat:
    """Sends lines to a model, and shows its answers.

    Args:
        model: backend that answers.
        conversation: the conversation to continue.
        options: further fields of the requests.
        show: writes part of an answer.
        think: writes part of the thoughts before an answer.
        note: writes a line beside the conversation.
    """

    def __init__(
        self,
        model: ChatModel,
        conversation: Conversation,
        options: dict[str, Any],
        *,
        show: Callable[[str], None],
        think: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self._model = model
        self._conversation = conversation
        self._options = options
        self._show = show
        self._think = think
        self._note = note

    def take(self, line: str) -> bool:
        """Process a line, a message or a command; return False if it ends the chat.

        Raises:
            DeviceError: the command or the request failed.
        """
        if line.startswith("/"):
            name, _, rest = line.strip().partition(" ")
            return self._command(name, rest)
        if line.strip():
            self._answer(line)
        return True

    def _command(self, name: str, rest: str) -> bool:
        rest = rest.strip()
        match name:
            case "/exit":
                return False
            case "/help":
                self._note(HELP)
            case "/reset":
                self._conversation.reset()
                self._note("New conversation.")
            case "/system" if rest:
                self._conversation.system = rest
                self._conversation.reset()
                self._note("New conversation with this system prompt.")
            case "/system":
                self._note(self._conversation.system or "The device's default system prompt.")
            case "/image" if rest:
                self._conversation.images.append(image_part(Path(rest)))
                self._note(f"The next message has the image {rest}.")
            case "/image":
                raise RequestError("/image requires a file", hint="For example: /image cat.jpg")
            case "/save" if rest:
                self._conversation.save(Path(rest))
                self._note(f"Saved to {rest}.")
            case "/save":
                raise RequestError("/save requires a file", hint="For example: /save talk.json")
            case _:
                close = difflib.get_close_matches(name, COMMANDS, 1)
                hint = f"Did you mean {close[0]}?" if close else "/help lists the commands."
                raise RequestError(f"unknown command {name}", hint=hint)
        return True

    def _answer(self, text: str) -> None:
        self._conversation.add_question(text)
        body = self._options | {"messages": self._conversation.messages}
        answer, last = "", Piece()
        display = AnswerDisplay(self._show, self._think)
        timing = _Timing()
        try:
            with _stopped_by_ctrl_c(self._model):
                for piece in self._model.answer(body):
                    answer += piece.text
                    timing.add(piece)
                    display.add(printable(piece.thoughts), printable(piece.text))
                    last = piece if piece.tokens is not None else last
        except RequestError as error:
            is_first = len(self._conversation.messages) <= 1
            hint = error.hint if is_first else "Start a new conversation with /reset."
            raise type(error)(str(error), hint=hint) from None
        finally:
            self._conversation.add_answer(answer)
            self._show("\n")
        self._note(timing.summary(last))


class _Timing:
    """Latency and speed of an answer."""

    def __init__(self) -> None:
        self.finish = ""
        self._started = time.monotonic()
        self._first_at = self._last_at = 0.0

    def add(self, piece: Piece) -> None:
        self.finish = piece.finish or self.finish
        if piece.thoughts or piece.text:
            self._last_at = time.monotonic()
            self._first_at = self._first_at or self._last_at

    def summary(self, last: Piece) -> str:
        """Return a line about the answer; `last` has the counts, unless it was stopped."""
        ends = {"": ["stopped"], "length": ["reached max_tokens"]}
        facts = ends.get(self.finish, [])
        if last.tokens is not None:
            facts.append(f"{last.tokens} tokens")
        if self._first_at:
            facts.append(f"first after {self._first_at - self._started:.2f} s")
            seconds = self._last_at - self._first_at
            if last.tokens is not None and last.tokens > 1 and seconds > 0:
                facts.append(f"{(last.tokens - 1) / seconds:.1f} tokens/s")
        if last.cached_tokens:
            facts.append(f"{last.cached_tokens} of {last.prompt_tokens} prompt tokens reused")
        return " · ".join(facts)


@contextmanager
def _stopped_by_ctrl_c(model: ChatModel) -> Iterator[None]:
    previous = signal.signal(signal.SIGINT, lambda *_: model.stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def printable(text: str) -> str:
    """Replace characters that could control the terminal by U+FFFD.

    A model can write escape sequences, which move the cursor, set titles or fill the clipboard, and
    characters that change the direction of a line.
    """
    return "".join(char if _is_harmless(char) else "\ufffd" for char in text.replace("\r", ""))


def _is_harmless(character: str) -> bool:
    if character in "\n\t":
        return True
    # Unicode's marks for embedded directions (UAX 9) are U+202A to U+202E and U+2066 to U+2069.
    is_mark = "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    return not is_mark and unicodedata.category(character) not in ("Cc", "Cs")
