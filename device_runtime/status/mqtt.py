"""Reports over MQTT: presence, identity and telemetry of the device.

Topics below `edgepack/v1/<device_id>/`; all payloads are JSON objects with `schema`, `ts`,
`boot_id` and `seq`:

- `status`, retained: `state` is `online` or `offline`. If the device vanishes, the broker itself
  publishes `offline` (the will), whose `ts` and `seq` date from the start of the connection;
- `info`, retained: the identity of release and program;
- `update`, retained: the latest update, on trial, committed or rolled back with the reason;
- `telemetry`: the measurements, every few seconds.

A single thread does all of this. It tries MQTT 5 first on each connection; brokers that support
only 3.1.1 reject it, close the connection or never answer, and get a second attempt with 3.1.1.
While the broker is unreachable, reports are dropped, not queued.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from device_runtime.errors import ServiceError
from device_runtime.logs import event
from device_runtime.status.report import BOOT_ID, SCHEMA, RuntimeStatus, now

log = logging.getLogger(__name__)

KEEPALIVE_S = 30
CONNECT_TIMEOUT_S = 10.0
_ANSWER_S = {MQTTProtocolVersion.MQTTv5: 3.0, MQTTProtocolVersion.MQTTv311: 10.0}
"""Timeout of the broker's response to a connection attempt, by version, seconds."""
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
FAREWELL_S = 2.0
"""Timeout of the broker's acknowledgement of the last message, seconds."""
_TICK_S = 0.2


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    """Address of the broker, and the credentials for it.

    Attributes:
        host: name or address.
        port: TCP port.
        tls: whether to connect over TLS.
        username: name of the user; None for none.
        password: password of the user, None for none; not part of `repr`, which ends up in logs.
    """

    host: str
    port: int
    tls: bool
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


def broker(url: str, password_file: Path | None = None) -> Broker:
    """Parse `mqtt[s]://[user@]host[:port]`, and read the file with the password.

    Raises:
        ServiceError: the URL is invalid, or the file cannot be read.
    """
    hint = "Use mqtt://HOST[:PORT], or mqtts:// for TLS; with a user, mqtt://USER@HOST."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ServiceError("the MQTT URL is not valid", hint=hint) from None
    if parts.password is not None:
        raise ServiceError(
            "the MQTT URL contains a password, which other users of the machine could read",
            hint="Put it into a file and pass --mqtt-password-file.",
        )
    if (
        parts.scheme not in ("mqtt", "mqtts")
        or not parts.hostname
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
    ):
        raise ServiceError(f"{url!r} is not an MQTT URL", hint=hint)
    tls = parts.scheme == "mqtts"
    password = None
    if password_file is not None:
        if parts.username is None:
            raise ServiceError("a password requires a user name in the MQTT URL", hint=hint)
        try:
            password = password_file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ServiceError(
                f"cannot read {password_file}: {error}", hint="Use a text file."
            ) from None
    return Broker(
        host=parts.hostname,
        port=port or (8883 if tls else 1883),
        tls=tls,
        username=unquote(parts.username) if parts.username else None,
        password=password,
    )


class _End(Enum):
    """Result of a connection attempt."""

    WAS_ONLINE = auto()
    REFUSED = auto()
    OTHER_VERSION = auto()


