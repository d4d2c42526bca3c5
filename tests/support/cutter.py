"""A TCP proxy that cuts connections."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Cutter:
    """A TCP proxy that cuts connections.

    Attributes:
        port: port on 127.0.0.1.
        cuts: number of connections still to cut.
        after: bytes in one direction after which a connection is cut.
        upload: whether that is the direction to the server.
        moved: bytes that went in that direction, in all.
    """

    port: int
    cuts: int
    after: int
    upload: bool
    moved: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def cutting(port: int, *, cuts: int, after: int, upload: bool = False) -> Iterator[Cutter]:
    """Forward to a port on 127.0.0.1, and cut the first connections that move so many bytes."""
    server = socket.create_server(("127.0.0.1", 0))
    cutter = Cutter(server.getsockname()[1], cuts, after, upload)

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            upstream = socket.create_connection(("127.0.0.1", port))
            pair = (client, upstream)
            for source, sink, counted in (
                (client, upstream, upload),
                (upstream, client, not upload),
            ):
                threading.Thread(target=_copy, args=(cutter, source, sink, counted, pair)).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield cutter
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def _copy(
    cutter: Cutter,
    source: socket.socket,
    sink: socket.socket,
    counted: bool,
    pair: tuple[socket.socket, socket.socket],
) -> None:
    moved = 0
    with suppress(OSError):
        while data := source.recv(65536):
            if counted and cutter.cuts and moved + len(data) > cutter.after:
                data = data[: cutter.after - moved]
                sink.sendall(data)
                with cutter.lock:
                    cutter.moved += len(data)
                    cutter.cuts -= 1
                break
            sink.sendall(data)
            moved += len(data)
            if counted:
                with cutter.lock:
                    cutter.moved += len(data)
    for end in pair:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    source.close()
