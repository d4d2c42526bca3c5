"""Prompt cache: KV caches of running and earlier requests, within a memory budget.

A slot is a generator with a KV cache of fixed capacity. A request takes the slot with the longest
common prefix, trims it to that prefix, and prefills only the rest of its prompt.

Only tokens that were *prefilled*, two or more at a time, are reused: a decoded token is computed by
another kernel, for one row, with other results. So an answer's own tokens are prefilled again
before the next turn builds on them, in idle time or as part of that turn: a cached conversation
continues as a new one would. With heads of 64 numbers on x86-64 that is bit for bit, however the
prompt is split into chunks; other kernels of ONNX Runtime round attention differently for some
splits (Gemma's heads of 256; Cortex-A76), and the logits then differ as by the rounding.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from device_runtime.memory import PROMPT_STEP

Tokens = npt.NDArray[np.int32]

CAPACITY_MULTIPLE = 512
"""Capacities are multiples of this many tokens."""

REACH = 512
"""Tokens that a rewind may reach back behind the latest chunk of a prefill."""

MIN_PREFILL = 2
"""Smallest prefill chunk, tokens, unless the prompt itself is shorter."""

MAX_SLOTS = 16
"""Most slots, also for a model whose KV cache size is not known."""

RESERVE = 64 << 20
"""Memory that a new KV cache must leave free, bytes."""


class Slot:
    """A generator and the contents of its KV cache.

    Attributes:
        generator: the generator that owns the KV cache.
        capacity: capacity of the KV cache, tokens.
        adapter: name of the adapter that the generator was created with; empty for none.
        tokens: prefilled tokens.
        generated: tokens of the answer after those, not prefilled again yet. The generator may not
            have seen the last ones.
        busy: True while a request uses the slot.
        used: logical time of the last use.
    """

    def __init__(
        self, generator: Any, capacity: int, adapter: str, *, snapshots: bool = False
    ) -> None:
        self.generator = generator
        self.capacity = capacity
        self.adapter = adapter
        self._snapshots = snapshots
        self._snapshot_at = 0
        self.tokens: list[int] = []
        self.generated: list[int] = []
        self.busy = True
        self.used = 0
        self._length = 0

    def common(self, prompt: Sequence[int]) -> int:
        """Count the prompt tokens that need no prefill: the length of the common prefix.

        With snapshots, that is the place of the last one if the prefix reaches it.
        """
        most = max(0, min(len(self.tokens), len(prompt) - MIN_PREFILL))
        pairs = zip(self.tokens[:most], prompt, strict=False)
        common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        if not self._snapshots or common == self._length:
            return common
        return self._snapshot_at if common >= self._snapshot_at else 0

    def restart(self, generator: Any) -> None:
        """Start over with a new generator, for a model that cannot rewind so far."""
        self.generator = generator
        self.tokens, self.generated = [], []
        self._length = self._snapshot_at = 0

    def snapshot(self) -> None:
        """Keep the state after the prefilled tokens, so that a rewind can end there."""
        self.generator.snapshot_state()
        self._snapshot_at = len(self.tokens)

    def rewind(self, length: int) -> None:
        """Discard all generated tokens, and the prefilled ones from this position on."""
        self.generated = []
        del self.tokens[length:]
        self._trim()

    def append(self, tokens: Tokens) -> None:
        """Prefill tokens after those already prefilled."""
        self._trim()
        self.generator.keep_from(len(self.tokens) - REACH)
        self.generator.append_tokens(tokens)
        self.tokens += tokens.tolist()
        self._length = len(self.tokens)

    def hold(self, tokens: Tokens) -> None:
        """Take tokens for prefilled: their KV cache was written to the generator's memory."""
        self.generator.holds(len(tokens))
        self.tokens = tokens.tolist()
        self._length = len(self.tokens)

    def begin(self, tokens: Tokens, inputs: Any) -> None:
        """Prefill a whole prompt with images, of which `inputs` are the engine's."""
        self.generator.set_inputs(inputs)
        self.tokens += tokens.tolist()
        self._length = len(self.tokens)

    def decode(self) -> int:
        """Decode the next token of the answer."""
        self.generator.generate_next_token()
        token = int(self.generator.get_next_tokens()[0])
        self.generated.append(token)
        self._length += 1
        return token

    def add(self, token: int) -> None:
        """Add a chosen token to the answer; the generator does not see it yet."""
        self.generated.append(token)

    def catch_up(self) -> None:
        """Run the model over the tokens of the answer that the generator has not seen."""
        while unseen := self.generated[self._length - len(self.tokens) :]:
            chunk = unseen[:PROMPT_STEP]
            self.generator.append_tokens(np.array(chunk, np.int32))
            self._length += len(chunk)

    def prefill_generated(self, count: int) -> bool:
        """Prefill the first of the generated tokens again; False if there are too few of them.

        With snapshots it would take the way back to the prompt, whose next form often lacks the
        thoughts of the answer.
        """
        if len(self.generated) < MIN_PREFILL or self._snapshots:
            return False
        count = step(len(self.generated), count)
        chunk, self.generated = self.generated[:count], self.generated[count:]
        self.append(np.array(chunk, np.int32))
        return True

    def _trim(self) -> None:
        """Trim the generator's KV cache to the prefilled tokens."""
        if self._length > len(self.tokens):
            self._length = len(self.tokens)
            self.generator.rewind_to(self._length)


