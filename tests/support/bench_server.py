"""A server for the bench: `python -m tests.support.bench_server PORT`. It is busy at first."""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

BUSY, PAUSE_S = 2, 0.05
"""Requests that are answered with 503, and the time between two words."""
requests = count()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if next(requests) < BUSY:
            self.send_error(503)
            return
        if body["max_tokens"] > 100:
            self.send_error(400)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        for index in range(body["max_tokens"]):
            time.sleep(PAUSE_S)
            self.event({"choices": [{"delta": {"content": f"{index} "}}]})
        usage = {"prompt_tokens": 7, "completion_tokens": body["max_tokens"]}
        self.event({"choices": [], "usage": usage})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, event: object) -> None:
        self.chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
