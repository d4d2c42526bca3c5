"""Registries on 127.0.0.1: Debian's docker-registry, one of our own, and a proxy."""

import hashlib
import json
import re
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.support.certificates import Certificate
from tests.support.ports import free_port, listens
from tests.support.serving import eventually

USERNAME, PASSWORD = "pusher", "s3cret"
# bcrypt, the only kind that docker-registry takes.
HTPASSWD = f"{USERNAME}:$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n"


@dataclass
class RealRegistry:
    """A running docker-registry.

    Attributes:
        port: port on 127.0.0.1.
        log: its log, with a line for each request.
    """

    port: int
    log: Path

    def requests(self, pattern: str) -> list[str]:
        """The lines of its log that are requests of this kind."""
        lines = [line for line in self.log.read_text().splitlines() if ' HTTP/1.1" ' in line]
        return [line for line in lines if re.search(pattern, line)]


@contextmanager
def docker_registry(
    folder: Path, *, login: bool = False, certificate: Certificate | None = None
) -> Iterator[RealRegistry]:
    """Run docker-registry with its storage below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    tls = (
        {"tls": {"certificate": str(certificate.certificate), "key": str(certificate.key)}}
        if certificate
        else {}
    )
    config = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": f"127.0.0.1:{port}", **tls},
    }
    if login:
        (folder / "htpasswd").write_text(HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(config))
    log = folder / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")],
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            eventually(lambda: listens(port))
            yield RealRegistry(port, log)
        finally:
            process.terminate()


@dataclass
class FakeRegistry:
    """A registry of our own, which a test can make misbehave.

    Attributes:
        port: port on 127.0.0.1.
        blobs: contents by digest.
        manifests: contents by tag or digest, with their types.
        uploads: the bytes of unfinished uploads.
        locks: held while a request works on an upload.
        answer: called with each request first; returns True if it has responded itself.
        requests: method, path and Authorization field of each request.
    """

    port: int
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    locks: dict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))
    answer: Callable[["Request"], bool] = lambda _: False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"oci://127.0.0.1:{self.port}/team/bundle"


class Request(BaseHTTPRequestHandler):
    """One request to a `FakeRegistry`: with uploads that can be resumed, and the referrers API."""

    protocol_version = "HTTP/1.1"
    registry: FakeRegistry

    def handle_any(self) -> None:
        authorization = self.headers.get("Authorization")
        self.registry.requests.append((self.command, self.path, authorization))
        if not self.registry.answer(self):
            self._respond()

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = handle_any  # noqa: N815

    def respond(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply(self, status: int, body: bytes = b"", **headers: str) -> bool:
        """Respond, as the whole of `FakeRegistry.answer`."""
        self.respond(status, body, **headers)
        return True

    def _respond(self) -> None:
        kind, name = self.path.removeprefix("/v2/team/bundle/").split("/", 1)
        if kind == "manifests":
            return self._manifest(name)
        if name.startswith("uploads"):
            return self._upload(name)
        return self._blob(name)

    def _manifest(self, name: str) -> None:
        manifests = self.registry.manifests
        if self.command == "PUT":
            data = self._body()
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            manifests[name] = manifests[digest] = (self.headers["Content-Type"], data)
            subject = json.loads(data).get("subject")
            return self.respond(201, **({"OCI_Subject": subject["digest"]} if subject else {}))
        if name not in manifests:
            return self.respond(404)
        return self.respond(200, manifests[name][1], Content_Type=manifests[name][0])

    def _blob(self, digest: str) -> None:
        data = self.registry.blobs.get(digest)
        if data is None:
            return self.respond(404)
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if span is None:
            return self.respond(200, data)
        start = int(span[1])
        return self.respond(
            206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}"
        )

    def _upload(self, name: str) -> None:
        uploads = self.registry.uploads
        url = urlsplit(name)
        identity = url.path.removeprefix("uploads/")
        if self.command == "POST":
            identity = f"u{len(self.registry.requests)}"
            uploads[identity] = bytearray()
            return self.respond(202, Location=f"/v2/team/bundle/blobs/uploads/{identity}?state=1")
        # What arrived before a cut is taken before the next request is answered.
        with self.registry.locks[identity]:
            return self._go_on(identity, name, parse_qs(url.query))

    def _go_on(self, identity: str, name: str, query: dict[str, list[str]]) -> None:
        uploads = self.registry.uploads
        if identity not in uploads:
            return self.respond(404)
        stored = uploads[identity]
        if self.command in ("PATCH", "PUT") and int(self.headers["Content-Length"] or 0):
            if int(self.headers["Content-Range"].split("-")[0]) != len(stored):
                return self.respond(416)
            # What arrives before a cut is kept.
            left = int(self.headers["Content-Length"])
            while left and (data := self.rfile.read1(min(left, 65536))):
                stored += data
                left -= len(data)
            if left:
                self.close_connection = True
                return None
        if self.command == "PUT":
            digest = query["digest"][0]
            if digest != f"sha256:{hashlib.sha256(stored).hexdigest()}":
                return self.respond(400)
            self.registry.blobs[digest] = bytes(uploads.pop(identity))
            return self.respond(201)
        status = 204 if self.command == "GET" else 202
        return self.respond(
            status, Location=f"/v2/team/bundle/blobs/{name}", Range=f"0-{len(stored) - 1}"
        )

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Be silent: clients that go away are what the tests are about."""


@contextmanager
def fake_registry() -> Iterator[FakeRegistry]:
    """Serve an empty registry."""
    registry = FakeRegistry(0)
    handler = type("Handler", (Request,), {"registry": registry})
    server = _Server(("127.0.0.1", 0), handler)
    registry.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
