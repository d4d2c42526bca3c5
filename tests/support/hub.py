"""A hub on 127.0.0.1 with one repository: the part of the real one's HTTP interface we use."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_secret"
LARGE = (".safetensors", ".gguf", ".bin")
"""Kinds of files that the hub keeps in its storage of large files, by their sha256."""


@dataclass
class FakeHub:
    """What the hub has, how it misbehaves, and what it was asked for.

    Attributes:
        url: where it listens.
        files: name to content, of the repository `tiny/llama`.
        found: answer to each search.
        gated: whether only the bearer of the token gets the files.
        private: whether only the bearer of the token sees the repository.
        changed: name to content that is sent instead, once.
        cuts: bytes of a file after which the connection is cut, one for each request.
        busy: status and Retry-After of the next answers, instead of the right ones.
        ranges: whether parts of files can be requested.
        requests: method and path of each request so far.
        offered: range and authorization of each request for a large file's content.
    """

    url: str
    files: dict[str, bytes]
    found: list[dict[str, Any]] = field(default_factory=list)
    gated: bool = False
    private: bool = False
    changed: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    busy: list[tuple[int, str]] = field(default_factory=list)
    ranges: bool = True
    requests: list[str] = field(default_factory=list)
    offered: list[tuple[str | None, str | None]] = field(default_factory=list)


@contextmanager
def serving(folder: Path, **more: bytes) -> Iterator[FakeHub]:
    """Serve the files of a folder, and some more; large ones from a second server, as the hub."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    hub = FakeHub("", {**files, **more})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            if hub.busy:
                status, seconds = hub.busy.pop(0)
                return self._refuse(status, {"Retry-After": seconds} if seconds else {})
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            name = "/".join(parts[4:])
            if parts == ["api", "models"]:
                return self._search()
            if parts[:2] == ["api", "models"]:
                return self._about(parts[2:])
            if parts[:3] == ["tiny", "llama", "resolve"] and name in hub.files:
                return self._file(name)
            return self._refuse(404, {"X-Error-Code": "EntryNotFound"})

        def _search(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            words = query["search"][0].lower()
            found = [model for model in hub.found if words in model["id"].lower()]
            self._answer(json.dumps(found[: int(query["limit"][0])]).encode())

        def _about(self, parts: list[str]) -> None:
            known = not hub.private or self._authorized()
            if parts[:2] != ["tiny", "llama"] or not known:
                return self._refuse(401 if hub.private else 404, {"X-Error-Code": "RepoNotFound"})
            if parts[3] not in ("main", "a/branch", COMMIT):
                return self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
            siblings = []
            for name, data in hub.files.items():
                file: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git(data)}
                if name.endswith(LARGE):
                    file["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 134}
                siblings.append(file)
            about = {"id": "tiny/llama", "sha": COMMIT, "siblings": siblings}
            return self._answer(json.dumps(about).encode())

        def _file(self, name: str) -> None:
            if hub.gated and not self._authorized():
                return self._refuse(403, {"X-Error-Code": "GatedRepo"})
            if name.endswith(LARGE):
                self.send_response(302)
                self.send_header("Location", f"http://127.0.0.1:{storage.server_port}/{name}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None
            return self._answer(hub.changed.pop(name, hub.files[name]))

        def _authorized(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def _answer(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _refuse(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Storage(Handler):
        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} storage{self.path}")
            asked = self.headers.get("Range")
            hub.offered.append((asked, self.headers.get("Authorization")))
            name = unquote(self.path[1:])
            data = hub.changed.pop(name, hub.files[name])
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and hub.ranges else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            end = start + hub.cuts.pop(0) if hub.cuts else len(data)
            self.wfile.write(data[start:end])
            self.close_connection = True

    storage = ThreadingHTTPServer(("127.0.0.1", 0), Storage)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threads = [threading.Thread(target=served.serve_forever) for served in (server, storage)]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for served, thread in zip((server, storage), threads, strict=True):
            served.shutdown()
            thread.join()
            served.server_close()


def sha256(data: bytes) -> str:
    """Digest of a large file."""
    return hashlib.sha256(data).hexdigest()


def git(data: bytes) -> str:
    """Digest of a blob in git."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
