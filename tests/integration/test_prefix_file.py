"""The beginning of conversations after a restart of the service, with the tiny real model."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from device_runtime.bundle.release import Release
from device_runtime.inference import genai_library
from device_runtime.inference.engine import GenerationChunk, GenerationRequest, Message
from device_runtime.inference.genai_engine import GenAIEngine
from device_runtime.inference.prefix_file import FILE_NAME, PrefixFile
from device_runtime.inference.text_graph import TextGraph
from tests.support import releases
from tests.support.serving import Serving, eventually

SYSTEM = "You answer in short sentences. " * 20
FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')
"""A field in a line of the log, and its value."""


@pytest.fixture
def release(tiny_onnx: Path, tmp_path: Path) -> Release:
    return releases.release(tmp_path / "release", tiny_onnx, context_length=2048)


class Place:
    """A service with a state folder, which starts again and again.

    Attributes:
        state: the state folder.
    """

    def __init__(self, folder: Path, release: Release) -> None:
        self.state = folder / "state"
        self.state.mkdir()
        self._folder = folder
        self._release = release
        self._log = folder / "log"
        self.ask_for(SYSTEM)

    @property
    def file(self) -> Path:
        return self.state / FILE_NAME

    def ask_for(self, system: str) -> None:
        """Set the system prompt of the next start."""
        (self._folder / "system").write_text(system)

    @contextmanager
    def serving(self, event: str) -> Iterator[Serving]:
        """Serve; ready as soon as this event is in the log."""
        to_log = ["sh", "-c", 'log=$1; shift; exec "$@" 2>"$log"', "sh", str(self._log)]
        arguments = ["--state-folder", str(self.state)]
        arguments += ["--system-prompt-file", str(self._folder / "system")]
        with Serving(self._release.folder, *arguments, within=to_log) as server:
            eventually(lambda: self.events(event))
            yield server

    def events(self, *names: str) -> list[dict[str, str]]:
        """The events of these names in the log of the last start."""
        lines = (dict(FIELD.findall(line)) for line in self._log.read_text().splitlines())
        return [line for line in lines if line.get("event") in names]


def answer(server: Serving, question: str = "Hi") -> tuple[str, int, int]:
    """The answer, the tokens of its prompt, and those that needed no prefill."""
    body = server.chat(question, max_tokens=20, seed=1, temperature=1).json()
    usage = body["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return body["choices"][0]["message"]["content"], usage["prompt_tokens"], cached


def test_prefix_is_read_after_a_restart(tmp_path: Path, release: Release) -> None:
    place = Place(tmp_path, release)
    with place.serving("prefix_kept") as server:
        first = answer(server)
        assert not place.events("prefix_read", "prefix_ignored")
    assert first[2] > len(SYSTEM)
    size = place.file.stat().st_size
    with place.serving("prefix_read") as server:
        (read,) = place.events("prefix_read")
        assert len(SYSTEM) < int(read["tokens"]) == first[2]
        assert answer(server) == first
        answer(server, "What did the user before me write?")
        # A file of another size would have more than the prefix.
        assert place.file.stat().st_size == size
        assert not place.events("prefix_kept", "prefix_ignored", "prefix_not_kept")


def test_another_system_prompt_replaces_the_file(tmp_path: Path, release: Release) -> None:
    place = Place(tmp_path, release)
    with place.serving("prefix_kept"):
        pass
    before = place.file.read_bytes()
    place.ask_for(SYSTEM.replace("short", "large"))
    with place.serving("prefix_kept") as server:
        (ignored,) = place.events("prefix_ignored")
        assert "another prefix" in ignored["reason"]
        replaced = answer(server)
    assert len(before) == place.file.stat().st_size
    assert place.file.read_bytes() != before
    with place.serving("prefix_read") as server:
        assert answer(server) == replaced


def test_damaged_file_costs_a_prefill_alone(tmp_path: Path, release: Release) -> None:
    place = Place(tmp_path, release)
    with place.serving("prefix_kept") as server:
        first = answer(server)
    whole = place.file.read_bytes()
    place.file.write_bytes(whole[:5000] + bytes(64) + whole[5064:])
    with place.serving("prefix_kept") as server:
        assert "damaged" in place.events("prefix_ignored")[0]["reason"]
        assert answer(server) == first
    assert place.file.read_bytes() == whole


@pytest.fixture
def prefills(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each prefill step, beyond the two that each engine begins with."""
    counts: list[int] = []
    run = TextGraph.run

    def noted(graph: TextGraph, rows: Any, first: int, tokens: Any, *more: Any) -> Any:
        counts.extend([tokens.size] if tokens.size > 2 else [])
        return run(graph, rows, first, tokens, *more)

    monkeypatch.setattr(TextGraph, "run", noted)
    return counts


def warmed(model: Path, folder: Path) -> GenAIEngine:
    """An engine with nothing left to do."""
    file = PrefixFile(folder, model="a", threads=1)
    engine = GenAIEngine(model, context_length=2048, threads=1, prefix_file=file)
    engine.warm(SYSTEM)
    while engine.idle():
        pass
    return engine


def chunks(engine: GenAIEngine) -> list[GenerationChunk]:
    """An answer with its log probabilities; times are left out."""
    prompt = (Message(role="system", content=SYSTEM), Message(role="user", content="Hi"))
    request = GenerationRequest(prompt=prompt, max_tokens=20, logprobs=5)
    *answer, last = engine.generate(request, lambda: False)
    assert last.usage is not None
    assert last.usage.cached_tokens > len(SYSTEM)
    return answer


def text(answer: list[GenerationChunk]) -> str:
    return "".join(chunk.text for chunk in answer)


def test_nothing_of_the_prefix_is_prefilled_again(
    tiny_onnx: Path, tmp_path: Path, prefills: list[int]
) -> None:
    first = warmed(tiny_onnx, tmp_path)
    assert sum(prefills) > len(SYSTEM)
    prefills.clear()
    second = warmed(tiny_onnx, tmp_path)
    assert prefills == []
    assert chunks(second) == chunks(first)


def test_model_of_the_other_engine_goes_on_as_before(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = chunks(warmed(tiny_onnx, tmp_path))
    (tmp_path / FILE_NAME).unlink()
    monkeypatch.setattr(genai_library, "_is_plain", lambda *_: False)
    engine = warmed(tiny_onnx, tmp_path)
    assert not (tmp_path / FILE_NAME).exists()
    assert text(chunks(engine)) == text(plain)
