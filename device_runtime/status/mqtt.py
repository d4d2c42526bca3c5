"""Reports over MQTT: whether the device is there, what it runs, how it does.

Topics below `edgepack/v1/<device_id>/`, all payloads JSON objects with `schema`, `ts`, `boot_id`
and `seq`:

- `status`, retained: `state` is `online` or `offline`; the broker itself says `offline` (the
  will) when the device vanishes, in words written when the connection began: the will's `ts` and
  `seq` are of that time;
- `info`, retained: what runs there;
- `telemetry`: the figures, every few seconds.

One thread does all of it, and connects with MQTT 5 first each time; brokers that know only 3.1.1
say so, hang up or fall silent, and are asked again in their own version. While the broker is away
nothing is kept for it.
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
"""How long a broker may take to answer in each version, seconds."""
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
FAREWELL_S = 2.0
"""How long a clean end waits for the broker to take the last message, seconds."""
_TICK_S = 0.2


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    """Where the broker is, and who we are there.

    Attributes:
        password: not part of `repr`, which ends up in logs.
    """

    host: str
    port: int
    tls: bool
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


def broker(url: str, password_file: Path | None = None) -> Broker:
    """Read `mqtt[s]://[user@]host[:port]` and the file with the password.

    Raises:
        ServiceError: what is wrong with them.
    """
    hint = "Give mqtt://HOST[:PORT], or mqtts:// for TLS; with a user, mqtt://USER@HOST."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ServiceError("the MQTT URL is not valid", hint=hint) from None
    if parts.password is not None:
        raise ServiceError(
            "the MQTT URL holds a password, which other users of the machine could read",
            hint="Put it into a file and give --mqtt-password-file.",
        )
    if (
        parts.scheme not in ("mqtt", "mqtts")
        or not parts.hostname
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
    ):
        raise ServiceError(f"{url!r} is no MQTT URL", hint=hint)
    tls = parts.scheme == "mqtts"
    password = None
    if password_file is not None:
        if parts.username is None:
            raise ServiceError("a password needs a user name in the MQTT URL", hint=hint)
        try:
            password = password_file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ServiceError(
                f"cannot read {password_file}: {error}", hint="Give a text file."
            ) from None
    return Broker(
        host=parts.hostname,
        port=port or (8883 if tls else 1883),
        tls=tls,
        username=unquote(parts.username) if parts.username else None,
        password=password,
    )


class _End(Enum):
    """How an attempt to talk to the broker ended."""

    WAS_ONLINE = auto()
    REFUSED = auto()
    OTHER_VERSION = auto()


class MqttReporter:
    """Keeps the broker informed from `start` to `stop`.

    Args:
        where: the broker.
        device_id: part of the topics.
        interval_s: seconds between two telemetry messages.
        snapshot: how everything is; called from this reporter's thread.
        on_failure: called from that thread if it ends before `stop`.
    """

    def __init__(
        self,
        where: Broker,
        *,
        device_id: str,
        interval_s: float,
        snapshot: Callable[[], RuntimeStatus],
        on_failure: Callable[[BaseException], object],
    ) -> None:
        self._broker = where
        self._client_id = f"edgepack-{device_id}"
        self._topic = f"edgepack/v1/{device_id}/"
        self._interval_s = interval_s
        self._snapshot = snapshot
        self._on_failure = on_failure
        self._seq = 0
        self._accepted: ReasonCode | None = None
        self._last_said = ("", "")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def start(self) -> None:
        """Begin; returns at once, whether the broker is there or not."""
        self._thread.start()

    def stop(self) -> None:
        """Say `offline` if connected, and end. Takes at most a few seconds."""
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
            # Not all devices of a site at once.
            self._stopping.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311
            delay = min(2 * delay, LONGEST_DELAY_S)

    def _attempt(self) -> _End:
        for version in (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311):
            try:
                end = self._session(version)
            except OSError as error:
                self._say("broker_away", error)
                return _End.REFUSED
            except Exception as error:
                # Whatever it is, reports must come back by themselves.
                log.exception("reports to the broker failed")
                self._say("mqtt_error", error)
                return _End.REFUSED
            if end is not _End.OTHER_VERSION:
                return end
        self._say("broker_hangs_up", "it answers neither MQTT 5 nor 3.1.1")
        return _End.REFUSED

    def _session(self, version: MQTTProtocolVersion) -> _End:
        """Connect, report until the connection or this reporter ends.

        Raises:
            OSError: the broker is not reachable.
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
            self._say("broker_refuses", self._accepted)
            return _End.REFUSED
        self._say("broker_connected", f"version {'5' if version == 5 else '3.1.1'}", logging.INFO)
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
        while not self._stopping.is_set():
            if time.monotonic() >= due:
                client.publish(self._topic + "telemetry", self._telemetry(), qos=0)
                due = time.monotonic() + self._interval_s
            if client.loop(_TICK_S) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._say("broker_lost", "the connection ended")
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

    def _telemetry(self) -> bytes:
        figures = msgspec.to_builtins(self._snapshot())
        # It is in `info`, and the topic has the device.
        del figures["identity"], figures["device_id"]
        return self._payload(figures)

    def _payload(self, fields: dict[str, Any]) -> bytes:
        self._seq += 1
        head = {"schema": SCHEMA, "ts": now(), "boot_id": BOOT_ID, "seq": self._seq}
        return msgspec.json.encode(head | fields | head)

    def _say(self, name: str, detail: object, level: int = logging.WARNING) -> None:
        """Log what is new, not each attempt."""
        said = (name, str(detail))
        if said != self._last_said:
            event(log, level, name, broker=self._broker, detail=detail)
        self._last_said = said
