"""A connection to the broker, from CONNECT to its end, driven by calls of `step`.

It tries MQTT 5 first; brokers that support only 3.1.1 reject it, close the connection or never
answer, and get a second attempt with 3.1.1. With MQTT 5 the broker tells what it refuses, and why
it ends a connection.
"""

import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from device_runtime.mqtt.address import Broker

KEEPALIVE_S = 30
CONNECT_TIMEOUT_S = 10.0
VERSIONS = (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311)
"""Versions of the protocol, in the order of the attempts."""
_ANSWER_S = {MQTTProtocolVersion.MQTTv5: 3.0, MQTTProtocolVersion.MQTTv311: 10.0}
"""Timeout of the broker's response to a connection attempt, by version, seconds."""
TICK_S = 0.2
_SESSION_TAKEN_OVER = 0x8E
_UNSUPPORTED_VERSION = "Unsupported protocol version"


class Incoming(NamedTuple):
    """A message of a subscribed topic.

    Attributes:
        topic: topic.
        content: payload.
        retained: it was published before this client subscribed.
        response_topic: topic that MQTT 5's sender wants a response in; empty for none.
        correlation: data to send with it; None for none.
    """

    topic: str
    content: bytes
    retained: bool
    response_topic: str = ""
    correlation: bytes | None = None


class ConnectionLostError(Exception):
    """The connection could not be made, or has ended."""


class ConnectionTakenError(ConnectionLostError):
    """Another client has connected with the same id; not every broker says so."""