class MqttReporter:
    """Reports to the broker from `start` to `stop`.

    Args:
        address: the broker.
        device_id: name of the device in the topics.
        interval_s: seconds between telemetry messages.
        snapshot: returns the current status; called from this reporter's thread.
        on_failure: called from that thread if it ends before `stop`.
    """

    def __init__(
        self,
        address: Broker,
        *,
        device_id: str,
        interval_s: float,
        snapshot: Callable[[], RuntimeStatus],
        on_failure: Callable[[BaseException], object],
    ) -> None:
        self._broker = address
        self._client_id = f"edgepack-{device_id}"
        self._topic = f"edgepack/v1/{device_id}/"
        self._interval_s = interval_s
        self._snapshot = snapshot
        self._on_failure = on_failure
        self._seq = 0
        self._accepted: ReasonCode | None = None
        self._last_logged = ("", "")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once, even if the broker is unreachable."""
        self._thread.start()

    def stop(self) -> None:
        """Publish `offline` if connected, and end. Takes at most a few seconds."""
        self._stopping.set()
        self._thread.join(FAREWELL_S + 1)

    def _run(self) -> None:
        try:
            self._keep_reporting()
        except BaseException as error:
            self._on_failure(error)

    def _keep_reporting(self) -> None:
        delay = FIRST_DELAY_S
        while not self._stopping.is_set():
            if self._attempt() is _End.WAS_ONLINE:
                delay = FIRST_DELAY_S
            # Jitter, so that the devices of a site do not reconnect all at once.
            self._stopping.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311
            delay = min(2 * delay, LONGEST_DELAY_S)

    def _attempt(self) -> _End:
        for version in (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311):
            try:
                end = self._session(version)
            except OSError as error:
                self._log_change("broker_away", error)
                return _End.REFUSED
            except Exception as error:
                # Whatever failed, reports must resume by themselves.
                log.exception("reports to the broker failed")
                self._log_change("mqtt_error", error)
                return _End.REFUSED
            if end is not _End.OTHER_VERSION:
                return end
        self._log_change("broker_hangs_up", "no response to MQTT 5 or 3.1.1")
        return _End.REFUSED

    def _session(self, version: MQTTProtocolVersion) -> _End:
        """Connect, and report until the connection or this reporter ends.

        Raises:
            OSError: the broker is unreachable.
        """
        client = self._client(version)
        self._accepted = None
        client.connect(self._broker.host, self._broker.port, keepalive=KEEPALIVE_S)
        deadline = time.monotonic() + _ANSWER_S[version]
        alive = True
        while alive and self._accepted is None and not self._stopping.is_set():
            alive = client.loop(_TICK_S) == MQTTErrorCode.MQTT_ERR_SUCCESS
            alive = alive and time.monotonic() < deadline
        if self._stopping.is_set():
            client.disconnect()
            return _End.REFUSED
        if self._accepted is None or self._accepted == "Unsupported protocol version":
            return _End.OTHER_VERSION
        if self._accepted.is_failure:
            self._log_change("broker_refuses", self._accepted)
            return _End.REFUSED
        self._log_change(
            "broker_connected", f"version {'5' if version == 5 else '3.1.1'}", logging.INFO
        )
        self._report(client)
        return _End.WAS_ONLINE

    def _client(self, version: MQTTProtocolVersion) -> mqtt.Client:
        five = version == MQTTProtocolVersion.MQTTv5
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if five else True,
            protocol=version,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.on_connect = self._on_connect
        if self._broker.username is not None:
            client.username_pw_set(self._broker.username, self._broker.password)
        if self._broker.tls:
            client.tls_set()
        client.will_set(self._topic + "status", self._state("offline"), qos=1, retain=True)
        return client

    def _on_connect(
        self,
        client: mqtt.Client,
        data: Any,
        flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._accepted = reason

    def _report(self, client: mqtt.Client) -> None:
        client.publish(self._topic + "status", self._state("online"), qos=1, retain=True)
        client.publish(self._topic + "info", self._info(), qos=1, retain=True)
        due = time.monotonic()
        update = None
        while not self._stopping.is_set():
            if time.monotonic() >= due:
                status = self._snapshot()
                client.publish(self._topic + "telemetry", self._telemetry(status), qos=0)
                if status.update != update:
                    update = status.update
                    payload = self._payload(msgspec.to_builtins(update))
                    client.publish(self._topic + "update", payload, qos=1, retain=True)
                due = time.monotonic() + self._interval_s
            if client.loop(_TICK_S) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._log_change("broker_lost", "the connection ended")
                return
        last = client.publish(self._topic + "status", self._state("offline"), qos=1, retain=True)
        deadline = time.monotonic() + FAREWELL_S
        while not last.is_published() and time.monotonic() < deadline:
            if client.loop(_TICK_S) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return
        client.disconnect()

    def _state(self, state: str) -> bytes:
        return self._payload({"state": state})

    def _info(self) -> bytes:
        return self._payload(msgspec.to_builtins(self._snapshot().identity))

    def _telemetry(self, status: RuntimeStatus) -> bytes:
        fields = msgspec.to_builtins(status)
        # `info` has the identity, and the topic has the device.
        del fields["identity"], fields["device_id"]
        return self._payload(fields)

    def _payload(self, fields: dict[str, Any]) -> bytes:
        self._seq += 1
        head = {"schema": SCHEMA, "ts": now(), "boot_id": BOOT_ID, "seq": self._seq}
        return msgspec.json.encode(head | fields | head)

    def _log_change(self, name: str, detail: object, level: int = logging.WARNING) -> None:
        """Log an event unless it repeats the last one: not every attempt gets a line."""
        current = (name, str(detail))
        if current != self._last_logged:
            event(log, level, name, broker=self._broker, detail=detail)
        self._last_logged = current
