"""Which KV cache a request gets, with a generator that only keeps tokens."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from device_runtime.inference import kv_cache
from device_runtime.inference.kv_cache import (
    MIN_PREFILL,
    RESERVE,
    KvCache,
    Slot,
    Tokens,
    step,
)
from device_runtime.memory import PROMPT_STEP, kv_cache_length

CONTEXT = 2048
PLAIN = ""
"""The model itself, without an adapter."""


class Tape:
    """Implements `Generator`: what it holds, and how much it was asked to read at once."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.reads: list[int] = []
        self.wanted: list[int] = []
        self.can_rewind = True

    def append_tokens(self, tokens: Tokens) -> None:
        self.tokens += tokens.tolist()
        self.reads.append(len(tokens))

    def keep_from(self, length: int) -> None:
        pass

    def rewind_to(self, length: int) -> None:
        if not self.can_rewind:
            raise RuntimeError("this model cannot rewind")
        assert length <= len(self.tokens)
        del self.tokens[length:]

    def generate_next_token(self) -> None:
        self.tokens.append(self.wanted.pop(0))

    def get_next_tokens(self) -> Tokens:
        return np.array(self.tokens[-1:], np.int32)

    def generate(self, slot: Slot, *tokens: int) -> None:
        self.wanted += tokens
        for token in tokens:
            assert slot.decode() == token


class Memory:
    """A cache of 1 KiB a token, and what the machine has."""

    def __init__(self, budget_tokens: int = 4 * CONTEXT, free: int = 1 << 40) -> None:
        self.free = free
        self.made: list[int] = []
        self.cache = KvCache(
            self.make,
            token_bytes=1024,
            budget=budget_tokens * 1024,
            context_length=CONTEXT,
            available=lambda: self.free,
        )

    def make(self, capacity: int, adapter: str) -> Tape:
        self.made.append(capacity)
        return Tape()

    def take(self, prompt: list[int], length: int = 100, adapter: str = PLAIN) -> Slot:
        slot = self.cache.take(prompt, length, adapter)
        assert slot is not None
        return slot

    def ask(self, prompt: list[int], *answer: int, length: int = 100) -> Slot:
        """A whole request; returns its slot."""
        slot = self.take(prompt, length)
        slot.append(np.array(prompt[len(slot.tokens) :], np.int32))
        slot.generator.generate(slot, *answer)
        self.cache.give_back(slot)
        return slot


def numbers(start: int, count: int) -> list[int]:
    return list(range(start, start + count))


def test_next_turn_reads_only_what_is_new_and_what_was_generated() -> None:
    memory = Memory()
    first = memory.ask(numbers(0, 50), 900, 901, 902)
    slot = memory.take([*numbers(0, 50), 900, 901, 902, *numbers(60, 10)])
    assert slot is first
    assert slot.tokens == numbers(0, 50)
    assert slot.generator.tokens == numbers(0, 50)


def test_what_was_read_again_counts() -> None:
    memory = Memory()
    slot = memory.ask(numbers(0, 50), 900, 901, 902)
    assert slot.prefill_generated(128)
    assert not slot.prefill_generated(128)
    assert slot.generator.tokens == slot.tokens == [*numbers(0, 50), 900, 901, 902]
    again = memory.take([*slot.tokens, 903, 904])
    assert len(again.tokens) == 53


def test_rereading_goes_in_steps_and_can_be_interrupted() -> None:
    memory = Memory()
    slot = memory.ask(numbers(0, 5), *numbers(100, 7), length=1000)
    assert slot.prefill_generated(3)
    assert slot.tokens == [*numbers(0, 5), 100, 101, 102]
    again = memory.take([*numbers(0, 5), *numbers(100, 4), 5, 6, 7])
    assert again.tokens == again.generator.tokens == [*numbers(0, 5), 100, 101, 102]
    assert again.generated == []


