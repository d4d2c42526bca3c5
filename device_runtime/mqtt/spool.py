"""Events that wait for the broker: on the disk, in order, bounded.

An event leaves the disk when the broker has acknowledged it, so neither an outage of the broker nor
a power cut loses one; one may be published twice. At the bound the oldest are dropped, and counted.
What cannot be written, as on a full disk, stays in memory, with the same bound, until it can.
"""

import sqlite3
import threading
from pathlib import Path

from device_runtime.mqtt.contract import SpoolState
from device_runtime.mqtt.database import Database

LIMIT = 10_000
"""Events that are kept."""
NAME = "events.sqlite"
"""Name of the database in the service's state folder."""

_TABLES = """
CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
_ADD = (
    "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + ? "
    "RETURNING value"
)


class Spool:
    """The events of a device, numbered in their order. Can be used from any thread.

    Args:
        folder: folder of the database; None keeps events in memory alone.
        limit: number of events to keep.
    """

    def __init__(self, folder: Path | None, limit: int = LIMIT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        path = folder / NAME if folder is not None else None
        self._database = Database(path, _TABLES, self._on_open)
        self._unwritten: dict[int, bytes] = {}
        self._lost = 0
        self._sessions = 0
        self._next = 1
        self._database.do(lambda _: True)  # opens it

    @property
    def failure(self) -> str:
        """Reason why events are not on the disk; empty if they are."""
        return self._database.failure

    @property
    def last(self) -> int:
        """Number of the last event; 0 before the first."""
        return self._next - 1

    def add(self, payload: bytes) -> None:
        """Keep an event. The disk may take a while: not for an event loop."""
        with self._lock:
            self._unwritten[self._next] = payload
            self._next += 1
            self._write()

    def after(self, number: int, limit: int) -> list[tuple[int, bytes]]:
        """Return the events with a higher number than this, in order, at most so many."""
        with self._lock:
            self._write()
            query = "SELECT number, payload FROM events WHERE number > ? ORDER BY number LIMIT ?"
            written = (
                self._database.do(lambda db: db.execute(query, (number, limit)).fetchall()) or []
            )
            waiting = [entry for entry in self._unwritten.items() if entry[0] > number]
            return [*written, *waiting][:limit]

    def remove(self, number: int) -> None:
        """Drop an event that has arrived."""
        with self._lock:
            if self._unwritten.pop(number, None) is None:
                query = "DELETE FROM events WHERE number = ?"
                self._database.do(lambda db: db.execute(query, (number,)))

    def next_session(self) -> int:
        """Count one more connection to the broker; return its number, which only grows."""
        with self._lock:
            self._sessions += 1
            return self._database.do(lambda db: _add(db, "sessions", 1)) or self._sessions

    def state(self) -> SpoolState:
        """Count the events that wait, and those that were dropped."""
        with self._lock:
            query = (
                "SELECT (SELECT count(*) FROM events), "
                "(SELECT value FROM counters WHERE name = 'dropped')"
            )
            written, dropped = self._database.do(lambda db: db.execute(query).fetchone()) or (0, 0)
            return SpoolState(
                depth=written + len(self._unwritten), dropped=(dropped or 0) + self._lost
            )

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    def _write(self) -> None:
        """Write what is in memory; keep it there, within the bound, if that fails."""
        if self._unwritten:
            written: bool | None = self._database.do(self._insert)
            if written:
                self._unwritten.clear()
                self._lost = 0
        while len(self._unwritten) > self._limit:
            del self._unwritten[next(iter(self._unwritten))]
            self._lost += 1

    def _insert(self, database: sqlite3.Connection) -> bool:
        database.executemany("INSERT INTO events VALUES (?, ?)", self._unwritten.items())
        oldest = self._next - self._limit
        dropped = database.execute("DELETE FROM events WHERE number < ?", (oldest,)).rowcount
        _add(database, "dropped", dropped + self._lost)
        return True

    def _on_open(self, database: sqlite3.Connection) -> None:
        """Number events that are in memory by then after those that the database has."""
        (last,) = database.execute("SELECT max(number) FROM events").fetchone()
        self._unwritten = dict(enumerate(self._unwritten.values(), 1 + (last or 0)))
        self._next = 1 + (last or 0) + len(self._unwritten)


def _add(database: sqlite3.Connection, counter: str, more: int) -> int:
    """Add to a counter; return its value."""
    return int(database.execute(_ADD, (counter, more, more)).fetchone()[0])
