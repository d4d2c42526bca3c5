"""The service: startup, serve, shutdown."""

import asyncio
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Collection
from functools import partial

import msgspec

from device_runtime import doctor
from device_runtime.api.app import Api
from device_runtime.api.image_loader import ImageLoader
from device_runtime.api.openai_responses.store import ResponseStore
from device_runtime.api.served_model import ServedModel
from device_runtime.bench import benchmark
from device_runtime.bundle.release import Release
from device_runtime.config import folders
from device_runtime.config.options import RuntimeConfig
from device_runtime.errors import DeviceError, ServiceError
from device_runtime.logs import event
from device_runtime.mqtt import address, contract, home_assistant
from device_runtime.mqtt.commands import Commands
from device_runtime.mqtt.ledger import Ledger
from device_runtime.mqtt.reporter import Reporter
from device_runtime.mqtt.spool import Spool
from device_runtime.mqtt.updates import Updates
from device_runtime.mqtt.verbs import Verbs
from device_runtime.server import page
from device_runtime.server.access_log import AccessLog
from device_runtime.server.api_keys import KeyRing
from device_runtime.server.auth import OPEN_PATHS, protect
from device_runtime.server.listener import Server, bind, is_loopback, tls_context, url_of
from device_runtime.status import board, device_id, heartbeat, notify
from device_runtime.status.integrity import Integrity
from device_runtime.status.protection import keep_protecting
from device_runtime.status.report import (
    BOOT_ID,
    Identity,
    RequestStats,
    RuntimeStatus,
    Settings,
    SpeechState,
    VisionState,
    now,
    resident_bytes,
    uptime_s,
)
from device_runtime.update.links import RELEASES
from device_runtime.update.outcome import LatestUpdate
from device_runtime.update.requests import Updater
from device_runtime.worker import tuning
from device_runtime.worker.placement import Placement
from device_runtime.worker.supervisor import Supervisor
from device_runtime.worker.tuning import Setting

log = logging.getLogger(__name__)

FILES = 8192
"""Files and connections that may be open."""
DRAIN_S = 10
"""Seconds that running answers may continue after a signal to stop."""


