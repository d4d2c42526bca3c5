"""Many clients at once, and a worker that ends while it works; `scripts/load.py` measures it."""

import asyncio
from pathlib import Path

import pytest

from tests.support import releases
from tests.support.load import Clients, kills
from tests.support.serving import Serving

pytestmark = pytest.mark.slow


def test_many_clients_and_kills(tiny_onnx: Path, tmp_path: Path) -> None:
    release = releases.release(tmp_path / "release", tiny_onnx, context_length=2048)
    with Serving(release.folder) as server:

        async def load() -> Clients:
            clients = Clients(server.url, count=30, seed=1)
            await clients.run(4)
            return clients

        outcomes = asyncio.run(load()).outcomes
        assert {*outcomes} == {"answered", "429"}
        found = asyncio.run(kills(server, 3))
        assert found["next_request_answered"] == found["worker_restarts"] == 3
        # What the killed worker had been at has failed, and has been told so.
        assert {*found["outcomes"]} <= {"answered", "error event", "500", "429"}
        assert server.get("/readyz")["queue_length"] == 0