def test_never_a_single_token_is_read_alone() -> None:
    memory = Memory()
    slot = memory.ask(numbers(0, 50), 900)
    assert not slot.prefill_generated(128)
    same = memory.take(numbers(0, 50))
    assert len(same.tokens) == 50 - MIN_PREFILL
    assert [step(left, 4) for left in (1, 2, 4, 5, 6, 9)] == [1, 2, 4, 2, 4, 4]


def test_prompt_of_one_token_is_read_anew() -> None:
    memory = Memory()
    memory.ask([7])
    assert memory.take([7]).tokens == []


def test_other_conversation_gets_a_slot_of_its_own() -> None:
    memory = Memory()
    first = memory.ask(numbers(0, 50))
    other = memory.ask([*numbers(0, 5), *numbers(500, 40)])
    assert other is not first
    assert memory.take([*numbers(0, 50), 1, 2]) is first


def test_busy_slot_is_left_alone() -> None:
    memory = Memory()
    running = memory.take(numbers(0, 50))
    assert memory.take(numbers(0, 50)) is not running


def test_requests_for_an_adapter_share_with_their_like_only() -> None:
    memory = Memory()
    memory.ask(numbers(0, 50))
    adapted = memory.take(numbers(0, 50), adapter="x")
    assert adapted.tokens == []
    adapted.append(np.array(numbers(0, 50), np.int32))
    memory.cache.give_back(adapted)
    assert memory.take(numbers(0, 50), adapter="x") is adapted
    assert memory.take(numbers(0, 50), adapter="y") is not adapted


def test_chosen_tokens_are_seen_together_when_they_are_needed() -> None:
    memory = Memory()
    slot = memory.ask(numbers(0, 50))
    tape = slot.generator
    for token in (1, 2, 3):
        slot.add(token)
    assert tape.tokens == numbers(0, 50)
    for _ in range(2):
        slot.catch_up()
        assert tape.tokens == [*numbers(0, 50), 1, 2, 3]
    assert tape.reads == [50, 3]
    tape.generate(slot, 4)
    slot.add(5)
    slot.catch_up()
    assert tape.tokens[50:] == slot.generated == [1, 2, 3, 4, 5]


def test_chosen_tokens_that_nobody_needed_are_prefilled_like_others() -> None:
    memory = Memory()
    slot = memory.ask(numbers(0, 50), 1, 2)
    slot.add(3)
    assert slot.prefill_generated(PROMPT_STEP)
    assert slot.tokens == slot.generator.tokens == [*numbers(0, 50), 1, 2, 3]
    later = memory.take([*slot.tokens, 4, 5])
    assert later is slot
    assert later.generator.tokens == [*numbers(0, 50), 1, 2, 3]


def test_long_run_of_chosen_tokens_goes_in_steps() -> None:
    slot = Memory().ask(numbers(0, 2))
    for token in range(2 * PROMPT_STEP + 1):
        slot.add(token)
    slot.catch_up()
    assert slot.generator.reads == [2, PROMPT_STEP, PROMPT_STEP, 1]


def test_capacity_has_room_for_the_next_turn() -> None:
    memory = Memory()
    for length in (10, 257, 1000, CONTEXT):
        memory.take(numbers(0, 9), length)
    assert memory.made == [512, 1024, CONTEXT, CONTEXT]


def test_conversation_that_outgrows_its_slot_gets_a_larger_one() -> None:
    memory = Memory()
    small = memory.ask(numbers(0, 50))
    assert memory.take([*numbers(0, 50), 1], small.capacity + 1) is not small


def test_oldest_slot_gives_way() -> None:
    memory = Memory(budget_tokens=1024)
    first, second = memory.ask(numbers(0, 50)), memory.ask(numbers(100, 50))
    third = memory.ask(numbers(200, 50))
    assert third is first
    assert set(memory.cache.slots) == {first, second}
    assert memory.made == [512, 512]


