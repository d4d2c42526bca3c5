"""Many clients at once, and a worker that ends while it works; `scripts/load.py` measures it."""

from pathlib import Path

import pytest

from tests.support import releases
from tests.support.load import Clients, kills
from tests.support.serving import Serving

pytestmark = [pytest.mark.slow, pytest.mark.anyio]


async def test_many_clients_and_kills(tiny_onnx: Path, tmp_path: Path) -> None:
    release = releases.release(tmp_path / "release", tiny_onnx, context_length=2048)
    with Serving(release.folder) as server:
        clients = Clients(server.url, count=30, seed=1)
        await clients.run(4)
        assert {*clients.outcomes} == {"answered", "429"}
        report = await kills(server, 3)
        assert report["next_request_answered"] == report["worker_restarts"] == 3
        # What the killed worker had been at has failed, and has been told so.
        assert {*report["outcomes"]} <= {"answered", "error event", "500", "429"}
        assert server.get("/readyz")["queue_length"] == 0
