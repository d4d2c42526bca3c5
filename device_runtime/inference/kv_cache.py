"""KV caches of running and earlier requests, within a bound on memory.

A slot is a generator with a KV cache of fixed capacity. A request takes the slot whose tokens
its prompt shares most of, rewinds it to where they part, and reads only the rest.

What is remembered counts only as far as it was *read*, two tokens or more at a time: then the
cache holds bit for bit what reading the whole prompt anew would put there, however it is cut. (A
token that was generated is computed by another kernel, for one row, with slightly other results.)
So an answer's own tokens are read once more before the next turn builds on them, when the engine is
idle or as part of that turn: a remembered conversation goes on exactly as a new one would.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from device_runtime.inference.engine import Guidance

Tokens = npt.NDArray[np.int32]

SMALLEST = 512
"""Capacities are multiples of this many tokens."""

LEAST_READ = 2
"""The least tokens that are read at once, where a prompt has as many."""

MOST_SLOTS = 16
"""Also where a model does not tell the size of its KV cache."""

RESERVE = 64 << 20
"""Memory that a new KV cache must leave free, bytes."""


class Generator(Protocol):
    """What of `onnxruntime_genai.Generator` is used here."""

    def append_tokens(self, tokens: Tokens) -> None:
        """Read tokens."""

    def rewind_to(self, length: int) -> None:
        """Forget all tokens from this position on."""


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What is fixed in a generator: only requests of the same kind can share a slot."""

    guidance: Guidance | None = None
    adapter: str = ""


