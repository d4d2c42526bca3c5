"""The API against its own description, and against bodies that are wrong."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import fuzz, releases
from tests.support.serving import Serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("api") / "release"
    release = releases.release(folder, tiny_onnx, context_length=1024)
    with pytest.MonkeyPatch.context() as patch:
        # As systemd does: updates are held by a file there.
        patch.setenv("RUNTIME_DIRECTORY", str(folder.parent))
        with Serving(release.folder, "--max-tokens", "3") as server:
            yield server


def test_schemathesis_finds_nothing(server: Serving, tmp_path: Path) -> None:
    command = [
        *(str(Path(sys.executable).parent / "st"), "run", f"{server.url}/openapi.json"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "100", "--seed", "1"),
        *("--generation-database", "none", "--no-color", "--continue-on-failure"),
    ]
    root = Path(__file__).parents[2]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.support.api_hooks", "PYTHONPATH": str(root)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | hooks
    )
    assert done.returncode == 0, done.stdout
    assert "Tested: 28" in done.stdout
    assert server.get("/v1/status")["worker_restarts"] == 0


def test_thousands_of_malformed_bodies_are_refused(server: Serving) -> None:
    bodies = fuzz.malformed(2500)
    assert len({*bodies}) == 2500
    assert {endpoint for endpoint, _ in bodies} == {*fuzz.RIGHT}
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for endpoint, body in bodies:
            answer = client.post(endpoint, content=body)
            shown = endpoint, body[:200]
            assert 400 <= answer.status_code < 500, (shown, answer.text)
            message = _message(endpoint, answer.json())
            assert message, shown
            assert "Traceback" not in message, shown
        assert client.get("/readyz").status_code == 200
    assert server.get("/v1/status")["worker_restarts"] == 0


def _message(endpoint: str, answer: dict[str, Any]) -> Any:
    """The message of an error, which has the form of its endpoint's API."""
    error = answer["error"]
    if endpoint.startswith("/api/"):
        assert {*answer} == {"error"}
        return error
    if endpoint.startswith("/v1/messages"):
        assert {*answer} == {"type", "error", "request_id"}
        assert {*error} == {"type", "message"}
    else:
        assert {*error} == {"message", "type", "param", "code"}
    return error["message"]
