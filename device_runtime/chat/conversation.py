"""A chat in a terminal: a conversation, its commands, and how answers are shown."""

import difflib
import json
import signal
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from device_runtime.chat.models import ChatModel, Piece
from device_runtime.durable import written_aside
from device_runtime.errors import RequestError, ResourceError

HELP = """\
/system TEXT   set the system prompt, and begin anew; without TEXT, show it
/save FILE     write the conversation, as JSON of OpenAI's messages
/reset         begin anew
/help          this
/exit          leave, as Ctrl-D does
Ctrl-C stops an answer. Esc Enter begins a new line."""
COMMANDS = ("/system", "/save", "/reset", "/help", "/exit")


class Conversation:
    """What was said.

    Args:
        system: the system prompt; empty leaves it to the device.
    """

    def __init__(self, system: str = "") -> None:
        self.system = system
        self._turns: list[dict[str, Any]] = []
        self._own: set[Path] = set()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All turns, as OpenAI has them."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self._turns]

    def ask(self, text: str) -> None:
        """Add what the user says."""
        self._turns.append({"role": "user", "content": text})

    def answered(self, text: str) -> None:
        """Add what the model says; a question without any answer is taken back."""
        if text:
            self._turns.append({"role": "assistant", "content": text})
        else:
            self._turns.pop()

    def reset(self) -> None:
        """Forget all turns."""
        self._turns.clear()

    def save(self, file: Path) -> None:
        """Write all turns; a file that this conversation did not write is left alone.

        Raises:
            ResourceError: the file is there, or cannot be written.
        """
        text = json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n"
        try:
            target = file.expanduser().resolve()
            if target.exists() and target not in self._own:
                raise ResourceError(f"{file} is there already", hint="Give another name.")
            with written_aside(target) as opened:
                opened.write(text.encode())
        except (OSError, RuntimeError, ValueError) as error:
            # Beside what the system refuses: a home of nobody, a name that no file can have.
            reason = getattr(error, "strerror", None) or error
            raise ResourceError(
                f"cannot write {file}: {reason}", hint="Give another name."
            ) from None
        self._own.add(target)


class Chat:
    """Puts lines to a model, and shows what comes.

    Args:
        model: answers.
        conversation: what was said before.
        options: other fields of the requests.
        show: writes a piece of an answer.
        note: writes a line that is none.
    """

    def __init__(
        self,
        model: ChatModel,
        conversation: Conversation,
        options: dict[str, Any],
        *,
        show: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self._model = model
        self._conversation = conversation
        self._options = options
        self._show = show
        self._note = note

    def take(self, line: str) -> bool:
        """Do what a line says; False if it ends the chat.

        Raises:
            DeviceError: it could not be done.
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
                self._note("The conversation begins anew.")
            case "/system" if rest:
                self._conversation.system = rest
                self._conversation.reset()
                self._note("The conversation begins anew, with this system prompt.")
            case "/system":
                self._note(self._conversation.system or "No system prompt but the device's own.")
            case "/save" if rest:
                self._conversation.save(Path(rest))
                self._note(f"Written to {rest}.")
            case "/save":
                raise RequestError("/save needs a file", hint="/save talk.json")
            case _:
                near = difflib.get_close_matches(name, COMMANDS, 1)
                hint = f"Did you mean {near[0]}?" if near else "/help tells what there is."
                raise RequestError(f"there is no command {name}", hint=hint)
        return True

    def _answer(self, text: str) -> None:
        self._conversation.ask(text)
        body = self._options | {"messages": self._conversation.messages}
        answer, last = "", Piece()
        timing = _Timing()
        try:
            with _stopped_by_ctrl_c(self._model):
                for piece in self._model.answer(body):
                    answer += piece.text
                    timing.came(piece)
                    self._show(printable(piece.text))
                    last = piece if piece.tokens is not None else last
        except RequestError as error:
            hint = "Begin anew with /reset." if len(self._conversation.messages) > 1 else error.hint
            raise type(error)(str(error), hint=hint) from None
        finally:
            self._conversation.answered(answer)
            self._show("\n")
        self._note(timing.summary(last))


class _Timing:
    """How quick an answer was."""

    def __init__(self) -> None:
        self.finish = ""
        self._started = time.monotonic()
        self._first_at = self._last_at = 0.0

    def came(self, piece: Piece) -> None:
        self.finish = piece.finish or self.finish
        if piece.text:
            self._last_at = time.monotonic()
            self._first_at = self._first_at or self._last_at

    def summary(self, last: Piece) -> str:
        """In words; `last` has the counts, unless the answer was stopped."""
        ends = {"": ["stopped"], "length": ["ended at its greatest length"]}
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
    """A text without what could steer the terminal that shows it.

    A model may write escape sequences, which move the cursor, set titles or fill the clipboard, and
    characters that turn the direction of a line. They are shown as U+FFFD.
    """
    return "".join(each if _is_harmless(each) else "\ufffd" for each in text.replace("\r", ""))


def _is_harmless(character: str) -> bool:
    if character in "\n\t":
        return True
    # Unicode's marks for embedded directions (UAX 9) are U+202A to U+202E and U+2066 to U+2069.
    turns = "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    return not turns and unicodedata.category(character) not in ("Cc", "Cs")
