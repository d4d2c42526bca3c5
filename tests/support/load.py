"""Clients that ask all at once, and a worker that is ended while it works."""

import asyncio
import json
import os
import random
import signal
import statistics
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import httpx

from tests.support.serving import Serving, chat_body

PATIENCE_S = 60.0
"""A request that has not ended by then hangs."""
WORDS = ("river", "mountain", "is", "a", "the", "near", "says", "what", "about")


class Clients:
    """Clients that ask again as soon as they are answered.

    Attributes:
        outcomes: how requests ended.
        refused_s: how long refusals took.
        over: nothing more is asked.
    """

    def __init__(self, url: str, *, count: int, seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.refused_s: list[float] = []
        self.over = asyncio.Event()
        self._url = url
        self._count = count
        self._random = random.Random(seed)

    async def run(self, seconds: float | None = None) -> None:
        """Ask for so long, or until `over` is set, and let running answers end."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(
            base_url=self._url, timeout=PATIENCE_S, limits=limits
        ) as client:
            asking = [asyncio.create_task(self._ask_on(client)) for _ in range(self._count)]
            with suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), seconds)
            self.over.set()
            await asyncio.gather(*asking)

    async def _ask_on(self, client: httpx.AsyncClient) -> None:
        while not self.over.is_set():
            words = self._random.choices(WORDS, k=self._random.choice((5, 40, 300)))
            body = chat_body(
                " ".join(words),
                max_tokens=self._random.randint(1, 64),
                stream=self._random.random() < 0.7,
            )
            started = time.monotonic()
            try:
                outcome = await ask(client, body)
            except httpx.TimeoutException:
                outcome = "hangs"
            except httpx.HTTPError as error:
                outcome = type(error).__name__
            self.outcomes[outcome] += 1
            if outcome == "429":
                self.refused_s.append(time.monotonic() - started)
                await asyncio.sleep(self._random.uniform(0.1, 0.5))


async def ask(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    """How one request ends."""
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        data = (await response.aread()).decode()
    if response.status_code != httpx.codes.OK:
        return str(response.status_code)
    if not body["stream"]:
        return "answered" if json.loads(data)["choices"][0]["finish_reason"] else "cut off"
    if '"error"' in data:
        return "error event"
    whole = data.endswith("data: [DONE]\n\n") and '"finish_reason":"' in data
    return "answered" if whole else "cut off"


async def kills(serving: Serving, count: int) -> dict[str, Any]:
    """End the worker again and again while clients ask; each time, one more request is answered."""
    clients = Clients(serving.url, count=6, seed=2)
    moments = random.Random(3)
    load = asyncio.create_task(clients.run())
    answered = 0
    back_s = []
    async with httpx.AsyncClient(base_url=serving.url, timeout=PATIENCE_S) as client:
        for _ in range(count):
            await asyncio.sleep(moments.uniform(0.2, 1.0))
            os.kill(serving.worker, signal.SIGKILL)
            started = time.monotonic()
            body = {
                "messages": [{"role": "user", "content": "Hi"}],
                "max_tokens": 2,
                "stream": True,
            }
            # Refused: the queue is full. Failed: it reached the process just before it ended.
            while (outcome := await ask(client, body)) in ("429", "500", "error event"):
                await asyncio.sleep(0.05)
            answered += outcome == "answered"
            back_s.append(time.monotonic() - started)
        clients.over.set()
        await asyncio.gather(load)
    return {
        "kills": count,
        "next_request_answered": answered,
        "back_s": {"median": round(statistics.median(back_s), 2), "most": round(max(back_s), 2)},
        "outcomes": dict(clients.outcomes),
        "worker_restarts": serving.get("/v1/status")["worker_restarts"],
    }
