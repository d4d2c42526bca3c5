"""The responses that are kept: how many, and for which key."""

import json

import pytest

from device_runtime.api.openai_responses.store import KeptResponse, ResponseStore


def response(number: int, owner: str = "", *, text: str = "") -> KeptResponse:
    output = [{"id": f"msg_{number}", "text": text}]
    return KeptResponse(
        id=f"resp_{number}",
        owner=owner,
        response=json.dumps({"output": output}).encode(),
        items=json.dumps([{"id": "in_0", "text": f"of {number}"}]).encode(),
        item_ids=("in_0", f"msg_{number}"),
    )


def kept(store: ResponseStore, count: int = 10) -> list[int]:
    numbers = []
    for number in range(count):
        try:
            store.get(f"resp_{number}", "")
        except KeyError:
            continue
        numbers.append(number)
    return numbers


def test_oldest_response_is_dropped_above_the_count() -> None:
    store = ResponseStore(2, 1 << 20)
    for number in range(4):
        store.put(response(number))
    assert kept(store) == [2, 3]


def test_oldest_responses_are_dropped_above_the_bytes() -> None:
    size = response(0).size
    store = ResponseStore(10, 3 * size)
    for number in range(3):
        store.put(response(number))
    assert kept(store) == [0, 1, 2]
    store.put(response(3, text="x" * size))
    assert kept(store) == [2, 3]


def test_response_above_the_bytes_drops_no_other() -> None:
    store = ResponseStore(10, 2 * response(0).size)
    store.put(response(0))
    store.put(response(1, text="x" * 10_000))
    assert kept(store) == [0]


def test_no_response_is_kept_with_a_count_of_zero() -> None:
    store = ResponseStore(0, 1 << 20)
    store.put(response(0))
    assert kept(store) == []


def test_a_deleted_response_makes_room() -> None:
    store = ResponseStore(10, 2 * response(0).size)
    for number in range(2):
        store.put(response(number))
    store.delete("resp_1", "")
    store.put(response(2))
    assert kept(store) == [0, 2]
    with pytest.raises(KeyError):
        store.delete("resp_1", "")


def test_response_is_visible_to_its_owner_alone() -> None:
    store = ResponseStore(10, 1 << 20)
    store.put(response(0, "alice"))
    assert store.get("resp_0", "alice").id == "resp_0"
    for owner in ("bob", ""):
        with pytest.raises(KeyError):
            store.get("resp_0", owner)
        with pytest.raises(KeyError):
            store.item("msg_0", owner)
        with pytest.raises(KeyError):
            store.delete("resp_0", owner)


def test_item_is_that_of_the_latest_response_of_the_owner() -> None:
    store = ResponseStore(2, 1 << 20)
    for number, owner in enumerate(("alice", "bob", "alice")):
        store.put(response(number, owner))
    assert store.item("in_0", "alice")["text"] == "of 2"
    assert store.item("in_0", "bob")["text"] == "of 1"
    with pytest.raises(KeyError):
        store.item("msg_0", "alice")


def test_nothing_is_left_of_what_is_dropped() -> None:
    store = ResponseStore(3, 1 << 20)
    for number in range(100):
        store.put(response(number, text="x" * 100))
    for number in (97, 98, 99):
        store.delete(f"resp_{number}", "")
    for number in range(100):
        with pytest.raises(KeyError):
            store.item(f"msg_{number}", "")
    with pytest.raises(KeyError):
        store.item("in_0", "")
