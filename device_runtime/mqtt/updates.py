"""The verbs `update` and `rollback`: the service asks the updater, and waits for the outcome."""

import asyncio
import time
from typing import Any

from device_runtime.errors import RegistryError
from device_runtime.mqtt.commands import Call, CommandError
from device_runtime.update.journal import RequestState
from device_runtime.update.registry.reference import parse
from device_runtime.update.requests import Request, Updater

INTERVAL_S = 0.5
TAKEN_S = 30.0
"""Time in which the updater must take a request."""
ATTEMPTS = 2
"""Number of times that a request is made if the updater ends without an outcome."""


class Updates:
    """Updates and rollbacks, one at a time.

    Args:
        updater: the updater; None without an installed service.
    """

    def __init__(self, updater: Updater | None) -> None:
        self._updater = updater
        self._alone = asyncio.Lock()

    async def update(self, call: Call) -> dict[str, Any]:
        """Install the bundle of a reference, unless it is the current release.

        It is over with the trial of the release; meanwhile the service restarts.

        Raises:
            CommandError: it cannot be installed, or has failed its trial.
        """
        reference = str(call.arguments.get("reference", ""))
        try:
            digest = parse(reference).digest
        except RegistryError as error:
            raise CommandError(f"reference is not valid: {error}") from None
        if digest is None:
            raise CommandError("reference must end with a digest, @sha256:...: a tag may change")
        return await self._ask(Request(id=call.key, verb="update", reference=reference))

    async def rollback(self, call: Call) -> dict[str, Any]:
        """Return to the release before.

        Raises:
            CommandError: there is none, or it is damaged.
        """
        return await self._ask(Request(id=call.key, verb="rollback"))

    async def _ask(self, request: Request) -> dict[str, Any]:
        if self._updater is None:
            raise CommandError("only the service of an installed release can be updated")
        async with self._alone:
            try:
                ended = await self._ended(self._updater, request)
            except OSError as error:
                raise CommandError(f"the updater cannot be asked: {error}") from None
        if ended.status == "failed":
            raise CommandError(ended.reason)
        return {"release": ended.release, "version": ended.version}

    async def _ended(self, updater: Updater, request: Request) -> RequestState:
        """Ask the updater, and wait; it may be working on the request, or have ended it, before."""
        attempts, asked_at = 0, time.monotonic()
        while True:
            # In this order: it writes the outcome while it works.
            working = updater.working
            ended = updater.outcome(request.id)
            if ended is not None:
                return ended
            if not working and not updater.asked:
                if attempts == ATTEMPTS:
                    raise CommandError("the updater failed: see journalctl -u edgepack-updater")
                updater.ask(request)
                attempts, asked_at = attempts + 1, time.monotonic()
            elif not working and time.monotonic() > asked_at + TAKEN_S:
                updater.withdraw()
                raise CommandError("the updater does not run: edgepack-updater.path must be active")
            await asyncio.sleep(INTERVAL_S)
