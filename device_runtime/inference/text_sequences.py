"""Sequences of a model in ONNX Runtime itself: one run takes a step of several of them.

The weights are then read once for all. ONNX Runtime GenAI has a KV cache for each generator, and
takes a run for each.
"""

import resource
import weakref
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_runtime import memory
from device_runtime.inference.kv_cache import MAX_SLOTS, Tokens
from device_runtime.inference.kv_rows import Row
from device_runtime.inference.onnx_session import OnnxSession
from device_runtime.inference.text_beams import TextBeams
from device_runtime.inference.text_graph import Outputs, TextGraph


class TextSequences:
    """Implements `Sequences`.

    Attributes:
        layout: layout of a KV cache.
    """

    state_bytes = 0

    def __init__(
        self,
        session: OnnxSession,
        decoder: dict[str, Any],
        context_length: int,
        end_tokens: Collection[int],
    ) -> None:
        """Reserve KV caches, and measure logits in a first run, of two tokens.

        Args:
            session: the graph.
            decoder: `model.decoder` of its genai_config.json.
            context_length: maximum length of a sequence, tokens.
            end_tokens: ids of the tokens that end an answer.

        Raises:
            RuntimeError: the graph fails.
            MemoryError: the system has not even addresses for one sequence.
        """
        self._graph = TextGraph(session, decoder)
        self._end_tokens = end_tokens
        self._waiting: weakref.WeakSet[TextSequence] = weakref.WeakSet()
        self.layout = self._graph.layout
        self.token_bytes = self._graph.token_bytes
        self._rows = self._graph.new_rows(context_length, _most(context_length * self.token_bytes))
        self.rows = self._rows.count
        generator = self.generator(context_length, "")
        generator.append_tokens(np.zeros(2, np.int32))
        _, rows, self.vocabulary = generator.get_output("logits").shape
        self.all_logits: bool = rows > 1

    def load_adapter(self, file: Path, name: str) -> None:
        """See `Sequences.load_adapter`."""
        self._graph.load_adapter(file, name)

    def generator(self, capacity: int, adapter: str, num_beams: int = 1) -> Any:
        """See `Sequences.generator`.

        Raises:
            MemoryError: all KV caches are in use.
        """
        if num_beams > 1:
            return TextBeams(
                self._graph,
                adapter,
                width=num_beams,
                length=capacity,
                end_tokens=self._end_tokens,
            )
        row = self._rows.take()
        sequence = TextSequence(self, row, adapter)
        weakref.finalize(sequence, self._rows.release, row)
        return sequence

    def prefill(self, row: Row, tokens: Tokens, adapter: str) -> Outputs:
        """Run the model over tokens of one sequence.

        Raises:
            RuntimeError: the graph fails.
        """
        ids = tokens.astype(np.int64)[None]
        return self._graph.run(self._rows, row.index, ids, [row.length], adapter)

    def parts(self, row: Row, tokens: int) -> list[memoryview]:
        """See `TextSequence.parts`."""
        return self._rows.parts(row, tokens)

    def drop(self, row: Row, begin: int) -> None:
        """Return the memory of all tokens before one, in layers with a sliding window."""
        self._rows.drop(row, begin)

    def wait(self, sequence: "TextSequence") -> None:
        """Have the next step take a sequence along."""
        self._waiting.add(sequence)

    def step(self, sequence: "TextSequence") -> None:
        """Run the model over the unseen token of a sequence, and of all others that wait.

        Raises:
            RuntimeError: the graph fails.
        """
        batch = {other for other in self._waiting if other.adapter == sequence.adapter}
        batch.add(sequence)
        self._waiting.difference_update(batch)
        first = self._rows.gather([other.row for other in batch])
        ordered = sorted(batch, key=lambda other: other.row.index)
        tokens = np.array([[other.unseen] for other in ordered], np.int64)
        lengths = [other.row.length for other in ordered]
        outputs = self._graph.run(self._rows, first, tokens, lengths, sequence.adapter)
        for place, other in enumerate(ordered):
            other.seen(outputs, place)