class Service:
    """The service of one release, until a signal.

    Args:
        release: release to serve.
        config: configuration of the service.
        setting: threads that were measured to be faster than the default; None for none.
        announce: called with the URL as soon as the service listens.
        check: checks what a new start needs, for a command to reload; raises ServiceError.

    Attributes:
        reload: start again with the configuration as it is then.
    """

    def __init__(
        self,
        release: Release,
        config: RuntimeConfig,
        setting: Setting | None,
        announce: Callable[[str], None],
        check: Callable[[], object],
    ) -> None:
        """Check everything that a start needs, without acquiring anything.

        Raises:
            ServiceError: part of the configuration is invalid.
        """
        manifest = release.manifest
        self.reload = False
        self._config = config
        self._announce = announce
        self._check = check
        self._device_id = device_id.device_id(config.device_id)
        self._release = release
        self._broker = address.of(config)
        self._keys = KeyRing(config.api_keys_file) if config.api_keys_file else None
        self._tls = tls_context(config.tls_certificate, config.tls_key)
        self._stats = RequestStats()
        self._identity = Identity.of(release)
        self._settings = msgspec.convert(
            msgspec.structs.asdict(config) | {"context_length": manifest.context_length}, Settings
        )
        self._vision = msgspec.convert(manifest.vision, VisionState | None, from_attributes=True)
        self._speech = SpeechState.of(manifest.speech)
        self._update = LatestUpdate(release.folder)
        self._integrity = Integrity(release)
        self._examine = partial(doctor.surroundings, release)
        self._runtime_folder = folders.runtime_folder()
        served = ServedModel.of_release(release, config)
        self._state_folder = config.state_folder or folders.state_folder()
        self._placement = Placement.of_release(
            release,
            threads=config.threads,
            kv_cache_mib=config.kv_cache_mib,
            wanted=config.processor,
            folder=self._state_folder,
            tuned=setting,
        )
        self._supervisor = Supervisor(
            self._placement,
            parallel=config.parallel,
            queue_limit=config.queue_limit,
            timeout_s=config.request_timeout,
            system_prompt=served.system_prompt,
            probe=manifest.probe,
            unload_after_s=config.unload_after,
        )
        self._reporter: Reporter | None = None
        max_body_bytes = config.max_body_bytes(sees=served.vision is not None)
        self._api = Api(
            self._supervisor,
            self._stats,
            self.status,
            served,
            max_body_bytes=max_body_bytes,
            max_form_bytes=config.max_form_bytes(),
            runtime_folder=self._runtime_folder,
            store=ResponseStore(config.stored_responses, config.stored_responses_mib << 20),
            images=ImageLoader(config.image_hosts, config.image_folders, max_body_bytes),
        )
        self._server: Server | None = None
        self._socket: socket.socket | None = None
        self._reporting: asyncio.Future[None]
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ResourceError: the address is taken.
            ServiceError: the address is exposed without API keys.
            EngineError: the model does not load.
            ServiceError: part of the service ended unexpectedly.
        """
        self._reporting = asyncio.get_running_loop().create_future()
        with tuning.serving(self._state_folder):
            try:
                self.startup()
                await self.serve()
            finally:
                await self.shutdown()

    def startup(self) -> None:
        """Bind the address, and start the reports."""
        _allow_files(FILES)
        self._socket = bind(self._config.listen)
        loopback = is_loopback(self._socket)
        if not loopback:
            self._check_exposure(url_of(self._socket, tls=self._tls is not None))
        app = protect(
            self._api.app(page.routes()),
            keys=self._keys,
            open_paths=OPEN_PATHS | page.PATHS,
            origins=self._config.cors_origins,
            loopback=loopback,
        )
        self._server = Server(
            AccessLog(app),
            self._on_started,
            max_connections=self._config.max_connections,
            client_timeout_s=self._config.client_timeout,
            tls=self._tls,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        if self._broker is not None:
            updates = Updates(self._updater())
            measured = (self._release, self._supervisor, self._placement)
            verbs = Verbs(
                self._supervisor,
                self._api.chat,
                partial(benchmark.run, *measured, threads=self._config.threads),
                self.status,
                updates,
                self._integrity,
                self._examine,
                self._begin_reload,
            )
            handlers = verbs.allowed(("ping", *self._config.mqtt_commands))
            self._reporter = Reporter(
                self._broker,
                device_id=self._device_id,
                interval_s=self._config.status_interval,
                spool=Spool(self._state_folder),
                commands=Commands(
                    contract.root(self._device_id), handlers, Ledger(self._state_folder), loop
                ),
                discovery=self._discovery(handlers),
                snapshot=self.status,
                on_failure=lambda error: loop.call_soon_threadsafe(
                    self._reporting.set_exception, error
                ),
            )
            self._reporter.start()
        measure = partial(board.measure, self._release.folder)
        kept = {
            "messages to systemd": notify.keep_notifying(self.status, self._stuck),
            "self-protection": keep_protecting(self._supervisor, measure),
            "checks of the release": self._integrity.keep_checking(),
        }
        if self._runtime_folder is not None:
            kept["heartbeat"] = heartbeat.keep_beating(self._runtime_folder, self.status)
        self._tasks = {name: asyncio.create_task(work) for name, work in kept.items()}

    def _check_exposure(self, url: str) -> None:
        """Refuse to serve beyond loopback without API keys, unless configured.

        Raises:
            ServiceError: there are no API keys, and `insecure_no_auth` is not set.
        """
        if self._keys is None and not self._config.insecure_no_auth:
            raise ServiceError(
                f"{url} is open to the network but requires no API key",
                hint="Create a key with edgepack-runtime api-key new NAME --file FILE and pass "
                "--api-keys-file FILE; or allow anyone with --insecure-no-auth.",
            )
        if self._keys is None:
            detail = "no authentication: anyone who can reach this address can use the model"
            event(log, logging.WARNING, "open_to_network", url=url, detail=detail)
        elif self._tls is None:
            detail = "API keys, prompts and answers cross the network unencrypted"
            event(log, logging.WARNING, "no_tls", url=url, detail=detail)

    async def serve(self) -> None:
        """Serve until a signal, then let running answers finish.

        If one part ends unexpectedly, the whole service ends: the init system restarts a process
        that ended, but not one that runs and never responds.
        """
        assert self._socket is not None
        assert self._server is not None
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        inferring = asyncio.create_task(self._infer())
        parts = {"HTTP server": serving, "supervision": inferring, "MQTT reports": self._reporting}
        parts |= self._tasks
        await asyncio.wait(parts.values(), return_when=asyncio.FIRST_COMPLETED)
        errors: list[DeviceError] = []
        if not self._server.should_exit:
            errors = [_unexpected_end(name, part) for name, part in parts.items() if part.done()]
            self._supervisor.refuse()
            self._server.should_exit = True
        inferring.cancel()
        await asyncio.wait({serving, inferring})
        if errors:
            raise errors[0]
        await serving

    async def _infer(self) -> None:
        """Load the model, then wait for the supervision, which ends only with an error."""
        await self._supervisor.start()
        await self._supervisor.ended()

    async def shutdown(self) -> None:
        """Release what startup acquired, in reverse order; report `offline` to the broker."""
        await self._supervisor.stop()
        for task in self._tasks.values():
            task.cancel()
        if self._reporter is not None:
            await asyncio.to_thread(self._reporter.stop)
        if self._socket is not None:
            self._socket.close()

    def status(self) -> RuntimeStatus:
        """Return the current status; can be called from any thread."""
        requests, tokens_per_s, first_token_s = self._stats.snapshot()
        worker_bytes = resident_bytes(self._supervisor.pid)
        return RuntimeStatus(
            ts=now(),
            boot_id=BOOT_ID,
            device_id=self._device_id,
            health=self._supervisor.health,
            uptime_s=uptime_s(),
            identity=self._identity,
            settings=self._settings,
            queue_length=self._supervisor.queue_length,
            running=self._supervisor.running,
            requests=requests,
            tokens_per_s=tokens_per_s,
            first_token_s=first_token_s,
            worker_ends=self._supervisor.ends,
            worker_restarts=self._supervisor.restarts,
            last_error=self._supervisor.last_error,
            compute_share=self._supervisor.share,
            processor=self._placement.state,
            vision=self._vision,
            speech=self._speech,
            self_check=self._supervisor.self_check,
            update=self._update.read(),
            damage=self._integrity.damage,
            memory_bytes=worker_bytes + resident_bytes(os.getpid()),
            worker_memory_bytes=worker_bytes,
            board=board.measure(self._release.folder),
            mqtt=self._reporter.state if self._reporter is not None else None,
        )

    def _stuck(self) -> str:
        """Return which part makes no progress; empty if all do."""
        if self._supervisor.stuck:
            return "the inference process does not end"
        return "MQTT" if self._reporter is not None and self._reporter.stuck else ""

    def _updater(self) -> Updater | None:
        """Return the updater; None unless systemd runs an installed release."""
        installed = self._release.folder.parent.name == RELEASES
        if self._runtime_folder is None or not installed:
            return None
        return Updater(self._runtime_folder, self._release.folder.parent.parent)

    def _begin_reload(self) -> None:
        """Stop, to start again with the configuration as it is now.

        Raises:
            DeviceError: the configuration is not valid; the service goes on as it is.
        """
        self._check()
        self.reload = True
        self._stop()

    def _discovery(self, verbs: Collection[str]) -> tuple[str, bytes] | None:
        """Return topic and content of the message to Home Assistant; None if it is not wanted."""
        prefix = self._config.mqtt_discovery
        if prefix is None:
            return None
        return home_assistant.topic(prefix, self._device_id), home_assistant.discovery(
            contract.root(self._device_id),
            self._device_id,
            self._identity,
            verbs,
            self._config.status_interval,
        )

    def _on_started(self) -> None:
        assert self._socket is not None
        self._announce(url_of(self._socket, tls=self._tls is not None))

    def _on_signal(self) -> None:
        """Stop: the first signal lets running answers finish in time, a second one does not."""
        notify.send("STOPPING=1")
        self.reload = False
        self._stop()

    def _stop(self) -> None:
        assert self._server is not None
        event(log, logging.INFO, "stopping")
        wait_s = 0 if self._server.should_exit else DRAIN_S
        asyncio.get_running_loop().call_later(wait_s, self._supervisor.refuse)
        self._server.should_exit = True


def _allow_files(count: int) -> None:
    """Raise the limit of open files: the usual 1,024 are soon taken by idle connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < count:  # unlimited is -1
        resource.setrlimit(resource.RLIMIT_NOFILE, (count if hard < 0 else min(count, hard), hard))


def _unexpected_end(name: str, part: asyncio.Future[None]) -> DeviceError:
    """Log the end of a part of the service, and return the error to end the service with."""
    error = part.exception()
    if isinstance(error, DeviceError):
        # Such as a model that does not load: its own hint says what to do.
        return error
    log.error("%s ended unexpectedly: %r", name, error, exc_info=error)
    return ServiceError(
        f"{name} ended unexpectedly: {error!r}", hint="The log above has the traceback."
    )
