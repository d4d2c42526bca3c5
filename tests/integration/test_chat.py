"""`edgepack-runtime chat` and `edgepack chat`: with a terminal and without."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from device_runtime.bundle.release import Release
from tests.support import releases
from tests.support.commands import environment
from tests.support.serving import Serving

QUESTION = "Name the capital of France."
LONG = "Write a long story about a lighthouse."
SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")


@pytest.fixture(scope="module")
def release(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("chat") / "release"
    return releases.release(folder, tiny_onnx, context_length=512)


def chat(*arguments: str | Path, lines: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """From source, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "device_runtime", "chat", *map(str, arguments)],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )


class Terminal:
    """A program at a terminal."""

    def __init__(self, *command: str | Path) -> None:
        # prompt_toolkit asks a terminal where its cursor is; this one would not answer.
        env = environment() | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self._side, inner = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=inner, stdout=inner, stderr=inner, env=env, start_new_session=True,
            preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(inner)
        self._shown = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._side)

    def send(self, text: str) -> None:
        os.write(self._side, text.encode())

    def until(self, text: str, seconds: float = 180) -> str:
        """What is shown up to a text; what comes after it is for the next call."""
        deadline = time.monotonic() + seconds
        while text not in self._shown:
            assert time.monotonic() < deadline, self._shown
            if select.select([self._side], [], [], 0.1)[0]:
                self._shown += SEQUENCES.sub("", os.read(self._side, 65536).decode())
        before, _, self._shown = self._shown.partition(text)
        return before


def _take_terminal() -> None:
    """Have Ctrl-C at this terminal reach the program."""
    os.close(os.open(os.ttyname(0), os.O_RDWR))


@pytest.fixture(params=["served", "alone"])
def frozen(request: pytest.FixtureRequest, host_release: Release) -> Iterator[Terminal]:
    """The frozen chat with the default model: of the service, and by itself."""
    command: list[str | Path] = [host_release.program, "chat"]
    if request.param == "alone":
        with Terminal(*command, "--alone") as terminal:
            terminal.until("loaded for this chat")
            yield terminal
        return
    with Serving(host_release.folder) as server:
        with Terminal(*command, "--listen", server.url.removeprefix("http://")) as terminal:
            terminal.until(f"served on {server.url}")
            yield terminal
        # Leaving a chat, or stopping an answer, leaves the service alone.
        assert server.get("/readyz")["worker_restarts"] == 0


@pytest.mark.slow
def test_conversation_in_a_terminal(frozen: Terminal, tmp_path: Path) -> None:
    frozen.until(">")
    frozen.send(f"{QUESTION}\r")
    assert "Paris" in frozen.until("tokens/s")
    frozen.until(">")
    frozen.send(f"{LONG}\r")
    # Once the answer has begun: the prompt redraws what is typed, so its own words do not tell,
    # and a Ctrl-C that comes while it still reads is a key for the next prompt.
    frozen.until(" the ")
    frozen.send("\x03")
    frozen.until("stopped")
    frozen.until(">")
    # At the prompt it stops nothing, and says what leaves.
    frozen.send("\x03")
    frozen.until("Press Ctrl-D or type /exit to leave.")
    frozen.until(">")
    frozen.send("/sav\r")
    frozen.until("Did you mean /save?")
    frozen.until(">")
    frozen.send(f"/save {tmp_path / 'talk.json'}\r")
    frozen.until("Saved to")
    assert (tmp_path / "talk.json").read_text().count('"role"') == 4
    children = psutil.Process(frozen.process.pid).children(recursive=True)
    assert children == []
    frozen.until(">")
    frozen.send("\x04")
    assert frozen.process.wait(timeout=60) == 0


@pytest.mark.slow
def test_chat_with_a_bundle(host_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "packager", "chat", host_bundle, "--max-tokens", "16"],
        input=f"{QUESTION}\nAnd of Italy?\n",
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "Paris" in first
    assert "Rome" in second


def test_lines_from_a_pipe(release: Release) -> None:
    done = chat("--alone", "--release", release.folder, "--max-tokens", "5", lines=["Hi", "", "Ho"])
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == "tiny, loaded for this chat\n"


def test_bytes_that_are_no_text(release: Release) -> None:
    arguments = ("chat", "--alone", "--release", str(release.folder), "--max-tokens", "5")
    done = subprocess.run(
        [sys.executable, "-m", "device_runtime", *arguments],
        input=b"a\xff\n",
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_both_ways_say_the_same(release: Release) -> None:
    options = ("--max-tokens", "20", "--temperature", "1", "--seed", "4", "--system", "Be brief.")
    alone = chat("--alone", "--release", release.folder, *options, lines=["Hi", "Why?"])
    with Serving(release.folder) as server:
        where = server.url.removeprefix("http://")
        served = chat("--listen", where, *options, lines=["Hi", "Why?"])
    assert served.returncode == 0, served.stderr
    assert served.stdout == alone.stdout != ""
    assert server.url in served.stderr


def test_a_service_that_is_not_there() -> None:
    done = chat("--listen", "127.0.0.1:9", lines=["Hi"])
    assert done.returncode == 13
    assert "no edgepack service answers" in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_service_the_release_is_taken(release: Release) -> None:
    config = release.folder.parent / "runtime.toml"
    config.write_text('listen = "127.0.0.1:9"\n')
    done = chat("--config", config, "--release", release.folder, lines=["Hi"])
    assert done.returncode == 0, done.stderr
    assert "loaded for this chat" in done.stderr


def test_errors_end_a_pipe_with_their_code(release: Release) -> None:
    alone = ("--alone", "--release", release.folder)
    too_long = chat(*alone, lines=["long " * 600])
    assert too_long.returncode == 12
    assert "tokens" in too_long.stderr
    unknown = chat(*alone, lines=["/nothing"])
    assert unknown.returncode == 12
    wrong_model = chat(*alone, "--model", "other", lines=["Hi"])
    assert wrong_model.returncode == 12
    assert "does not exist" in wrong_model.stderr
    assert chat(*alone, "--listen", "127.0.0.1:1").returncode == 2
    assert chat(*alone, "--temperature", "3").returncode == 2


def test_a_service_that_goes_away(release: Release) -> None:
    with Serving(release.folder) as server:
        where = server.url.removeprefix("http://")
        process = subprocess.Popen(
            [sys.executable, "-m", "device_runtime", "chat", "--listen", where],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(),
        )  # fmt: skip
        assert process.stderr is not None
        assert server.url in process.stderr.readline()
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    _, err = process.communicate("Hi\n", timeout=60)
    assert process.returncode == 13
    assert "does not answer" in err
    assert "Traceback" not in err