def step(tokens: int, most: int) -> int:
    """Return the size of the next prefill chunk; what is left is empty or at least `MIN_PREFILL`.

    Never one token more than `most` instead: attention takes rows in blocks, of 128 and smaller
    powers of two, and the single row of the last one gets what a decoded token does.

    Args:
        tokens: tokens that are left to prefill.
        most: largest chunk.
    """
    if tokens <= most:
        return tokens
    return most if tokens - most >= MIN_PREFILL else most - MIN_PREFILL


class KvCache:
    """All slots, within a memory budget.

    Args:
        make: creates a generator for a capacity (tokens) and an adapter.
        token_bytes: size of the KV cache of one token.
        state_bytes: size of what a slot holds whatever its capacity.
        returns: the memory of a dropped slot returns to the system.
        snapshots: the model rewinds only to where a snapshot of its state was taken.
        budget: memory for all slots together, bytes; 0 where size and budget are not known.
        context_length: maximum length of a conversation, tokens.
        most: largest number of slots.
        least: smallest capacity of a slot, tokens.
        available: returns the free memory, bytes.
    """

    def __init__(
        self,
        make: Callable[[int, str], Any],
        *,
        token_bytes: int,
        state_bytes: int = 0,
        snapshots: bool = False,
        returns: bool = False,
        budget: int,
        context_length: int,
        most: int = MAX_SLOTS,
        least: int = 1,
        available: Callable[[], int],
    ) -> None:
        self._make = make
        self._token_bytes = token_bytes
        self._state_bytes = state_bytes
        self._snapshots = snapshots
        self._returns = returns
        self._budget = budget
        self._context_length = context_length
        self._least = least
        self._available = available
        self._slots: list[Slot] = []
        self._most = most
        self._allocated = 0
        self._clock = 0

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All slots, least recently used first."""
        return tuple(sorted(self._slots, key=lambda slot: slot.used))

    def fits(self, tokens: int) -> bool:
        """Return whether a slot for so many tokens fits into the empty budget."""
        return self._bytes(max(tokens, self._least)) <= self._budget

    def take(self, prompt: Sequence[int], length: int, adapter: str) -> Slot | None:
        """Take a slot, trimmed to the common prefix; None while busy slots leave no room for one.

        Args:
            prompt: token ids.
            length: length of prompt and answer together, tokens; it fits into the budget.
            adapter: name of the request's adapter; empty for none.
        """
        slot = self._nearest(prompt, length, adapter) or self._new(length, adapter)
        if slot is None:
            return None
        slot.busy = True
        self._touch(slot)
        try:
            slot.rewind(slot.common(prompt))
        except RuntimeError:
            # This model cannot rewind: each of its slots serves one request.
            self.drop(slot)
            return self.take(prompt, length, adapter)
        return slot

    def reserve(self, tokens: int, adapter: str, make: Callable[[], Any]) -> Slot | None:
        """Create a generator in a slot of its own; None if memory is too short.

        Args:
            tokens: capacity of its KV caches together, tokens.
            adapter: name of its adapter; empty for none.
            make: creates it.
        """
        if not self.make_room(tokens):
            return None
        return self._keep(Slot(make(), tokens, adapter))

    def warm(self, prefix: Tokens, room: int, most: int) -> bool:
        """Prefill one chunk of the prefix of new conversations; False if there is nothing to do.

        Args:
            prefix: token ids.
            room: room for a first turn after the prefix, tokens.
            most: largest prefill chunk, tokens.
        """
        slot = self.place(prefix, room)
        rest = prefix[len(slot.tokens) :] if slot is not None else prefix[:0]
        if slot is None or len(rest) == 0:
            return False
        slot.append(rest[: step(len(rest), most)])
        return True

    def place(self, prefix: Tokens, room: int) -> Slot | None:
        """Return a slot with the beginning of a prefix alone, or an empty one; None without room.

        Args:
            prefix: token ids.
            room: room for a first turn after the prefix, tokens.
        """
        tokens = prefix.tolist()
        if len(tokens) < MIN_PREFILL:
            return None
        for slot in self._unused():
            if not slot.adapter and slot.tokens == tokens[: len(slot.tokens)]:
                return slot
        capacity = self._capacity(min(len(tokens) + room, self._context_length))
        if not self._has_room(capacity):
            return None
        slot = self._keep(self._slot(capacity, ""))
        slot.busy = False
        return slot

    def give_back(self, slot: Slot) -> None:
        """Release a slot after its request; its contents stay cached."""
        slot.busy = False
        self._touch(slot)

    def drop(self, slot: Slot) -> None:
        """Drop a slot; do nothing if it is gone already."""
        if slot in self._slots:
            self._slots.remove(slot)

    def clear(self) -> None:
        """Drop all slots that are not in use."""
        for slot in self._unused():
            self.drop(slot)

    def make_room(self, tokens: int) -> bool:
        """Drop slots, least recently used first, until a new one fits; False if it cannot."""
        while not self._has_room(tokens):
            unused = self._unused()
            if not unused:
                return False
            self.drop(unused[0])
        return True

    @property
    def idle(self) -> bool:
        """True if no request uses a slot."""
        return not any(slot.busy for slot in self._slots)

    def _new(self, length: int, adapter: str) -> Slot | None:
        """Get a slot without a common prefix: a new one, or the least recently used one."""
        capacity = self._capacity(length)
        if not self._has_room(capacity):
            for slot in self._unused():
                if slot.adapter == adapter and slot.capacity >= length:
                    return slot
            if not self.make_room(capacity):
                capacity = max(length, self._least)
                if not self.make_room(capacity):
                    return None
        return self._keep(self._slot(capacity, adapter))

    def _slot(self, capacity: int, adapter: str) -> Slot:
        generator = self._make(capacity, adapter)
        return Slot(generator, capacity, adapter, snapshots=self._snapshots)

    def _keep(self, slot: Slot) -> Slot:
        self._slots.append(slot)
        self._allocated = max(self._allocated, self._held())
        return slot

    def _has_room(self, tokens: int) -> bool:
        if len(self._slots) >= self._most:
            return False
        size = self._bytes(tokens)
        held = self._held() + size
        # ONNX Runtime keeps the memory of a dropped slot and reuses it for the next one.
        missing = size if self._returns else max(0, held - self._allocated)
        return held <= self._budget and (not missing or self._available() >= missing + RESERVE)

    def _unused(self) -> list[Slot]:
        return [slot for slot in self.slots if not slot.busy]

    def _nearest(self, prompt: Sequence[int], length: int, adapter: str) -> Slot | None:
        """Find the slot with the longest common prefix, if trimming it loses less than it saves."""
        best, most = None, 0
        for slot in self._slots:
            if slot.busy or slot.adapter != adapter or slot.capacity < length:
                continue
            common = slot.common(prompt)
            if common > most and common * 2 >= min(len(slot.tokens), len(prompt)):
                best, most = slot, common
        return best

    def _capacity(self, length: int) -> int:
        """Return a capacity with room for later turns, within the context length."""
        roomy = -(-2 * length // CAPACITY_MULTIPLE) * CAPACITY_MULTIPLE
        affordable = (self._budget - self._state_bytes) // max(1, self._token_bytes)
        return max(length, self._least, min(roomy, self._context_length, affordable))

    def _held(self) -> int:
        return sum(self._bytes(slot.capacity) for slot in self._slots)

    def _bytes(self, tokens: int) -> int:
        """Size of a slot of a capacity."""
        return tokens * self._token_bytes + self._state_bytes

    def _touch(self, slot: Slot) -> None:
        self._clock += 1
        slot.used = self._clock
