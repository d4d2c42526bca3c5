"""The files of the release while it serves: a card that loses bits would answer with gibberish."""

import asyncio
import logging
import os
import threading
from contextlib import suppress

from device_runtime.bundle.release import Release
from device_runtime.errors import BundleError
from device_runtime.logs import event

log = logging.getLogger(__name__)

FIRST_S = 60.0
"""Time from the start to the first check: a model that is being loaded reads the same card."""
EVERY_S = 24 * 3600.0
"""Time between two checks."""
_NICENESS = 19


class Integrity:
    """Compares all files of a release with its manifest, once a day and on request.

    Args:
        release: the release.

    Attributes:
        damage: what is wrong; empty as far as it is known.
    """

    def __init__(self, release: Release) -> None:
        self.damage = ""
        self._release = release
        self._alone = asyncio.Lock()

    async def keep_checking(self) -> None:
        """Check until cancelled."""
        await asyncio.sleep(FIRST_S)
        while True:
            await self.check()
            await asyncio.sleep(EVERY_S)

    async def check(self) -> str:
        """Check once, and return what is wrong; empty if nothing is."""
        async with self._alone:
            loop = asyncio.get_running_loop()
            checked: asyncio.Future[str] = loop.create_future()

            def tell(damage: str) -> None:
                if not checked.done():
                    checked.set_result(damage)

            def work() -> None:
                damage = self._problems()
                with suppress(RuntimeError):  # the service has ended
                    loop.call_soon_threadsafe(tell, damage)

            # A daemon: the end of the service does not wait for gigabytes to be read.
            threading.Thread(target=work, name="integrity", daemon=True).start()
            damage = await checked
            if damage and damage != self.damage:
                event(log, logging.ERROR, "release_damaged", detail=damage)
            self.damage = damage
        return damage

    def _problems(self) -> str:
        # Linux has a priority for each thread: setpriority(2).
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            self._release.verify()
        except (BundleError, OSError) as error:
            return str(error)
        return ""