class Slot:
    """A generator and what its KV cache holds.

    Attributes:
        generator: where the tokens are.
        capacity: most tokens.
        kind: what it was made for.
        tokens: what it has read.
        generated: what it has generated after that, and not read again yet.
        busy: a request works with it.
        used: grows with each use.
    """

    def __init__(self, generator: Any, capacity: int, kind: Kind) -> None:
        self.generator = generator
        self.capacity = capacity
        self.kind = kind
        self.tokens: list[int] = []
        self.generated: list[int] = []
        self.busy = True
        self.used = 0
        self._length = 0

    def common(self, prompt: Sequence[int]) -> int:
        """How many tokens of a prompt need not be read."""
        most = max(0, min(len(self.tokens), len(prompt) - LEAST_READ))
        pairs = zip(self.tokens[:most], prompt, strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    def rewind(self, length: int) -> None:
        """Forget what was generated, and of what was read all from this position on."""
        self.generated = []
        del self.tokens[length:]
        self._forget_others()

    def append(self, tokens: Tokens) -> None:
        """Read tokens, after what was read before."""
        self._forget_others()
        self.generator.append_tokens(tokens)
        self.tokens += tokens.tolist()
        self._length = len(self.tokens)

    def add(self, token: int) -> None:
        """The generator has generated this token."""
        self.generated.append(token)
        self._length += 1

    def reread(self, count: int) -> bool:
        """Read the first of what was generated; False if there is too little of it."""
        if len(self.generated) < LEAST_READ:
            return False
        count = step(len(self.generated), count)
        ahead, self.generated = self.generated[:count], self.generated[count:]
        self.append(np.array(ahead, np.int32))
        return True

    def _forget_others(self) -> None:
        """Have the generator hold what was read and nothing else."""
        if self._length > len(self.tokens):
            self._length = len(self.tokens)
            self.generator.rewind_to(self._length)


def step(tokens: int, most: int) -> int:
    """How many of so many tokens to read next, so that what is left is none or enough."""
    return tokens if tokens - most < LEAST_READ else most


class KvCache:
    """The slots.

    Args:
        make: makes a generator for a capacity (tokens) and a kind.
        token_bytes: size of the KV cache of one token.
        budget: most bytes of all slots together; 0 where size and budget are not known.
        context_length: most tokens of a conversation.
        least: tokens that a slot has room for at least.
        available: free memory now, bytes.
    """

    def __init__(
        self,
        make: Callable[[int, Kind], Any],
        *,
        token_bytes: int,
        budget: int,
        context_length: int,
        least: int = 1,
        available: Callable[[], int],
    ) -> None:
        self._make = make
        self._token_bytes = token_bytes
        self._budget = budget
        self._context_length = context_length
        self._least = least
        self._available = available
        self._slots: list[Slot] = []
        self._most = 0
        self._clock = 0

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All slots, oldest use first."""
        return tuple(sorted(self._slots, key=lambda slot: slot.used))

    def fits(self, tokens: int) -> bool:
        """Whether so many tokens fit if nothing else were there."""
        return max(tokens, self._least) * self._token_bytes <= self._budget

    def take(self, prompt: Sequence[int], length: int, kind: Kind) -> Slot | None:
        """A slot for a prompt, rewound to what is common; None while others leave no room for it.

        Args:
            prompt: token numbers.
            length: tokens of prompt and answer together; they fit.
            kind: of the request.
        """
        found = self._nearest(prompt, length, kind) or self._new(length, kind)
        if found is None:
            return None
        found.busy = True
        self._touch(found)
        try:
            found.rewind(found.common(prompt))
        except RuntimeError:
            # This model cannot rewind: its slots serve once.
            self.drop(found)
            return self.take(prompt, length, kind)
        return found

    def reserve(self, tokens: int, kind: Kind) -> Slot | None:
        """Memory for a generator that the caller makes and later drops; None if there is none."""
        if not self.make_room(tokens):
            return None
        return self._keep(Slot(None, tokens, kind))

    def warm(self, prefix: Tokens, room: int, most: int) -> bool:
        """Read a step of what new conversations begin with; False if there is nothing to do.

        Args:
            prefix: token numbers.
            room: tokens of a first turn.
            most: tokens to read at once.
        """
        wanted = prefix.tolist()
        length = min(len(wanted) + room, self._context_length)
        if len(wanted) < LEAST_READ:
            return False
        for slot in self._unused():
            if slot.kind == Kind() and slot.tokens == wanted[: len(slot.tokens)]:
                break
        else:
            if not self._has_room(self._capacity(length)):
                return False
            slot = self._keep(self._slot(self._capacity(length), Kind()))
            slot.busy = False
        rest = prefix[len(slot.tokens) :]
        if len(rest) == 0:
            return False
        slot.append(rest[: step(len(rest), most)])
        return True

    def give_back(self, slot: Slot) -> None:
        """A request is done with a slot; what it holds is remembered."""
        slot.busy = False
        self._touch(slot)

    def drop(self, slot: Slot) -> None:
        """Forget a slot; does nothing if it is gone already."""
        if slot in self._slots:
            self._slots.remove(slot)

    def clear(self) -> None:
        """Forget all slots that are not in use."""
        for slot in self._unused():
            self.drop(slot)

    def make_room(self, tokens: int) -> bool:
        """Drop slots, least recently used first, until so many tokens more fit; False if not."""
        while not self._has_room(tokens):
            unused = self._unused()
            if not unused:
                return False
            self.drop(unused[0])
        return True

    @property
    def idle(self) -> bool:
        """Whether no request works with a slot."""
        return not any(slot.busy for slot in self._slots)

    def _new(self, length: int, kind: Kind) -> Slot | None:
        """A slot without a common start: a new one, or the one that was not used for longest."""
        capacity = self._capacity(length)
        if not self._has_room(capacity):
            for slot in self._unused():
                if slot.kind == kind and slot.capacity >= length:
                    return slot
            if not self.make_room(capacity):
                capacity = max(length, self._least)
                if not self.make_room(capacity):
                    return None
        return self._keep(self._slot(capacity, kind))

    def _slot(self, capacity: int, kind: Kind) -> Slot:
        return Slot(self._make(capacity, kind), capacity, kind)

    def _keep(self, slot: Slot) -> Slot:
        self._slots.append(slot)
        self._most = max(self._most, self._held())
        return slot

    def _has_room(self, tokens: int) -> bool:
        if len(self._slots) >= MOST_SLOTS:
            return False
        held = self._held() + tokens * self._token_bytes
        # ONNX Runtime keeps what a dropped slot had, and gives it to the next one.
        missing = max(0, held - self._most)
        return held <= self._budget and (not missing or self._available() >= missing + RESERVE)

    def _unused(self) -> list[Slot]:
        return [slot for slot in self.slots if not slot.busy]

    def _nearest(self, prompt: Sequence[int], length: int, kind: Kind) -> Slot | None:
        """The slot that spares most reading, if it spares more than is lost by rewinding it."""
        best, most = None, 0
        for slot in self._slots:
            if slot.busy or slot.kind != kind or slot.capacity < length:
                continue
            common = slot.common(prompt)
            if common > most and common * 2 >= min(len(slot.tokens), len(prompt)):
                best, most = slot, common
        return best

    def _capacity(self, length: int) -> int:
        """Room for the next turns of a conversation as well, where the context has it."""
        wanted = min(-(-2 * length // SMALLEST) * SMALLEST, self._context_length)
        affordable = self._budget // max(1, self._token_bytes)
        return max(length, self._least, min(wanted, affordable))

    def _held(self) -> int:
        return sum(slot.capacity for slot in self._slots) * self._token_bytes

    def _touch(self, slot: Slot) -> None:
        self._clock += 1
        slot.used = self._clock
