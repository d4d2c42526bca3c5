"""The service: startup, serve, shutdown."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

import device_runtime
from device_runtime.bundle import Release
from device_runtime.http_server import Api
from device_runtime.listener import Server, bind, is_loopback, url_of
from device_runtime.mqtt_status import Broker, MqttReporter
from device_runtime.status import (
    BOOT_ID,
    Figures,
    Identity,
    RuntimeStatus,
    now,
    resident_bytes,
    temperature_c,
    uptime_s,
)
from device_runtime.supervisor import Supervisor, worker_command

log = logging.getLogger(__name__)

DRAIN_S = 10
"""How long running answers may go on after the service was told to stop, seconds."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How to serve.

    Attributes:
        listen: `host:port`.
        broker: where to report; None for no reports.
        device_id: name of this device in reports.
        status_interval_s: seconds between two reports of the figures.
        announce: called with the URL as soon as it answers.
    """

    listen: str
    broker: Broker | None
    device_id: str
    status_interval_s: float
    announce: Callable[[str], None]


class Service:
    """One release, served until a signal."""

    def __init__(self, release: Release, options: ServeOptions) -> None:
        manifest = release.manifest
        self._options = options
        self._figures = Figures()
        self._identity = Identity(
            model=manifest.model.name,
            release=release.digest,
            version=manifest.version,
            profile=manifest.profile,
            kit=manifest.kit.name if manifest.kit else None,
            runtime=device_runtime.__version__,
        )
        self._supervisor = Supervisor(
            worker_command(release.model_folder, manifest.context_length, manifest.settings.threads)
        )
        api = Api(
            self._supervisor, self._figures, self.status, max_tokens=manifest.settings.max_tokens
        )
        self._server = Server(api.app(), self._on_started)
        self._socket: socket.socket | None = None
        self._reporter: MqttReporter | None = None

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ResourceError: the address is taken.
            EngineError: the model does not load.
        """
        try:
            self.startup()
            await self.serve()
        finally:
            await self.shutdown()

    def startup(self) -> None:
        """Take the address, and start to report."""
        self._socket = bind(self._options.listen)
        if not is_loopback(self._socket):
            log.warning(
                "event=open_to_network url=%s detail='anyone who reaches this address can use the "
                "model: there is no authentication'",
                url_of(self._socket),
            )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        if self._options.broker is not None:
            self._reporter = MqttReporter(
                self._options.broker,
                device_id=self._options.device_id,
                interval_s=self._options.status_interval_s,
                snapshot=self.status,
            )
            self._reporter.start()

    async def serve(self) -> None:
        """Answer until a signal, then let running answers finish."""
        assert self._socket is not None
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        loading = asyncio.create_task(self._supervisor.start())
        await asyncio.wait({serving, loading}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            loading.cancel()
        elif loading.exception() is not None:
            self._server.should_exit = True
        await serving
        if not loading.cancelled():
            await loading

    async def shutdown(self) -> None:
        """Give back what startup took, last first; say goodbye to the broker."""
        await self._supervisor.stop()
        if self._reporter is not None:
            await asyncio.to_thread(self._reporter.stop)
        if self._socket is not None:
            self._socket.close()

    def status(self) -> RuntimeStatus:
        """How everything is now; may be called from any thread."""
        requests, tokens_per_s, first_token_s = self._figures.snapshot()
        worker = resident_bytes(self._supervisor.pid)
        return RuntimeStatus(
            ts=now(),
            boot_id=BOOT_ID,
            device_id=self._options.device_id,
            health=self._supervisor.health,
            uptime_s=uptime_s(),
            identity=self._identity,
            queue_length=self._supervisor.queue_length,
            requests=requests,
            tokens_per_s=tokens_per_s,
            first_token_s=first_token_s,
            worker_restarts=self._supervisor.restarts,
            last_error=self._supervisor.last_error,
            memory_bytes=worker + resident_bytes(os.getpid()),
            worker_memory_bytes=worker,
            temperature_c=temperature_c(),
        )

    def _on_started(self) -> None:
        assert self._socket is not None
        self._options.announce(url_of(self._socket))

    def _on_signal(self) -> None:
        """The first one lets running answers finish, within a bound; a second one does not."""
        log.info("event=stopping")
        wait_s = 0 if self._server.should_exit else DRAIN_S
        asyncio.get_running_loop().call_later(wait_s, self._supervisor.refuse)
        self._server.should_exit = True
