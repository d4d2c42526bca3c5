"""Updates as commands: a real broker, a real registry, real processes."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from device_runtime import logs
from device_runtime.bundle.manifest import Probe
from device_runtime.commands.updates import updater
from device_runtime.update import switch, systemd
from device_runtime.update.install import Installed, install
from packager.registry.access import Access
from packager.registry.push import push
from tests.support import trial_bundles
from tests.support.init import Device
from tests.support.mosquitto import DEVICE, Messages, Mosquitto, publish, retained, subscribed
from tests.support.registries import RealRegistry, docker_registry
from tests.support.serving import eventually

pytestmark = pytest.mark.requires("mosquitto", "docker-registry")

RULES = "start_timeout_s = 20\nprobation_s = 1\nregistry_plain_http = true\n"


class Commanded:
    """A device with a release that serves, and what it takes to give it others."""

    def __init__(
        self, folder: Path, model: Path, mosquitto: Mosquitto, registry: RealRegistry
    ) -> None:
        self._folder, self._model = folder, model
        self._probe: Probe = trial_bundles.find_probe(model)
        self._registry = registry
        self.port = mosquitto.port
        state = folder / "state"
        state.mkdir()
        settings = {
            "EDGEPACK_MQTT": mosquitto.url,
            "EDGEPACK_DEVICE_ID": DEVICE,
            "EDGEPACK_MQTT_COMMANDS": "update,rollback",
            "STATE_DIRECTORY": str(state),
        }
        self.device = Device(folder / "root", RULES, settings)
        self.first: Installed = install(self._bundle(1), self.device.root)
        with self.device.state() as releases:
            switch.commit(self.device.target, releases, keep=3)
        self.device.boot()
        eventually(lambda: self.device.serves(self.first.digest))

    def pushed(self, number: int, **changes: Any) -> str:
        """A release in the registry, by its digest."""
        place = f"oci://127.0.0.1:{self._registry.port}/team/bundle:{number}"
        return push(self._bundle(number, **changes), place, Access()).reference

    def command(self, name: str, **arguments: str) -> None:
        content = json.dumps({"status": "init", "arguments": arguments}).encode()
        publish(self.port, f"cmd/{name}", content, retain=True)

    def _bundle(self, number: int, **changes: Any) -> Path:
        changes = {"probe": self._probe, **changes}
        return trial_bundles.bundle(self._folder, self._model, number, **changes)


@pytest.fixture
def commanded(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Commanded]:
    mosquitto = Mosquitto(tmp_path)
    mosquitto.start()
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as registry:
        commanded = Commanded(tmp_path, tiny_onnx, mosquitto, registry)
        device, ended = commanded.device, threading.Event()
        monkeypatch.setattr(systemd, "of_root", lambda _: device)
        monkeypatch.setattr(logs, "set_up", lambda _: None)

        def update() -> None:
            CliRunner().invoke(updater, ["--root", str(device.root)], catch_exceptions=False)

        thread = threading.Thread(target=device.run_updater, args=(update, ended))
        thread.start()
        try:
            yield commanded
        finally:
            ended.set()
            thread.join()
            device.close()
            mosquitto.stop()


def ended(messages: Messages, name: str) -> dict[str, Any]:
    while True:
        state, _ = messages.next(f"cmd/{name}")
        if state["status"] in ("successful", "failed"):
            return state


def test_update_rollback_and_a_release_that_fails(commanded: Commanded) -> None:
    reference = commanded.pushed(2)
    broken = commanded.pushed(3, fault=trial_bundles.CRASHES)
    with subscribed(commanded.port) as messages:
        commanded.command("update/1", reference=reference)
        state = ended(messages, "update/1")
        assert state["status"] == "successful", state
        second = state["result"]
        assert second["version"] == "2.0.0"
        assert second["release"] == commanded.device.current
        # The service was another one when it ended.
        assert retained(commanded.port, "info")["identity"]["release"] == second["release"]

        commanded.command("update/2", reference=reference)
        assert ended(messages, "update/2")["result"] == second

        commanded.command("update/3", reference=broken)
        state = ended(messages, "update/3")
        assert state["status"] == "failed"
        assert "3.0.0 rolled back" in state["reason"]
        assert commanded.device.current == second["release"]

        commanded.command("rollback/1")
        state = ended(messages, "rollback/1")
        assert state["result"]["release"] == commanded.first.digest == commanded.device.current
        eventually(lambda: commanded.device.serves(commanded.first.digest))

        repository, _, _ = reference.partition("@")
        commanded.command("update/4", reference=f"{repository}@sha256:{'0' * 64}")
        assert ended(messages, "update/4")["status"] == "failed"
