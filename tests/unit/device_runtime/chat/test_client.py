"""The device's own commands, at an address where something else answers."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from device_runtime.chat.client import Endpoint, NoServiceError
from device_runtime.chat.models import ServiceModel
from device_runtime.errors import ServiceError
from device_runtime.status.report import RuntimeStatus
from tests.support.commands import edgepack_runtime, refused

FOREIGN = [
    (200, {"status": "fine"}),
    (200, {"object": "list", "data": []}),
    (200, []),
    (404, {"detail": "Not Found"}),
]


@contextmanager
def answering(status: int, body: object) -> Iterator[Endpoint]:
    """A server of something else, that always answers with the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Endpoint(host="127.0.0.1", port=server.server_port, certificate=None, headers={})
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "body"), FOREIGN)
def test_something_else_is_not_taken_for_the_service(status: int, body: object) -> None:
    with answering(status, body) as endpoint:
        with pytest.raises(NoServiceError, match=str(endpoint.port)) as caught:
            endpoint.get("/v1/status", RuntimeStatus, 10)
        assert "--listen" in caught.value.hint
        with pytest.raises(NoServiceError):
            ServiceModel(endpoint).name()


def test_a_service_that_requires_a_key_is_not_missing() -> None:
    with answering(401, {}) as endpoint, pytest.raises(ServiceError, match="API key") as caught:
        ServiceModel(endpoint).name()
    assert not isinstance(caught.value, NoServiceError)
    assert "--api-key-file" in caught.value.hint


def test_status_of_something_else() -> None:
    with answering(200, {"health": "ready"}) as endpoint:
        done = edgepack_runtime("status", "--listen", endpoint.url.removeprefix("http://"))
    refused(done, 13, f"no edgepack service answers on {endpoint.url}")
