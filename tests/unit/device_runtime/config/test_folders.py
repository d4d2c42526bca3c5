"""The folders that systemd makes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from device_runtime.config import folders


@pytest.mark.parametrize(
    ("folder", "variable"),
    [
        (folders.runtime_folder, "RUNTIME_DIRECTORY"),
        (folders.state_folder, "STATE_DIRECTORY"),
    ],
    ids=["runtime", "state"],
)
def test_folder_is_the_first_that_systemd_names(
    folder: Callable[[], Path | None], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "/run/edgepack:/run/more")
    assert folder() == Path("/run/edgepack")
    monkeypatch.delenv(variable)
    assert folder() is None
