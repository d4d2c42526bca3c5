"""A hub on 127.0.0.1 with one repository: the part of the real one's HTTP interface we use."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_secret"


@dataclass
class FakeHub:
    """What the hub has, and what it was asked for.

    Attributes:
        url: where it listens.
        files: name to content, of the repository `tiny/llama`.
        gated: whether only the bearer of the token gets the files.
        requests: method and path of each request so far.
    """

    url: str
    files: dict[str, bytes]
    gated: bool = False
    requests: list[str] = field(default_factory=list)


@contextmanager
def serving(folder: Path, **more: bytes) -> Iterator[FakeHub]:
    """Serve the files of a folder, and some more."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            parts = self.path.split("?")[0].strip("/").split("/")
            if parts[:1] == ["api"]:
                self._about(parts)
            elif parts[:3] == ["tiny", "llama", "resolve"] and "/".join(parts[4:]) in hub.files:
                self._file(hub.files["/".join(parts[4:])])
            else:
                self._refuse(404, "EntryNotFound")

        do_HEAD = do_GET  # noqa: N815

        def _about(self, parts: list[str]) -> None:
            if parts[1:4] != ["models", "tiny", "llama"]:
                return self._refuse(404, "RepoNotFound")
            if parts[4:5] == ["revision"] and parts[5] not in ("main", COMMIT):
                return self._refuse(404, "RevisionNotFound")
            if parts[4:5] == ["tree"]:
                listing = [
                    {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                    for name, data in hub.files.items()
                ]
                return self._answer(json.dumps(listing).encode())
            about = {
                "id": "tiny/llama",
                "sha": COMMIT,
                "siblings": [{"rfilename": name} for name in hub.files],
            }
            return self._answer(json.dumps(about).encode())

        def _file(self, data: bytes) -> None:
            if hub.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._refuse(403, "GatedRepo")
            return self._answer(data)

        def _answer(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("ETag", f'"{_etag(data)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = FakeHub(f"http://127.0.0.1:{server.server_port}", {**files, **more})
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
