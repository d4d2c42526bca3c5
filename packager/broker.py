"""An MQTT broker in this process, for a demo without an external broker."""

import asyncio
import logging
import socket
import threading
from types import TracebackType

from packager.errors import ResourceError


class EmbeddedBroker:
    """An amqtt broker on a free port of the loopback interface, in a separate thread.

    Attributes:
        url: URL of the broker, `mqtt://127.0.0.1:PORT`.
    """

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.url = f"mqtt://{self._address}"
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)

    def __enter__(self) -> "EmbeddedBroker":
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            raise ResourceError(
                f"the demo's MQTT broker failed to start: {self._error}",
                hint="Use a broker of your own: edgepack demo --mqtt mqtt://HOST:PORT",
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:
            self._error = error
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        from amqtt.broker import Broker

        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        broker = Broker(
            {
                "listeners": {"default": {"type": "tcp", "bind": self._address}},
                "plugins": {
                    "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
                },
            }
        )
        await broker.start()
        self._started.set()
        await self._stop.wait()
        await broker.shutdown()