class Connection:
    """A connection.

    Args:
        broker: where to connect.
        client_id: name of this client; another with the same name ends this connection.
        will: topic and payload that the broker publishes, retained, if the connection is lost.
        on_message: called, by `step`, for each message of a subscribed topic.

    Attributes:
        version: version of the protocol, once connected.
        refused: what the broker refused, with its reason, by topic.
        expires: end of the validity of the broker's certificate; None without TLS.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        client_id: str,
        will: tuple[str, bytes],
        on_message: Callable[[Incoming], object],
    ) -> None:
        self.version = ""
        self.refused: dict[str, str] = {}
        self.expires: datetime | None = None
        self._broker = broker
        self._client_id = client_id
        self._will = will
        self._on_message = on_message
        self._client: mqtt.Client
        self._answer: ReasonCode | None = None
        self._trouble = ""
        self._taken_over = False
        self._sent: dict[int, tuple[str, Callable[[], object]]] = {}

    def open(self, wanted: Callable[[], bool]) -> None:
        """Connect.

        Args:
            wanted: called several times a second; the attempt ends when it returns False.

        Raises:
            ConnectionLostError: the broker cannot be reached, or refuses.
        """
        for version in VERSIONS:
            self._attempt(version, wanted)
            if not wanted():
                self.close()
                raise ConnectionLostError("stopped")
            if self._answer is not None and self._answer != _UNSUPPORTED_VERSION:
                break
        if self._answer is None:
            raise ConnectionLostError(self._silence())
        if self._answer.is_failure:
            raise ConnectionLostError(f"the broker refuses the connection: {self._answer}")
        self.version = "5" if version == MQTTProtocolVersion.MQTTv5 else "3.1.1"
        self.expires = self._expiry()

    def step(self, timeout_s: float = TICK_S) -> None:
        """Send and receive for a while.

        Raises:
            ConnectionLostError: the connection has ended.
        """
        if self._client.loop(timeout_s) != MQTTErrorCode.MQTT_ERR_SUCCESS:
            if self._taken_over:
                raise ConnectionTakenError("another client has connected with the same id")
            raise ConnectionLostError(self._trouble or "the connection ended")

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        arrived: Callable[[], object] = lambda: None,
        correlation: bytes | None = None,
    ) -> None:
        """Send a message; if the broker refuses it, `refused` says so later.

        Args:
            topic: topic.
            payload: content.
            qos: 0, or 1 for an acknowledgement.
            retain: have the broker keep it for new subscribers.
            arrived: called by `step` when the broker has acknowledged the message.
            correlation: correlation data, which only MQTT 5 has; None for none.
        """
        properties = None
        if correlation is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = correlation
        mid = self._client.publish(topic, payload, qos, retain, properties).mid
        if qos:
            self._sent[mid] = (topic, arrived)

    def subscribe(self, topic: str) -> None:
        """Receive the messages of a topic; if the broker refuses that, `refused` says so later."""
        _, mid = self._client.subscribe(topic, qos=1)
        if mid is not None:
            self._sent[mid] = (topic, lambda: None)

    def unacknowledged(self) -> int:
        """Count the messages that the broker has not acknowledged."""
        return len(self._sent)

    def close(self) -> None:
        """Disconnect; the broker does not publish the will."""
        self._client.disconnect()

    def _attempt(self, version: MQTTProtocolVersion, wanted: Callable[[], bool]) -> None:
        """Connect with a version of the protocol; `_answer` is the broker's answer, if any."""
        self._answer, self._trouble, self._taken_over = None, "", False
        self._client = self._made(version)
        try:
            self._client.connect(self._broker.host, self._broker.port, keepalive=KEEPALIVE_S)
        except ssl.SSLCertVerificationError as error:
            raise ConnectionLostError(
                f"the broker's certificate is refused: {error.verify_message}"
            ) from None
        except (OSError, ValueError) as error:
            # paho raises ValueError for a websocket that another server answers.
            through = self._broker.through
            way = f"through the proxy {through.host}:{through.port}: " if through else ""
            raise ConnectionLostError(f"{way}{str(error).strip()}") from None
        deadline = time.monotonic() + _ANSWER_S[version]
        while self._answer is None and wanted() and time.monotonic() < deadline:
            if self._client.loop(TICK_S) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return

    def _silence(self) -> str:
        """Return why the broker may not have answered.

        With TLS 1.3 a broker learns only after the handshake that there is no certificate. Its
        reason is lost if it is slower to close the connection than this client is to write.
        """
        reason = self._trouble or "no response to MQTT 5 or 3.1.1"
        if self._trouble and self._broker.tls and self._broker.certificate is None:
            reason += "; the broker may want a client certificate: set mqtt_certificate"
        return reason

    def _made(self, version: MQTTProtocolVersion) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if version == MQTTProtocolVersion.MQTTv5 else True,
            protocol=version,
            transport=self._broker.transport,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_log = self._on_log
        client.on_message = self._on_incoming
        if self._broker.through is not None:
            client.proxy_set(**self._broker.through.options())
        if self._broker.path:
            client.ws_set_options(path=self._broker.path)
        if self._broker.username is not None:
            client.username_pw_set(self._broker.username, self._broker.password())
        context = self._broker.tls_context()
        if context is not None:
            client.tls_set_context(context)
        topic, payload = self._will
        client.will_set(topic, payload, qos=1, retain=True)
        return client

    def _on_connect(
        self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _: Any
    ) -> None:
        self._answer = reason

    def _on_disconnect(
        self, _client: Any, _data: Any, flags: mqtt.DisconnectFlags, reason: ReasonCode, _: Any
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._taken_over = reason.value == _SESSION_TAKEN_OVER
            self._trouble = f"the broker ended the connection: {reason}"

    def _on_publish(
        self, _client: Any, _data: Any, mid: int, reason: ReasonCode, _properties: Properties
    ) -> None:
        if mid in self._sent:
            topic, arrived = self._sent.pop(mid)
            if reason.is_failure:
                self.refused[topic] = str(reason)
            else:
                self.refused.pop(topic, None)
                arrived()

    def _on_subscribe(
        self, _client: Any, _data: Any, mid: int, reasons: list[ReasonCode], _: Any
    ) -> None:
        topic, _arrived = self._sent.pop(mid, ("", None))
        for reason in reasons:
            if topic and reason.is_failure:
                self.refused[topic] = str(reason)

    def _on_incoming(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        properties = message.properties
        self._on_message(
            Incoming(
                message.topic,
                bytes(message.payload),
                message.retain,
                getattr(properties, "ResponseTopic", ""),
                getattr(properties, "CorrelationData", None),
            )
        )

    def _on_log(self, _client: Any, _data: Any, level: int, message: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR and not self._trouble:
            self._trouble = message  # later ones only say that there is no connection

    def _expiry(self) -> datetime | None:
        socket = self._client.socket()
        if not isinstance(socket, ssl.SSLSocket):
            return None
        end = (socket.getpeercert() or {}).get("notAfter")
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(end)), UTC) if end else None
