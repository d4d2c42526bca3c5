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
    found = device_id(None, path)
    assert found == device_id(None, path)
    assert len(found) == 16
    assert found not in MACHINE
    path.write_text("f" + MACHINE[1:])
    assert device_id(None, path) != found


@pytest.mark.parametrize("content", [None, "", "uninitialized\n", "abcd"])
def test_host_name_where_there_is_no_machine_id(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "machine-id"
    if content is not None:
        path.write_text(content)
    assert device_id(device_id(None, path)) == device_id(None, path)


@pytest.mark.parametrize("given", ["", "a/b", "a+", "#", "a b", "x" * 65, "é"])
def test_names_that_do_not_fit_into_a_topic_are_refused(given: str) -> None:
    with pytest.raises(ServiceError, match="device-id"):
        resolve(None, flags={"device_id": given}, environment={})