def test_smaller_slots_are_dropped_for_a_large_request() -> None:
    memory = Memory(budget_tokens=1024)
    memory.ask(numbers(0, 50))
    memory.ask(numbers(100, 50))
    large = memory.take(numbers(200, 50), 900)
    assert memory.made == [512, 512, 1024]
    assert memory.cache.slots == (large,)


def test_no_room_while_others_run() -> None:
    memory = Memory(budget_tokens=600)
    running = memory.take(numbers(0, 50), 400)
    assert memory.cache.take(numbers(100, 50), 400, PLAIN) is None
    memory.cache.give_back(running)
    assert memory.cache.take(numbers(100, 50), 400, PLAIN) is running


def test_request_takes_what_is_there_if_there_is_less_than_it_would_like() -> None:
    memory = Memory(budget_tokens=700)
    memory.take(numbers(0, 50), 600)
    assert memory.made == [700]


def test_fits() -> None:
    memory = Memory(budget_tokens=1000)
    assert memory.cache.fits(1000)
    assert not memory.cache.fits(1001)


def test_memory_of_the_machine_bounds_new_slots_but_not_old_ones() -> None:
    memory = Memory()
    first = memory.ask(numbers(0, 50))
    memory.free = RESERVE
    second = memory.ask(numbers(100, 50))
    assert second is first
    assert memory.cache.take(numbers(100, 50), CONTEXT, PLAIN) is None
    # ONNX Runtime keeps the memory of the dropped slot: as much can be had again.
    assert memory.cache.take(numbers(100, 50), 200, PLAIN) is not None


def test_model_that_cannot_rewind_reads_everything_anew() -> None:
    memory = Memory()
    slot = memory.ask(numbers(0, 50), 900, 901)
    slot.generator.can_rewind = False
    again = memory.take([*numbers(0, 50), 900, 901, 3])
    assert again is not slot
    assert again.tokens == []
    assert slot not in memory.cache.slots


def test_reserved_memory_is_counted_until_it_is_dropped() -> None:
    memory = Memory(budget_tokens=1000)
    reserved = memory.cache.reserve(800, PLAIN, Tape)
    assert reserved is not None
    assert memory.cache.take(numbers(0, 9), 300, PLAIN) is None
    memory.cache.drop(reserved)
    assert memory.cache.take(numbers(0, 9), 300, PLAIN) is not None


def test_generator_that_cannot_be_created_holds_no_memory() -> None:
    memory = Memory(budget_tokens=1000)

    def failing() -> Tape:
        raise MemoryError("no addresses")

    for _ in range(3):
        with pytest.raises(MemoryError):
            memory.cache.reserve(800, PLAIN, failing)
    assert memory.cache.idle
    assert memory.cache.reserve(800, PLAIN, Tape) is not None


def idle(work: Callable[[], bool]) -> int:
    steps = 0
    while work():
        steps += 1
        assert steps < 100
    return steps


def test_beginning_is_warmed_once_and_then_used() -> None:
    memory = Memory()
    prefix = np.arange(300, dtype=np.int32)
    assert idle(lambda: memory.cache.warm(prefix, 400, 128)) == 3
    assert idle(lambda: memory.cache.warm(prefix, 400, 128)) == 0
    slot = memory.take([*numbers(0, 300), 5, 6])
    assert len(slot.tokens) == 300
    # The next conversation finds another one.
    assert idle(lambda: memory.cache.warm(prefix, 400, 128)) == 3


def test_warming_drops_no_conversation() -> None:
    memory = Memory(budget_tokens=512)
    slot = memory.ask(numbers(500, 50))
    assert not memory.cache.warm(np.arange(300, dtype=np.int32), 100, 128)
    assert memory.cache.slots == (slot,)


def test_memory_that_is_too_small_for_the_beginning_is_no_trouble() -> None:
    assert not Memory(budget_tokens=10).cache.warm(np.arange(300, dtype=np.int32), 100, 128)
    assert not Memory().cache.warm(np.arange(1, dtype=np.int32), 100, 128)


