"""Device ids."""

from pathlib import Path

import pytest

from device_runtime.config.sources import resolve
from device_runtime.errors import ServiceError
from device_runtime.status.device_id import device_id

MACHINE = "0123456789abcdef0123456789abcdef"


def test_derived_from_the_machine_without_giving_it_away(tmp_path: Path) -> None:
    path = tmp_path / "machine-id"
    path.write_text(MACHINE + "\n")
    found = device_id(None, tmp_path / "none", path)
    assert found == device_id(None, tmp_path / "none", path)
    assert len(found) == 16
    assert found not in MACHINE
    path.write_text("f" + MACHINE[1:])
    assert device_id(None, tmp_path / "none", path) != found


def test_cloned_cards_in_two_boards_differ(tmp_path: Path) -> None:
    machine, serial = tmp_path / "machine-id", tmp_path / "serial-number"
    machine.write_text(MACHINE)
    ids = set()
    for number in ("10000000a1b2c3d4", "10000000a1b2c3d5"):
        serial.write_bytes(number.encode() + b"\0")
        ids.add(device_id(None, serial, machine))
        assert number not in ids
    assert len(ids) == 2
    # A board whose serial number was never set.
    serial.write_bytes(b"0000000000000000\0")
    assert device_id(None, serial, machine) == device_id(None, tmp_path / "none", machine)


@pytest.mark.parametrize("content", [None, "", "uninitialized\n", "abcd"])
def test_host_name_where_there_is_no_machine_id(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "machine-id"
    if content is not None:
        path.write_text(content)
    found = device_id(None, tmp_path / "none", path)
    assert device_id(found) == found


@pytest.mark.parametrize("given", ["", "a/b", "a+", "#", "a b", "x" * 65, "é"])
def test_names_that_do_not_fit_into_a_topic_are_refused(given: str) -> None:
    with pytest.raises(ServiceError, match="device-id"):
        resolve(None, flags={"device_id": given}, environment={})
