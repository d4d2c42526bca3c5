"""The reporter: keeps a connection to the broker, and notes events whether there is one or not."""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from device_runtime.errors import ServiceError
from device_runtime.logs import event
from device_runtime.mqtt import contract, events
from device_runtime.mqtt.address import Broker
from device_runtime.mqtt.backoff import Backoff
from device_runtime.mqtt.commands import Commands
from device_runtime.mqtt.connection import Connection, ConnectionLostError, ConnectionTakenError
from device_runtime.mqtt.contract import Event, EventType, Status
from device_runtime.mqtt.payloads import payload
from device_runtime.mqtt.session import FAREWELL_S, Session
from device_runtime.mqtt.spool import Spool
from device_runtime.status.report import MqttState, RuntimeStatus, uptime_s

log = logging.getLogger(__name__)

STUCK_S = 60.0
"""Time without a step of the connection after which it is stuck; a step takes a fraction of one."""
WATCH_S = 1.0
"""Time between two looks at the status for events."""


class Reporter:
    """Reports to the broker from `start` to `stop`.

    Args:
        broker: where to connect.
        device_id: name of the device in the topics.
        interval_s: seconds between telemetry messages.
        spool: events that wait for the broker; closed by `stop`.
        snapshot: returns the current status; called from threads of this reporter.
        on_failure: called from such a thread if it ends before `stop`.
        commands: carries out commands, closed by `stop`; None for a device that takes none.
        discovery: topic and content of a retained message about the device; None for none.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        device_id: str,
        interval_s: float,
        spool: Spool,
        snapshot: Callable[[], RuntimeStatus],
        on_failure: Callable[[BaseException], object],
        commands: Commands | None = None,
        discovery: tuple[str, bytes] | None = None,
    ) -> None:
        self._broker = broker
        self._client_id = f"edgepack-{device_id}"
        self._root = contract.root(device_id)
        self._interval_s = interval_s
        self._spool = spool
        self._snapshot = snapshot
        self._on_failure = on_failure
        self._commands = commands
        self._discovery = discovery
        self._backoff = Backoff()
        self._state = MqttState(broker=broker.url, connected=False, detail="not yet connected")
        self._stopping = threading.Event()
        self._noted_all = threading.Event()
        self._announced = False
        self._stepped = time.monotonic()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            for name, work in (("events", self._keep_watching), ("mqtt", self._keep_connected))
        ]

    @property
    def state(self) -> MqttState:
        """The connection at this moment."""
        if not self._backoff.conflict:
            return self._state
        detail = f"{self._state.detail}; another device has the same device_id"
        return msgspec.structs.replace(self._state, detail=detail)

    @property
    def stuck(self) -> bool:
        """True if the connection makes no progress, as with a disk that does not answer."""
        return self._state.connected and time.monotonic() > self._stepped + STUCK_S

    def start(self) -> None:
        """Start the threads; returns at once, even if the broker is unreachable."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Publish `offline` if connected, and end. Takes at most a few seconds."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(FAREWELL_S + 1)
        self._spool.close()
        if self._commands is not None:
            self._commands.close()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._on_failure(error)

    def _keep_watching(self) -> None:
        """Note events as they happen: in a thread of its own, as connecting takes a while."""
        before = self._snapshot()
        self._note("start", {"release": before.identity.release})
        stopping = False
        while not stopping:
            stopping = self._stopping.wait(WATCH_S)
            status = self._snapshot()
            for kind, detail in events.since(before, status):
                self._note(kind, detail)
            before = status
        self._note("stop", {})
        self._noted_all.set()

    def _note(self, kind: EventType, detail: dict[str, Any]) -> None:
        happened = {"type": kind, "uptime_s": uptime_s(), "detail": detail}
        self._spool.add(payload(Event, id=secrets.token_hex(8), **happened))

    def _keep_connected(self) -> None:
        """Connect, report until the connection ends, wait, connect again."""
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                self._report()
            except (ConnectionLostError, ServiceError) as error:
                reason = str(error)
                if isinstance(error, ConnectionTakenError):
                    self._backoff.notice_conflict()
            except Exception as error:
                # Whatever failed, reports must resume by themselves.
                log.exception("reports to the broker failed")
                reason = repr(error)
            else:
                return
            self._became(connected=False, detail=reason)
            lasted_s = time.monotonic() - started
            self._stopping.wait(self._backoff.next_s(lasted_s))

    def _report(self) -> None:
        """Connect, and report until `stop`.

        Raises:
            ConnectionLostError: the broker cannot be reached, or the connection has ended.
            ServiceError: a file with credentials cannot be used.
        """
        number = self._spool.next_session()
        connection = Connection(
            self._broker,
            client_id=self._client_id,
            will=(self._root + "status", payload(Status, state="offline", session=number)),
            on_message=lambda message: session.receive(message),
        )
        connection.open(lambda: not self._stopping.is_set())
        self._stepped = time.monotonic()
        self._became(connected=True, detail=f"version {connection.version}")
        session = Session(
            connection,
            root=self._root,
            number=number,
            interval_s=self._interval_s,
            spool=self._spool,
            snapshot=self._snapshot,
            backoff=self._backoff,
            commands=self._commands,
            discovery=self._discovery,
            announced=self._announced,
        )
        try:
            session.run(self._goes_on)
        finally:
            self._announced = session.announced

    def _goes_on(self) -> bool:
        """Note a step of the connection; return whether there shall be another."""
        self._stepped = time.monotonic()
        return not self._noted_all.is_set()

    def _became(self, *, connected: bool, detail: str) -> None:
        """Keep the state; log it unless it repeats the last one: not every attempt gets a line."""
        state = MqttState(broker=self._broker.url, connected=connected, detail=detail)
        if state != self._state:
            level = logging.INFO if connected else logging.WARNING
            name = "broker_connected" if connected else "broker_away"
            event(log, level, name, broker=state.broker, detail=detail)
        self._state = state
