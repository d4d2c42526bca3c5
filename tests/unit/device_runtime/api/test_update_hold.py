"""An application holds updates through the API, and the installer respects it."""

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from device_runtime.api.app import Api
from device_runtime.api.served_model import ServedModel
from device_runtime.status.report import RequestStats
from device_runtime.tools.dialect import Dialect
from device_runtime.update import hold
from device_runtime.update.target import Target
from tests.support import asgi
from tests.support.fakes import FakeGenerator, runtime_status

SERVED = ServedModel(model="tiny", dialect=Dialect.of(""), max_tokens=64)
NONE = {"held": False, "reason": None, "seconds": None}


class App:
    """The application with this runtime folder."""

    def __init__(self, folder: Path | None) -> None:
        stats = RequestStats()
        api = Api(
            FakeGenerator(), stats, lambda: runtime_status(stats), SERVED, runtime_folder=folder
        )
        self._app = api.app()

    def ask(self, method: str, **options: Any) -> httpx.Response:
        return asgi.request(self._app, method, "/v1/update-hold", **options)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The runtime folder of the service on a device."""
    folder = tmp_path / "run/edgepack"
    folder.mkdir(parents=True)
    return folder


def test_hold_is_set_shown_respected_and_ended(run: Path, tmp_path: Path) -> None:
    app, device = App(run), Target(tmp_path)
    assert app.ask("GET").json() == NONE
    answer = app.ask("PUT", json={"reason": "a customer is being served", "seconds": 600})
    assert answer.status_code == 200
    shown = app.ask("GET").json()
    assert (shown["held"], shown["reason"]) == (True, "a customer is being served")
    assert 590 < shown["seconds"] <= 600
    assert hold.reason(device) == "a customer is being served"
    assert [path.name for path in run.iterdir()] == ["hold"]
    assert app.ask("DELETE").json() == app.ask("GET").json() == NONE
    assert app.ask("DELETE").json() == NONE
    assert hold.reason(device) is None


def test_second_hold_replaces_the_first(run: Path) -> None:
    app = App(run)
    app.ask("PUT", json={"reason": "one", "seconds": 600})
    shown = app.ask("PUT", json={"reason": "two", "seconds": 5}).json()
    assert shown["reason"] == "two"
    assert shown["seconds"] <= 5


def test_hold_ends_by_itself_whatever_the_clock_says(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(run)
    app.ask("PUT", json={"reason": "busy", "seconds": 60})
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert hold.reason(Target(tmp_path)) == "busy"
    later = time.monotonic() + 61
    monkeypatch.setattr("time.monotonic", lambda: later)
    assert hold.reason(Target(tmp_path)) is None
    assert app.ask("GET").json() == NONE


def test_hold_of_an_earlier_boot_has_ended(run: Path, tmp_path: Path) -> None:
    hold.put(run, "busy", 60)
    line = (run / "hold").read_text().splitlines()[1].split()
    line[1] = "0" * len(line[1])
    (run / "hold").write_text("busy\n" + " ".join(line))
    assert hold.reason(Target(tmp_path)) is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"reason": "", "seconds": 5}, "reason"),
        ({"reason": "a\nuntil never 5", "seconds": 5}, "reason"),
        ({"reason": "a" * 201, "seconds": 5}, "reason"),
        ({"reason": "a", "seconds": 0}, "seconds"),
        ({"reason": "a", "seconds": 86401}, "seconds"),
        ({"reason": "a", "seconds": "5"}, "seconds"),
        ({"reason": "a"}, "seconds"),
        ({"seconds": 5}, "reason"),
        ({"reason": "a", "seconds": 5, "until": 1}, "until"),
    ],
)
def test_invalid_body_is_refused_and_the_field_named(
    run: Path, body: dict[str, Any], param: str
) -> None:
    answer = App(run).ask("PUT", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert list(run.iterdir()) == []


def test_service_without_a_runtime_folder_cannot_hold_updates(tmp_path: Path) -> None:
    body = {"reason": "a", "seconds": 5}
    answer = App(None).ask("PUT", json=body)
    assert answer.status_code == 501
    assert "runtime folder" in answer.json()["error"]["message"]
    assert App(None).ask("GET").json() == NONE
    assert App(None).ask("DELETE").json() == NONE
    assert App(tmp_path / "missing").ask("PUT", json=body).status_code == 501
