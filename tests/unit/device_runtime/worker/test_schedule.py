"""The order in which the inference process takes the steps of its requests."""

import io
from collections.abc import Generator
from typing import Any

from device_runtime.inference.engine import FinishReason, GenerationChunk, Usage
from device_runtime.worker.messages import FOR_PARENT, Chunk, read
from device_runtime.worker.process import Models, _Schedule, _Task

USAGE = Usage(prompt_tokens=1, completion_tokens=1, first_token_s=0, decode_s=0)
WAITS = GenerationChunk(waits=True)
EMPTY = GenerationChunk()
LAST = GenerationChunk(finish_reason=FinishReason.STOP, usage=USAGE)


class Script:
    """Requests with the chunks that they give; it notes the order of the steps."""

    def __init__(self, *requests: list[GenerationChunk]) -> None:
        self.steps: list[int] = []
        self.outbox = io.BytesIO()
        nothing: Any = None
        self.schedule = _Schedule(Models(nothing), io.BytesIO(), self.outbox)
        for number, chunks in enumerate(requests):
            self.schedule._tasks.append(_Task(number, self._given(number, chunks), 0.0))

    def _given(self, number: int, chunks: list[GenerationChunk]) -> Generator[Any]:
        for chunk in chunks:
            self.steps.append(number)
            yield chunk

    def run(self) -> None:
        while self.schedule._tasks:
            self.schedule._advance(self.schedule._next())

    @property
    def sent(self) -> list[tuple[int, str]]:
        self.outbox.seek(0)
        messages = []
        while (message := read(self.outbox, FOR_PARENT)) is not None:
            assert isinstance(message, Chunk)
            assert isinstance(message.chunk, GenerationChunk)
            messages.append((message.id, message.chunk.text))
        return messages


def text(said: str) -> GenerationChunk:
    return GenerationChunk(text=said)


def test_answers_that_wait_take_their_steps_together() -> None:
    answer = [EMPTY, WAITS, text("a"), WAITS, text("b"), LAST]
    script = Script(answer, answer, answer)
    script.run()
    # Once each has begun and waits, all go on together.
    assert all(sorted(script.steps[start : start + 3]) == [0, 1, 2] for start in range(6, 9, 3))
    assert [script.steps.count(number) for number in range(3)] == [len(answer)] * 3


def test_prefill_takes_its_turn_between_shared_steps() -> None:
    script = Script([WAITS] * 6 + [LAST], [WAITS] * 6 + [LAST], [EMPTY, EMPTY, EMPTY, LAST])
    script.run()
    ends = [len(script.steps) - script.steps[::-1].index(number) for number in range(3)]
    assert ends[2] < min(ends[:2])


def test_waiting_is_not_told() -> None:
    script = Script([EMPTY, WAITS, text("a"), WAITS, LAST])
    script.run()
    assert script.sent == [(0, ""), (0, "a"), (0, "")]


def test_answer_that_ends_in_a_shared_step_leaves_the_others() -> None:
    script = Script([WAITS, LAST], [WAITS, text("a"), WAITS, text("b"), LAST])
    script.run()
    assert [said for number, said in script.sent if number == 0] == ["", ""]
    assert [said for number, said in script.sent if number == 1] == ["", "a", "b", ""]
