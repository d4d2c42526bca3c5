"""The reporter against a real mosquitto, when something is wrong with broker, network or device."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from device_runtime import doctor
from device_runtime.config.options import RuntimeConfig
from device_runtime.mqtt import backoff, connection, session
from device_runtime.mqtt.address import Broker, broker
from device_runtime.mqtt.contract import Event, Status
from device_runtime.mqtt.payloads import payload
from device_runtime.mqtt.spool import Spool
from tests.support import certificates
from tests.support.cutter import cutting
from tests.support.mosquitto import (
    DEVICE,
    TOPIC,
    Mosquitto,
    publish,
    retained,
    running,
    subscribed,
)
from tests.support.network import Cable
from tests.support.reporting import reporting, waits
from tests.support.serving import eventually
from tests.support.statuses import status

pytestmark = pytest.mark.requires("mosquitto")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 0.2)


def test_events_of_an_outage_arrive_once_it_is_over_and_in_order(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _quick: None
) -> None:
    monkeypatch.setattr(session, "LATE_S", 1.0)
    with reporting(broker(mosquitto.url), tmp_path) as device:
        with subscribed(mosquitto.port) as messages:
            live, _ = messages.next("event/start")
        eventually(partial(waits, device, 0))  # the acknowledgement has come too
        mosquitto.stop()
        eventually(lambda: not device.reporter.state.connected)
        for number in range(1, 4):
            device.status = status(worker_ends=number, last_error=f"crash {number}")
            eventually(partial(waits, device, number))
        mosquitto.start()
        with subscribed(mosquitto.port) as messages:
            ended = [messages.next("event/worker_ended")[0] for _ in range(3)]
        assert [one["detail"]["reason"] for one in ended] == ["crash 1", "crash 2", "crash 3"]
        assert ended[0]["historical"]
        assert not live["historical"]
        assert len({one["id"] for one in ended}) == 3
        eventually(lambda: device.spool.state().depth == 0)


def test_each_event_of_twenty_runs_arrives_once_and_in_order(
    mosquitto: Mosquitto, tmp_path: Path, _quick: None
) -> None:
    with subscribed(mosquitto.port) as messages:
        for number in range(20):
            with reporting(broker(mosquitto.url), tmp_path) as device:
                device.status = status(worker_ends=1, last_error=f"crash {number}")
                eventually(partial(waits, device, 0))
        seen: list[tuple[str, dict[str, Any], bool]] = []

        def complete() -> bool:
            seen.extend(one for one in messages.so_far() if one[0].startswith("event/"))
            return len(seen) >= 60

        eventually(complete)
        time.sleep(1)
        assert complete()
    assert [name for name, _, _ in seen] == ["event/start", "event/worker_ended", "event/stop"] * 20
    assert [
        event["detail"]["reason"] for name, event, _ in seen if name == "event/worker_ended"
    ] == [f"crash {number}" for number in range(20)]
    assert len({event["id"] for _, event, _ in seen}) == 60
    assert retained(mosquitto.port, "status")["state"] == "offline"


def test_events_of_a_device_that_was_switched_off_arrive_on_its_next_start(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    mosquitto.stop()
    with reporting(broker(mosquitto.url), tmp_path):
        pass
    mosquitto.start()
    with subscribed(mosquitto.port) as messages, reporting(broker(mosquitto.url), tmp_path):
        first, _ = messages.next("event/start")
        messages.next("event/stop")
        second, _ = messages.next("event/start")
        assert first["seq"] < second["seq"]


def test_a_late_will_does_not_leave_a_device_offline(mosquitto: Mosquitto) -> None:
    with reporting(broker(mosquitto.url)):
        eventually(lambda: retained(mosquitto.port, "status")["state"] == "online")
        late = payload(Status, state="offline", session=0)
        publish(mosquitto.port, "status", late, retain=True)
        eventually(lambda: retained(mosquitto.port, "status")["state"] == "online")


DEVICE_ALONE = """
import sys, time
from device_runtime.mqtt import connection
from device_runtime.mqtt.address import broker
from tests.support.reporting import reporting

