"""Commands from the broker: each is carried out once, and its topic tells how far it is.

The pattern is thin-edge.io's: a command is a retained message that passes from `init` through
`executing` to `successful` or `failed`. Messages that are not commands are counted, and nothing
is published for them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from device_runtime.mqtt.connection import Incoming
from device_runtime.mqtt.contract import Command, CommandState, Piece
from device_runtime.mqtt.ledger import Lasting, Ledger
from device_runtime.mqtt.payloads import payload

log = logging.getLogger(__name__)

LARGEST = 64 << 10
"""Largest command, bytes."""
AT_ONCE = 16
"""Commands that are carried out at the same time, at most."""
REMEMBERED = 1000
"""Commands of this run whose states are kept, and messages that may wait for the broker."""
WITH_PROMPT = "generate"
"""The verb whose arguments must not stay in the broker."""
LASTING = ("reload", "update", "rollback")
"""Verbs that outlive the service: the next one goes on with them."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

Tell = Callable[[str], None]
"""Function that publishes the next text of an answer."""


class Call(NamedTuple):
    """A command that is being carried out.

    Attributes:
        id: id that its sender gave it.
        key: tells it apart from all others of this device.
        arguments: arguments of the verb.
        tell: publishes the next text of an answer.
        resumed: an earlier run of the service has begun it.
    """

    id: str
    key: str
    arguments: Mapping[str, Any]
    tell: Tell
    resumed: bool = False


Handler = Callable[[Call], Coroutine[Any, Any, dict[str, Any]]]
"""Function that carries a verb out, and returns the result."""


class CommandError(Exception):
    """A command cannot be carried out; the message is the reason."""


class Outgoing(NamedTuple):
    """A message to publish with QoS 1.

    Attributes:
        topic: topic.
        content: payload.
        retain: have the broker keep it for new subscribers.
        correlation: correlation data of MQTT 5; None for none.
    """

    topic: str
    content: bytes
    retain: bool
    correlation: bytes | None = None


class _State(NamedTuple):
    """The last state of a topic's command, and its nonce."""

    nonce: str
    content: bytes