@pytest.mark.parametrize("length", [1, kv_cache.CAPACITY_MULTIPLE, CONTEXT])
def test_capacity_is_never_more_than_the_context(length: int) -> None:
    memory = Memory()
    assert length <= memory.take([1, 2, 3], length).capacity <= CONTEXT


def test_number_of_slots_is_bounded_where_their_size_is_not_known() -> None:
    made: list[Tape] = []

    def make(capacity: int, adapter: str) -> Tape:
        made.append(Tape())
        return made[-1]

    cache = KvCache(
        make, token_bytes=0, budget=0, context_length=CONTEXT, available=lambda: 1 << 40
    )
    for start in range(0, 100_000, 1000):
        slot = cache.take(numbers(start, 50), 100, PLAIN)
        assert slot is not None
        cache.give_back(slot)
    assert len(made) == kv_cache.MAX_SLOTS


@pytest.mark.parametrize(
    ("decoder", "length"),
    [
        ({}, 32),
        ({"sliding_window": None}, 32),
        ({"sliding_window": {"window_size": 16}}, 32),
        ({"sliding_window": {"window_size": 4096}}, 4096),
    ],
)
def test_a_kv_cache_has_room_for_the_tokens_and_for_a_whole_window(
    decoder: dict[str, Any], length: int
) -> None:
    assert kv_cache_length(decoder, 32) == length


class Recurrent(Tape):
    """A model with a state: it rewinds only to where a snapshot was taken, or to the start."""

    def __init__(self) -> None:
        super().__init__()
        self.snapshot = 0

    def snapshot_state(self) -> None:
        self.snapshot = len(self.tokens)

    def rewind_to(self, length: int) -> None:
        if length not in (0, self.snapshot):
            raise RuntimeError("cannot restore a snapshot there")
        super().rewind_to(length)


def recurrent(budget: int = 1 << 30, state: int = 1000) -> KvCache:
    return KvCache(
        lambda _capacity, _adapter: Recurrent(),
        token_bytes=10,
        state_bytes=state,
        snapshots=True,
        budget=budget,
        context_length=CONTEXT,
        available=lambda: 1 << 40,
    )


def prefilled(cache: KvCache, prompt: list[int], snapshot_at: int, *answer: int) -> Slot:
    """A request that took a snapshot on its way through the prompt; returns its slot."""
    slot = cache.take(prompt, 100, PLAIN)
    assert slot is not None
    slot.append(np.array(prompt[len(slot.tokens) : snapshot_at], np.int32))
    slot.snapshot()
    slot.append(np.array(prompt[snapshot_at:], np.int32))
    slot.generator.generate(slot, *answer)
    cache.give_back(slot)
    return slot


def test_model_with_a_state_goes_back_to_its_snapshot() -> None:
    cache = recurrent()
    first = prefilled(cache, numbers(0, 50), 40, 900, 901)
    # The heading of the answer is written otherwise now: the prefix ends between 40 and 50.
    slot = cache.take([*numbers(0, 45), *numbers(800, 20)], 100, PLAIN)
    assert slot is first
    assert slot.tokens == slot.generator.tokens == numbers(0, 40)


def test_model_with_a_state_does_not_read_its_answers_again() -> None:
    slot = prefilled(recurrent(), numbers(0, 50), 40, 900, 901, 902)
    assert not slot.prefill_generated(128)


def test_prefix_before_the_snapshot_is_read_anew() -> None:
    cache = recurrent()
    first = prefilled(cache, numbers(0, 50), 40, 900)
    slot = cache.take([*numbers(0, 39), *numbers(800, 20)], 100, PLAIN)
    assert slot is not None
    assert slot is not first
    assert slot.tokens == []


def test_state_counts_as_memory() -> None:
    cache = recurrent(budget=6000, state=4000)
    assert cache.fits(200)
    assert not cache.fits(201)
    first = cache.take(numbers(0, 50), 100, PLAIN)
    assert first is not None
    assert first.capacity == 200
    assert cache.take(numbers(100, 50), 100, PLAIN) is None
