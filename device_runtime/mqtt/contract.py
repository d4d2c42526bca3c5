"""Topics and payloads of the reports. docs/mqtt.md is made of these structs.

All topics are below `edgepack/v1/<device>/`. Payloads are JSON objects. Fields may be added without
raising `schema`, and readers must ignore those that they do not know.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from device_runtime.config.option import VERBS as ALLOWABLE
from device_runtime.heartbeat import SelfCheck
from device_runtime.status.board import Board
from device_runtime.status.report import Figure, Identity, Requests
from device_runtime.update.outcome import UpdateState
from device_runtime.worker.health import Health
from device_runtime.worker.placement import ProcessorState

SCHEMA = 1

Count = Annotated[int, Meta(ge=0)]


def root(device_id: str) -> str:
    """Return the beginning of a device's topics."""
    return f"edgepack/v1/{device_id}/"


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """Head of all payloads.

    Attributes:
        schema: version of the payload.
        ts: time of the message, RFC 3339 in UTC. The clock of a device may be wrong after a power
            cut: within a boot_id, `seq` orders messages.
        boot_id: identifier of this run of the service.
        seq: number of the message in this run.
    """

    schema: int = SCHEMA
    ts: str
    boot_id: str
    seq: Count


class Status(Payload, frozen=True, kw_only=True):
    """Presence of the device. Retained; the broker publishes `offline` by itself (the
    will) if the connection is lost.

    Attributes:
        state: `online` or `offline`.
        session: number of the connection; of two messages, that of the higher session is right.
    """

    state: Literal["online", "offline"]
    session: Count


class Info(Payload, frozen=True, kw_only=True):
    """Identity of the device. Retained; published for each connection, and on a change.

    Attributes:
        identity: the running release and program.
        processor: the processor that the model runs on, and why.
        commands: verbs that the device carries out.
    """

    identity: Identity
    processor: ProcessorState = ProcessorState()
    commands: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a check.

    Attributes:
        status: `failed` keeps the device from answering, `degraded` may, or hides what it does.
        detail: what was found; empty if that is `ok`.
    """

    status: Literal["ok", "degraded", "failed"]
    detail: str = ""


class DeviceHealth(Payload, frozen=True, kw_only=True):
    """Health of the device. Retained; published on each change and every minute.

    Attributes:
        health: the worst of all checks.
        checks: the checks by name.
    """

    health: Literal["ok", "degraded", "failed"]
    checks: dict[str, Finding]


class Update(Payload, frozen=True, kw_only=True):
    """The latest update of the device. Retained; published on each change.

    Attributes:
        update: the update.
    """

    update: UpdateState


class SpoolState(msgspec.Struct, frozen=True, kw_only=True):
    """Events that wait for the broker.

    Attributes:
        depth: number of events that wait.
        dropped: number of events that were dropped since the spool was made, as it was full.
    """

    depth: Count
    dropped: Count


class Telemetry(Payload, frozen=True, kw_only=True):
    """Measurements, every `status_interval_s` seconds. Not retained, QoS 0.

    Attributes:
        health: state of the inference process.
        uptime_s: seconds since the service started.
        queue_length: number of requests in the queue.
        running: number of requests being answered.
        requests: number of requests since the start, by outcome.
        tokens_per_s: decode speed.
        first_token_s: seconds from the start of work on a request to its first token.
        worker_restarts: number of restarts of the inference process.
        last_error: reason why the inference process last ended; empty if it never did.
        compute_share: share of the time in which the model computes: 1, or less in the heat.
        self_check: result of the check before the service was ready.
        memory_bytes: resident memory of both processes.
        worker_memory_bytes: resident memory of the inference process alone.
        board: measurements of the machine.
        spool: events that wait for the broker.
        commands_refused: number of messages in the topics of commands that were not carried out.
    """

    health: Health
    uptime_s: float
    queue_length: Count
    running: Count
    requests: Requests
    tokens_per_s: Figure
    first_token_s: Figure
    worker_restarts: Count
    last_error: str
    compute_share: float
    self_check: SelfCheck | None
    memory_bytes: Count
    worker_memory_bytes: Count
    board: Board
    spool: SpoolState
    commands_refused: Count


EventType = Literal[
    "start",
    "ready",
    "unloaded",
    "stop",
    "worker_ended",
    "processor",
    "damaged",
    "update",
    "pace",
    "throttled",
    "under_voltage",
]


class Event(Payload, frozen=True, kw_only=True):
    """Something that happened, in the topic `event/<type>`. QoS 1, not retained; kept until the
    broker has acknowledged it, and published again where it is not known whether it has arrived.

    Attributes:
        id: identifier of the event: of several messages with the same, all but one are copies.
        type: what happened.
        uptime_s: seconds since the service started.
        historical: it arrives late, since the broker or the device was away.
        detail: more about it; the fields depend on the type.
    """

    id: str
    type: EventType
    uptime_s: float
    historical: bool = False
    detail: dict[str, Any] = {}


VERBS = ("ping", *ALLOWABLE)
"""Verbs of commands."""


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A command for the device, in the topic `cmd/<verb>/<id>`. Best published retained: a device
    that is away carries it out when it is back. One with a prompt must not be retained.

    The sender chooses the id, and clears the topic (an empty retained message) once it has read the
    outcome. A command is carried out once: an id that the device knows is refused.

    Attributes:
        status: `init`; the device's own messages in the topic have others.
        nonce: text that tells apart the commands of senders that have one topic only.
        expires: time from which on the command is refused, RFC 3339.
        arguments: arguments of the verb.
    """

    status: Literal["init"]
    nonce: Annotated[str, Meta(max_length=64)] = ""
    expires: datetime | None = None
    arguments: dict[str, Any] = {}