class TextSequence:
    """Implements `Generator`: a sequence of tokens, and its KV cache.

    Args:
        sequences: all sequences of the model.
        row: its KV cache.
        adapter: name of its adapter; empty for none.

    Attributes:
        row: its KV cache.
        adapter: name of its adapter; empty for none.
        unseen: the last token, if the model has not seen it yet.
    """

    def __init__(self, sequences: TextSequences, row: Row, adapter: str) -> None:
        self.row = row
        self.adapter = adapter
        self.unseen: int | None = None
        self._sequences = sequences
        self._window = sequences.layout.window
        self._outputs: Outputs = {}
        self._kept: Outputs = {}
        self._scores: npt.NDArray[np.float32] | None = None
        self._chosen = 0

    def join_step(self) -> bool:
        """See `Generator`."""
        if self.unseen is None or not self.row.length:
            return False
        self._sequences.wait(self)
        return True

    def append_tokens(self, tokens: npt.NDArray[np.int32]) -> None:
        """See `Generator`. A single token is run with the next step."""
        self._scores = None
        if self.unseen is not None:
            tokens = np.array([self.unseen, *tokens.tolist()], np.int32)
        if len(tokens) == 1:
            self.unseen = int(tokens[0])
            return
        self.unseen = None
        self._outputs = self._sequences.prefill(self.row, tokens, self.adapter)
        self.row.length += len(tokens)

    def seen(self, outputs: Outputs, place: int) -> None:
        """Take the model's outputs for the unseen token.

        Args:
            outputs: of several sequences.
            place: place of this one among them.
        """
        for name, array in outputs.items():
            mine = array[place : place + 1]
            kept = self._kept.get(name)
            if kept is None:
                # Memory of its own for each step would be new pages each time.
                self._kept[name] = mine.copy()
            else:
                np.copyto(kept, mine)
        self._outputs = self._kept
        self.unseen = None
        self.row.length += 1

    def generate_next_token(self) -> None:
        """See `Generator`."""
        scores = self._scores if self._scores is not None else self.get_logits()[0, -1]
        self._chosen = int(scores.argmax())
        self.append_tokens(np.array([self._chosen], np.int32))

    def get_next_tokens(self) -> list[int]:
        """See `Generator`."""
        return [self._chosen]

    def get_logits(self) -> npt.NDArray[np.float32]:
        """Return the scores of the next token, float32 [1, 1, vocabulary], until the next step."""
        return self.get_output("logits")[:, -1:].astype(np.float32, copy=False)

    def set_logits(self, logits: npt.NDArray[np.float32]) -> None:
        """Replace the scores of the next token."""
        self._scores = logits[0, -1]

    def get_output(self, name: str) -> npt.NDArray[Any]:
        """Return an output of the last run, until the next step.

        Raises:
            RuntimeError: the graph fails, or has no output of this name.
        """
        if self.unseen is not None:
            self._sequences.step(self)
        if name not in self._outputs:
            raise RuntimeError(f"the model has no output {name!r}")
        return self._outputs[name]

    def parts(self, tokens: int) -> list[memoryview]:
        """Return the memory of the first tokens in the KV cache, to be read or written.

        Layers with a sliding window hold the latest of them alone; empty if those are gone.
        """
        return self._sequences.parts(self.row, tokens)

    def holds(self, tokens: int) -> None:
        """Take the tokens that were written to the memory of an empty KV cache for its own."""
        self.row.length = tokens
        self.row.begin = self._seen_from(tokens)

    def keep_from(self, length: int) -> None:
        """See `Generator`."""
        begin = self._seen_from(length)
        if begin > self.row.begin:
            self._sequences.drop(self.row, begin)

    def rewind_to(self, length: int) -> None:
        """See `Generator`.

        Raises:
            RuntimeError: of what layers with a sliding window see there, a part is gone.
        """
        if length == 0:
            self.row.begin = 0
        elif self.row.begin > self._seen_from(length):
            raise RuntimeError(f"this sequence cannot rewind to token {length}")
        self.unseen = None
        self._scores = None
        self.row.length = min(self.row.length, length)

    def snapshot_state(self) -> None:
        """See `Generator`; a KV cache rewinds without."""

    def _seen_from(self, length: int) -> int:
        """Return the first token that all layers see from this position."""
        return max(0, length - self._window) if self._window else 0


def _most(size: int) -> int:
    """Return the number of KV caches to reserve addresses for.

    Args:
        size: size of each, bytes.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return MAX_SLOTS
    # Addresses are what this process is short of (ulimit -v).
    return max(1, min(MAX_SLOTS, memory.available() // 2 // size))
