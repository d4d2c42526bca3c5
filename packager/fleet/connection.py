"""A connection to the devices' broker that comes back by itself."""

import queue
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from device_runtime.mqtt.address import Broker
from packager.errors import FleetError

CONNECT_S = 15.0
"""Timeout of the broker's answer."""

KEEPALIVE_S = 15
"""Time without a message after which the broker is asked whether it is there: a connection may have
ended while this machine slept."""

FLUSH_S = 10.0
"""Time in which the broker must take the last messages."""

Message = tuple[str, bytes, bool]
"""Topic, content, and whether it was retained."""


class Connection:
    """A connection: messages come in, commands go out."""

    def __init__(self, client: mqtt.Client) -> None:
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._client = client
        self._sent = self._taken = 0
        client.on_message = self._on_message
        client.on_publish = self._on_publish

    @property
    def connected(self) -> bool:
        """There is a connection now, as far as is known."""
        return self._client.is_connected()

    def publish(self, topic: str, content: bytes, *, retain: bool = False) -> None:
        """Publish a message with QoS 1; without a connection, once there is one."""
        self._sent += 1
        self._client.publish(topic, content, qos=1, retain=retain)

    def flush(self) -> None:
        """Wait until the broker has all messages, for a while."""
        deadline = time.monotonic() + FLUSH_S
        while self._taken < self._sent and time.monotonic() < deadline:
            time.sleep(0.01)

    def waiting(self, seconds: float) -> Iterator[Message]:
        """Yield the messages that are there, after waiting so long for the first."""
        try:
            yield self.messages.get(timeout=seconds)
            while True:
                yield self.messages.get_nowait()
        except queue.Empty:
            return

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.messages.put((message.topic, bytes(message.payload), message.retain))

    def _on_publish(self, *_: Any) -> None:
        self._taken += 1


@contextmanager
def connected(broker: Broker, topics: Iterable[str]) -> Iterator[Connection]:
    """Connect, and subscribe to topics; after an outage, connect again.

    Raises:
        FleetError: the broker cannot be reached, or refuses.
    """
    client = mqtt.Client(CallbackAPIVersion.VERSION2, transport=broker.transport)
    connection, answered = Connection(client), threading.Event()
    reasons: list[ReasonCode] = []

    def on_connect(_client: Any, _data: Any, _flags: Any, reason: ReasonCode, _: Any) -> None:
        reasons.append(reason)
        if not reason.is_failure:
            # With QoS 1, a broker queues some messages only (mosquitto 1,000) and drops the others:
            # most of what thousands of devices retain. TCP keeps what it has sent.
            client.subscribe([(topic, 0) for topic in topics])
        answered.set()

    client.on_connect = on_connect
    if broker.path:
        client.ws_set_options(path=broker.path)
    if broker.username is not None:
        client.username_pw_set(broker.username, broker.password())
    context = broker.tls_context()
    if context is not None:
        client.tls_set_context(context)
    try:
        client.connect(broker.host, broker.port, KEEPALIVE_S)
    except (OSError, ValueError) as error:
        reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error
        raise FleetError(
            f"cannot connect to {broker.url}: {reason}", hint="Check the address, and the broker."
        ) from None
    client.loop_start()
    try:
        if not answered.wait(CONNECT_S):
            raise FleetError(f"{broker.url} does not answer", hint="Is it an MQTT broker?")
        if reasons[0].is_failure:
            raise FleetError(
                f"{broker.url} refuses the connection: {reasons[0]}",
                hint="Give a user in the URL and --mqtt-password-file, or --mqtt-certificate.",
            )
        yield connection
    finally:
        if client.disconnect() == MQTTErrorCode.MQTT_ERR_SUCCESS:
            client.loop_stop()