class CommandState(Payload, frozen=True, kw_only=True):
    """Progress of a command, in its topic, over the command itself. Retained. With MQTT 5 it also
    goes to the response topic, with the correlation data, if that is below the device's `reply/`.

    Attributes:
        status: `executing`, then `successful` or `failed`.
        reason: reason why it failed; empty if it did not.
        result: what the verb returns.
    """

    status: Literal["executing", "successful", "failed"]
    reason: str = ""
    result: dict[str, Any] = {}


class Piece(Payload, frozen=True, kw_only=True):
    """A piece of the answer to `generate`, in the topic `reply/<id>`. QoS 1, not retained.

    Attributes:
        index: number of the piece, from 0.
        text: text of the answer that follows that of the piece before.
        last: the answer ends with this piece.
    """

    index: Count
    text: str
    last: bool


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A topic.

    Attributes:
        payload: the device's messages there.
        received: others' messages there, which the device receives; None for none.
        qos: quality of service.
        retained: new subscribers get the last message.
        when: when a message is published.
    """

    payload: type[Payload]
    received: type[msgspec.Struct] | None = None
    qos: Literal[0, 1]
    retained: bool
    when: str


CHANNELS = {
    "status": Channel(
        payload=Status,
        qos=1,
        retained=True,
        when="`online` on connecting; `offline` when the service stops, or by the broker's will",
    ),
    "info": Channel(
        payload=Info, qos=1, retained=True, when="on connecting, and with another processor"
    ),
    "health": Channel(
        payload=DeviceHealth, qos=1, retained=True, when="on each change, and every minute"
    ),
    "update": Channel(payload=Update, qos=1, retained=True, when="on connecting, on each change"),
    "telemetry": Channel(
        payload=Telemetry, qos=0, retained=False, when="every `status_interval` seconds"
    ),
    "event/{type}": Channel(
        payload=Event, qos=1, retained=False, when="as it happens, or once the broker is back"
    ),
    "cmd/{verb}/{id}": Channel(
        payload=CommandState,
        received=Command,
        qos=1,
        retained=True,
        when="when a command begins, and when it ends",
    ),
    "reply/{id}": Channel(
        payload=Piece, qos=1, retained=False, when="while an answer to `generate` is generated"
    ),
}
"""All topics, below the device's root."""