connection.KEEPALIVE_S = int(sys.argv[2])
with reporting(broker(sys.argv[1])):
    time.sleep(60)
"""


@contextmanager
def another_device(url: str, keepalive_s: int = connection.KEEPALIVE_S) -> Iterator[int]:
    """A device in a process of its own: the id of that process."""
    command = [sys.executable, "-c", DEVICE_ALONE, url, str(keepalive_s)]
    with subprocess.Popen(command) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def test_device_that_is_stopped_beyond_the_keepalive_is_online_again(
    mosquitto: Mosquitto,
) -> None:
    with (
        subscribed(mosquitto.port) as messages,
        another_device(mosquitto.url, keepalive_s=4) as device,
    ):
        messages.next("status", state="online")
        os.kill(device, signal.SIGSTOP)
        stopped = time.monotonic()
        messages.next("status", state="offline")
        # One and a half times the keepalive (MQTT 3.1.2.10), and mosquitto looks now and then.
        assert time.monotonic() - stopped < 4 * 1.5 + 6
        os.kill(device, signal.SIGCONT)
        messages.next("status", state="online")


@pytest.mark.parametrize("after", [700, 1900, 3100, 4300])
def test_connections_that_end_in_the_middle_of_a_message(
    mosquitto: Mosquitto, tmp_path: Path, after: int, _quick: None
) -> None:
    spool = Spool(tmp_path)
    for number in range(30):
        happened = {"type": "worker_ended", "uptime_s": 1.0, "detail": {"ends": number}}
        spool.add(payload(Event, id=f"{number}", **happened))
    spool.close()
    ends: dict[str, int] = {}
    with (
        cutting(mosquitto.port, cuts=3, after=after, upload=True) as proxy,
        subscribed(mosquitto.port) as messages,
        reporting(broker(f"mqtt://127.0.0.1:{proxy.port}"), tmp_path) as device,
    ):
        while len(ends) < 30:
            event, _ = messages.next("event/worker_ended")
            ends.setdefault(event["id"], event["detail"]["ends"])
        eventually(partial(waits, device, 0))
        assert proxy.cuts == 0
        assert retained(mosquitto.port, "status")["state"] == "online"
    assert list(ends.values()) == list(range(30))


def test_a_second_device_of_the_same_id_is_noticed_and_avoided(mosquitto: Mosquitto) -> None:
    with reporting(broker(mosquitto.url)) as device, subscribed(mosquitto.port) as messages:
        messages.next("status", state="online")
        assert "same device_id" not in device.reporter.state.detail
        with another_device(mosquitto.url):
            while "broker" not in (report := messages.next("health")[0])["checks"] or (
                report["checks"]["broker"]["status"] == "ok"
            ):
                pass
            assert "same device_id" in report["checks"]["broker"]["detail"]
            assert "same device_id" in device.reporter.state.detail
            # Each now waits for half a minute before it takes the id back.
            time.sleep(3)
            before = mosquitto.log.count("New client connected")
            time.sleep(8)
            assert mosquitto.log.count("New client connected") - before <= 1


@pytest.mark.parametrize("versions", [connection.VERSIONS, connection.VERSIONS[1:]])
def test_what_the_broker_refuses_is_part_of_the_health(
    tmp_path: Path, versions: tuple[MQTTProtocolVersion, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "VERSIONS", versions)
    rules = tmp_path / "acl"
    rules.write_text(f"topic write {TOPIC}health\ntopic read {TOPIC}#\n")
    options = ("allow_anonymous true", f"acl_file {rules}")
    with running(tmp_path, *options) as mosquitto, reporting(broker(mosquitto.url)):
        with subscribed(mosquitto.port) as messages:
            report, _ = messages.next("health", health="degraded")
        assert f"{TOPIC}status" in report["checks"]["broker"]["detail"]
        assert report["checks"]["model"]["status"] == "ok"


@pytest.mark.parametrize(
    "versions", [connection.VERSIONS, connection.VERSIONS[1:]], ids=["5", "3.1.1"]
)
def test_doctor_tells_what_the_broker_refuses(
    tmp_path: Path, versions: tuple[MQTTProtocolVersion, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "VERSIONS", versions)
    monkeypatch.setattr(doctor, "BROKER_S", 3.0)
    version = "5" if MQTTProtocolVersion.MQTTv5 in versions else "3.1.1"
    rules = tmp_path / "acl"
    rules.write_text(f"topic readwrite {TOPIC}#\n")
    with running(tmp_path, "allow_anonymous true", f"acl_file {rules}") as mosquitto:
        config = RuntimeConfig(mqtt=mosquitto.url, device_id=DEVICE)
        (well,) = doctor.broker(config)
        rules.write_text(f"topic read {TOPIC}#\n")
        mosquitto.stop()
        mosquitto.start()
        (denied,) = doctor.broker(config)
    (down,) = doctor.broker(config)
    assert (well.status, well.found) == ("ok", f"{mosquitto.url}, MQTT {version}")
    assert denied.status == "warn"
    assert f"{TOPIC}doctor" in denied.found
    assert f"{TOPIC}#" in denied.advice
    assert (down.status, down.found) == ("warn", "[Errno 111] Connection refused")


def test_a_corrected_password_needs_no_restart(tmp_path: Path, _quick: None) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, DEVICE, "right"], check=True)
    passwords.chmod(0o644)
    own = tmp_path / "own"
    own.write_text("wrong\n")
    with running(tmp_path, "allow_anonymous false", f"password_file {passwords}") as mosquitto:
        address = broker(mosquitto.url.replace("://", f"://{DEVICE}@"), password_file=own)
        with reporting(address) as device:
            eventually(lambda: "Not authorized" in device.reporter.state.detail)
            own.write_text("right\n")
            eventually(lambda: device.reporter.state.connected)


def tls(
    folder: Path, *more: str, begins_in: float = -1, ends_in: float = 2
) -> tuple[certificates.Certificate, list[str]]:
    """Return a certificate and what mosquitto needs to serve with it."""
    made = certificates.make(folder, begins_in=begins_in, ends_in=ends_in)
    made.key.chmod(0o644)
    return made, [
        "allow_anonymous true",
        f"certfile {made.certificate}",
        f"keyfile {made.key}",
        *more,
    ]


def secure(mosquitto: Mosquitto, **files: Any) -> Broker:
    return broker(mosquitto.url.replace("mqtt://127.0.0.1", "mqtts://localhost"), **files)


# paho leaves a socket whose certificate is refused to be closed by its destructor.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
def test_tls_with_a_private_authority(tmp_path: Path) -> None:
    made, options = tls(tmp_path)
    with running(tmp_path, *options) as mosquitto:
        with reporting(secure(mosquitto, ca_file=made.certificate)) as device:
            eventually(lambda: device.reporter.state.connected)
        with reporting(secure(mosquitto)) as device:
            eventually(lambda: "certificate is refused" in device.reporter.state.detail)


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <s(sl|ocket).:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize(
    ("validity", "reason"),
    [
        ({"begins_in": -2, "ends_in": -1}, "certificate has expired"),
        # As a device sees it whose clock has not been set yet.
        ({"begins_in": 1, "ends_in": 2}, "certificate is not yet valid"),
    ],
    ids=["expired", "clock"],
)
def test_events_wait_until_the_certificate_is_valid(
    validity: dict[str, float], reason: str, tmp_path: Path, _quick: None
) -> None:
    made, options = tls(tmp_path, **validity)
    with (
        running(tmp_path, *options) as mosquitto,
        reporting(secure(mosquitto, ca_file=made.certificate), tmp_path) as device,
    ):
        eventually(lambda: reason in device.reporter.state.detail)
        url = mosquitto.url.replace("mqtt://127.0.0.1", "mqtts://localhost")
        (check,) = doctor.broker(RuntimeConfig(mqtt=url, mqtt_ca_file=made.certificate))
        assert reason in check.found
        mosquitto.stop()
        tls(tmp_path)
        mosquitto.start()
        eventually(lambda: device.reporter.state.connected)
        eventually(lambda: device.spool.state().depth == 0)
    gc.collect()  # the sockets, while their warnings are expected


def test_a_broker_that_wants_a_certificate(tmp_path: Path) -> None:
    made, options = tls(tmp_path)
    options += ["require_certificate true", f"cafile {made.certificate}"]
    with running(tmp_path, *options) as mosquitto:
        with reporting(secure(mosquitto, ca_file=made.certificate)) as device:
            eventually(lambda: "set mqtt_certificate" in device.reporter.state.detail)
        files = {"certificate": made.certificate, "key": made.key}
        with reporting(secure(mosquitto, ca_file=made.certificate, **files)) as device:
            eventually(lambda: device.reporter.state.connected)


def test_websockets(tmp_path: Path) -> None:
    # mosquitto 2.0.11 ends if it has websockets alone, and binds all addresses unless told IPv4.
    plain = Mosquitto(tmp_path)
    options = ("socket_domain ipv4", "protocol websockets", "allow_anonymous true")
    listener = f"listener {plain.port} 127.0.0.1"
    with running(tmp_path, *options, listener) as mosquitto:
        address = broker(mosquitto.url.replace("mqtt://", "ws://"))
        assert address.url.startswith("ws://127.0.0.1")
        with reporting(address) as device:
            eventually(lambda: device.reporter.state.connected)
            eventually(lambda: device.spool.state().depth == 0)


def test_a_certificate_that_expires_soon_is_part_of_the_health(tmp_path: Path) -> None:
    made, options = tls(tmp_path)  # valid for two days
    plain = Mosquitto(tmp_path)
    listener = [f"listener {plain.port} 127.0.0.1"]
    with running(tmp_path, *options, *listener) as mosquitto:
        eventually(plain.listens)
        with (
            reporting(secure(mosquitto, ca_file=made.certificate)),
            subscribed(plain.port) as messages,
        ):
            report, _ = messages.next("health", health="degraded")
        assert "expires on 20" in report["checks"]["certificates"]["detail"]


@pytest.mark.requires("root", "ip")
def test_a_cable_that_is_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _quick: None
) -> None:
    """Neither side hears of it; both notice, and afterwards nothing is lost or told twice."""
    monkeypatch.setattr(connection, "KEEPALIVE_S", 4)
    cable = Cable()
    server, device_side = cable.hosts
    options = ("allow_anonymous true", f"listener 1883 {server.address}")
    address = broker(f"mqtt://{server.address}")
    try:
        with ExitStack() as stack:
            with server.inside():
                mosquitto = stack.enter_context(running(tmp_path, *options))
                messages = stack.enter_context(subscribed(mosquitto.port))
            with device_side.inside():
                device = stack.enter_context(reporting(address, tmp_path))
            messages.next("event/start")
            eventually(partial(waits, device, 0))  # the acknowledgement has come too
            cable.pull()
            pulled = time.monotonic()
            for number in range(1, 4):
                device.status = status(worker_ends=number, last_error=f"crash {number}")
                eventually(partial(waits, device, number))
            messages.next("status", state="offline")
            # One and a half times the keepalive (MQTT 3.1.2.10), and mosquitto looks now and then.
            assert time.monotonic() - pulled < 4 * 1.5 + 6
            eventually(lambda: not device.reporter.state.connected)
            cable.plug()
            ended = [messages.next("event/worker_ended")[0] for _ in range(3)]
            assert [event["detail"]["ends"] for event in ended] == [1, 2, 3]
            eventually(lambda: device.spool.state().depth == 0)
            again = [name for name, _, _ in messages.so_far() if name == "event/worker_ended"]
            assert again == []
            with server.inside():
                assert retained(mosquitto.port, "status")["state"] == "online"
    finally:
        cable.close()