class Commands:
    """The commands of a device. `receive` and `take` belong to the thread of the connection.

    What an earlier run left of the lasting verbs goes on at once.

    Args:
        root: beginning of the device's topics.
        handlers: functions that carry out the verbs that are allowed.
        ledger: names of the commands that were begun; closed by `close`.
        loop: event loop that the functions run in.

    Attributes:
        refused: number of messages that were not carried out.
    """

    def __init__(
        self,
        root: str,
        handlers: Mapping[str, Handler],
        ledger: Ledger,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.refused = 0
        self._root = root
        self._handlers = handlers
        self._ledger = ledger
        self._loop = loop
        self._running: set[str] = set()
        self._states: OrderedDict[str, _State] = OrderedDict()
        self._outgoing: deque[Outgoing] = deque()
        self._lock = threading.Lock()
        for command in ledger.lasting():
            verb = command.topic.removeprefix(f"{root}cmd/").partition("/")[0]
            if verb not in handlers:  # no longer allowed
                ledger.end(command.topic)
                continue
            message = Incoming(command.topic, b"", retained=True)
            self._begin(message, command.nonce, command.arguments, resumed=True)

    @property
    def verbs(self) -> Collection[str]:
        """The verbs that are allowed."""
        return self._handlers.keys()

    def take(self) -> list[Outgoing]:
        """Return the messages to publish, and forget them."""
        with self._lock:
            taken = list(self._outgoing)
            self._outgoing.clear()
        return taken

    def receive(self, message: Incoming) -> None:
        """Take a message of a topic `cmd/<verb>/<id>`: a command, or an own message coming back."""
        verb, _, name = message.topic.removeprefix(f"{self._root}cmd/").partition("/")
        if not message.content:
            self._states.pop(message.topic, None)  # its sender has cleared the topic
            return
        if not _NAME.fullmatch(name) or len(message.content) > LARGEST:
            self.refused += 1
            return
        if self._is_own(message, verb):
            return
        try:
            command = msgspec.json.decode(message.content, type=Command)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.refused += 1
            return
        known = self._states.get(message.topic)
        if known is not None and known.nonce == command.nonce:
            self._publish(message, known.content)
            return
        try:
            self._check(verb, command, message)
        except CommandError as error:
            self.refused += 1
            self._state(message, command.nonce, status="failed", reason=str(error))
            return
        self._begin(message, command.nonce, command.arguments)

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def _is_own(self, message: Incoming, verb: str) -> bool:
        """Return whether a message is of this device; complete what an earlier run left."""
        try:
            state = msgspec.json.decode(message.content, type=CommandState)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if state.status != "executing" and verb in LASTING:
            # Only now the broker has its end: the service may stop at once when that is known.
            self._ledger.end(message.topic)
        if message.retained and state.status == "executing":
            if message.topic in self._states:
                # Its end did not reach the broker.
                self._publish(message, self._states[message.topic].content)
            elif message.topic not in self._running:
                reason = "the device restarted while it carried the command out"
                self._state(message, "", status="failed", reason=reason)
        return True

    def _check(self, verb: str, command: Command, message: Incoming) -> None:
        if verb not in self._handlers:
            allowed = ", ".join(sorted(self._handlers))
            raise CommandError(f"{verb!r} is not allowed here; mqtt_commands allows: {allowed}")
        if verb == WITH_PROMPT and message.retained:
            raise CommandError("a prompt must not be retained")
        expires = command.expires
        if expires is not None and expires.tzinfo is None:
            raise CommandError("expires must have a time zone")
        if expires is not None and expires < datetime.now(UTC):
            raise CommandError(f"the command expired at {expires.isoformat()}")
        if len(self._running) >= AT_ONCE or len(self._outgoing) > REMEMBERED:
            raise CommandError(f"{len(self._running)} commands are being carried out")
        if message.topic in self._running:
            raise CommandError("a command with this id is being carried out")
        lasting = Lasting(message.topic, command.nonce, command.arguments)
        key = f"{message.topic}#{command.nonce}"
        if not self._ledger.begin(key, lasting if verb in LASTING else None):
            raise CommandError("a command with this id was begun before")

    def _begin(
        self, message: Incoming, nonce: str, arguments: Mapping[str, Any], *, resumed: bool = False
    ) -> None:
        verb, _, name = message.topic.removeprefix(f"{self._root}cmd/").partition("/")
        self._running.add(message.topic)
        self._state(message, nonce, status="executing")
        number = 0

        def tell(text: str, last: bool = False) -> None:
            nonlocal number
            content = payload(Piece, index=number, text=text, last=last)
            self._send(Outgoing(f"{self._root}reply/{name}", content, retain=False))
            number += 1

        call = Call(name, f"{message.topic}#{nonce}", arguments, tell, resumed)

        async def carry_out() -> None:
            state: dict[str, Any] = {"status": "successful"}
            try:
                state["result"] = await self._handlers[verb](call)
            except CommandError as error:
                state = {"status": "failed", "reason": str(error)}
            except Exception:
                # Its text may have parts of a prompt: it does not go to the broker.
                log.exception("the command %s failed", verb)
                state = {"status": "failed", "reason": "an error of the device; see its log"}
            if verb == WITH_PROMPT:
                tell("", last=True)
            self._running.discard(message.topic)
            self._state(message, nonce, **state)

        asyncio.run_coroutine_threadsafe(carry_out(), self._loop)

    def _state(self, message: Incoming, nonce: str, **fields: Any) -> None:
        content = payload(CommandState, **fields)
        with self._lock:
            self._states[message.topic] = _State(nonce, content)
            if len(self._states) > REMEMBERED:
                self._states.popitem(last=False)
        self._publish(message, content)

    def _publish(self, message: Incoming, content: bytes) -> None:
        """Publish a state in the command's topic, and where its sender wants it if that is safe."""
        self._send(Outgoing(message.topic, content, retain=True))
        if message.response_topic.startswith(f"{self._root}reply/"):
            self._send(Outgoing(message.response_topic, content, False, message.correlation))

    def _send(self, message: Outgoing) -> None:
        with self._lock:
            self._outgoing.append(message)
