"""Messages over one connection to the broker, from `online` to `offline`."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from device_runtime.mqtt import health
from device_runtime.mqtt.backoff import Backoff
from device_runtime.mqtt.commands import Commands
from device_runtime.mqtt.connection import Connection, Incoming
from device_runtime.mqtt.contract import (
    DeviceHealth,
    Event,
    Finding,
    Info,
    Status,
    Telemetry,
    Update,
)
from device_runtime.mqtt.payloads import payload
from device_runtime.mqtt.spool import Spool
from device_runtime.status.report import BOOT_ID, RuntimeStatus, uptime_s

FAREWELL_S = 2.0
"""Timeout of the broker's acknowledgement of the last messages, seconds."""
LATE_S = 10.0
"""Age of an event from which on it is marked as historical, seconds."""
LOOK_S = 1.0
"""Time between two looks at the status."""
HEALTH_S = 60.0
"""Time after which the health is published again although it is the same."""
BATCH = 20
"""Events on their way to the broker at once."""
ECHO_S = 5.0
"""Timeout of the device's own status, which it receives as well."""
UNHEARD = "it does not come back"


class Session:
    """One connection's messages.

    Args:
        connection: the connection, open.
        root: beginning of the device's topics.
        number: number of the connection.
        interval_s: seconds between telemetry messages.
        spool: events that wait for the broker.
        snapshot: returns the current status.
        backoff: takes notice of another client with the same id.
        commands: carries out commands; None for none.
        discovery: topic and content of a retained message about the device; None for none.
        announced: this run has been `online` before.

    Attributes:
        announced: this run has been `online`.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        root: str,
        number: int,
        interval_s: float,
        spool: Spool,
        snapshot: Callable[[], RuntimeStatus],
        backoff: Backoff,
        commands: Commands | None,
        discovery: tuple[str, bytes] | None,
        announced: bool,
    ) -> None:
        self.announced = announced
        self._connection = connection
        self._root = root
        self._number = number
        self._interval_s = interval_s
        self._spool = spool
        self._snapshot = snapshot
        self._backoff = backoff
        self._commands = commands
        self._discovery = discovery
        self._opened = time.monotonic()
        self._heard = False
        self._sent = 0
        self._published: dict[str, object] = {}
        self._health_due = self._telemetry_due = self._opened

    def run(self, wanted: Callable[[], bool]) -> None:
        """Report until `wanted` returns False, then say goodbye.

        Raises:
            ConnectionLostError: the connection ended before that.
        """
        self._connection.subscribe(self._root + "status")
        if self._commands is not None:
            self._connection.subscribe(self._root + "cmd/+/+")
        self._state("online")
        if self._discovery is not None:
            topic, content = self._discovery
            self._connection.publish(topic, content, retain=True)
        look = self._opened
        while wanted():
            if time.monotonic() >= look:
                self._look(self._snapshot())
                look = time.monotonic() + LOOK_S
            self._send_events()
            self._send_states()
            self._connection.step()
        self._send_events()
        self._state("offline")
        deadline = time.monotonic() + FAREWELL_S
        while self._connection.unacknowledged() and time.monotonic() < deadline:
            self._connection.step()
            self._send_events()
        self._connection.close()

    def receive(self, message: Incoming) -> None:
        """Take a message of a subscribed topic."""
        if message.topic == self._root + "status":
            self._receive_status(message)
        elif self._commands is not None:
            self._commands.receive(message)

    def _receive_status(self, message: Incoming) -> None:
        """Take the device's own status.

        A broker that gives up on an earlier connection late publishes its will, `offline`, over
        the newer `online`. And the retained status is that of another run only if another device
        has connected with this one's id since this one did.
        """
        self._heard = True
        try:
            status = msgspec.json.decode(message.content, type=Status)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            status = None
        own = status is not None and status.boot_id == BOOT_ID
        if message.retained:
            if not own and self.announced:
                self._backoff.notice_conflict()
            return
        self.announced |= own
        if not own or (status is not None and status.session != self._number):
            self._state("online")

    def _state(self, state: str) -> None:
        self._retain("status", payload(Status, state=state, session=self._number))

    def _retain(self, name: str, content: bytes) -> None:
        self._connection.publish(self._root + name, content, retain=True)

    def _look(self, status: RuntimeStatus) -> None:
        """Publish what has changed, and what is due."""
        at = time.monotonic()
        if self._published.get("info") != status.processor:
            self._published["info"] = status.processor
            verbs = tuple(sorted(self._commands.verbs)) if self._commands is not None else ()
            info = payload(
                Info, identity=status.identity, processor=status.processor, commands=verbs
            )
            self._retain("info", info)
        if self._published.get("update") != status.update:
            self._published["update"] = status.update
            self._retain("update", payload(Update, update=status.update))
        checks = self._checks(status)
        if self._published.get("health") != checks or at >= self._health_due:
            self._published["health"] = checks
            self._health_due = at + HEALTH_S
            report = payload(DeviceHealth, health=health.worst(checks), checks=checks)
            self._retain("health", report)
        if at >= self._telemetry_due:
            self._telemetry_due = at + self._interval_s
            self._connection.publish(self._root + "telemetry", self._telemetry(status), qos=0)

    def _checks(self, status: RuntimeStatus) -> Mapping[str, Finding]:
        refused = dict(self._connection.refused)
        if not self._heard and time.monotonic() > self._opened + ECHO_S:
            # Brokers with MQTT 3.1.1 drop what they refuse without a word.
            refused.setdefault(self._root + "status", UNHEARD)
        return health.findings(status) | health.link(
            conflict=self._backoff.conflict,
            refused=refused,
            expires=self._connection.expires,
            spool=self._spool.failure,
        )

    def _telemetry(self, status: RuntimeStatus) -> bytes:
        names = {field.name for field in msgspec.structs.fields(Telemetry)}
        fields = msgspec.structs.asdict(status)
        own = {name: value for name, value in fields.items() if name in names}
        for head in ("schema", "ts", "boot_id"):
            del own[head]
        refused = self._commands.refused if self._commands is not None else 0
        return payload(Telemetry, **own, spool=self._spool.state(), commands_refused=refused)

    def _send_states(self) -> None:
        """Send how far commands are, and answers."""
        for message in self._commands.take() if self._commands is not None else ():
            self._connection.publish(
                message.topic,
                message.content,
                retain=message.retain,
                correlation=message.correlation,
            )

    def _send_events(self) -> None:
        """Send the events that wait, a few at a time."""
        room = BATCH - self._connection.unacknowledged()
        if room <= 0 or self._sent >= self._spool.last:
            return
        for number, content in self._spool.after(self._sent, room):
            happened = msgspec.json.decode(content, type=Event)
            age_s = uptime_s() - happened.uptime_s
            if happened.boot_id != BOOT_ID or age_s > LATE_S:
                happened = msgspec.structs.replace(happened, historical=True)
            self._connection.publish(
                f"{self._root}event/{happened.type}",
                msgspec.json.encode(happened),
                arrived=partial(self._spool.remove, number),
            )
            self._sent = number
