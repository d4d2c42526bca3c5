"""Events that wait for the broker: on the disk, in order, bounded.

An event leaves the disk when the broker has acknowledged it, so neither an outage of the broker nor
a power cut loses one; one may be published twice. At the bound the oldest are dropped, and counted.
What cannot be written, as on a full disk, stays in memory, with the same bound, until it can.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from device_runtime.logs import event
from device_runtime.mqtt.contract import SpoolState

log = logging.getLogger(__name__)

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

_Result = TypeVar("_Result")


class Spool:
    """The events of a device, numbered in their order. Can be used from any thread.

    Args:
        folder: folder of the database; None keeps events in memory alone.
        limit: number of events to keep.

    Attributes:
        failure: reason why events are not on the disk; empty if they are.
    """

    def __init__(self, folder: Path | None, limit: int = LIMIT) -> None:
        self.failure = ""
        self._folder = folder
        self._limit = limit
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._unwritten: dict[int, bytes] = {}
        self._lost = 0
        self._sessions = 0
        self._next = 1
        self._do(lambda _: True)  # opens the database

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
            written = self._do(lambda db: db.execute(query, (number, limit)).fetchall()) or []
            waiting = [entry for entry in self._unwritten.items() if entry[0] > number]
            return [*written, *waiting][:limit]

    def remove(self, number: int) -> None:
        """Drop an event that has arrived."""
        with self._lock:
            if self._unwritten.pop(number, None) is None:
                query = "DELETE FROM events WHERE number = ?"
                self._do(lambda db: db.execute(query, (number,)))

    def next_session(self) -> int:
        """Count one more connection to the broker; return its number, which only grows."""
        with self._lock:
            self._sessions += 1
            return self._do(lambda db: _add(db, "sessions", 1)) or self._sessions

    def state(self) -> SpoolState:
        """Count the events that wait, and those that were dropped."""
        with self._lock:
            query = (
                "SELECT (SELECT count(*) FROM events), "
                "(SELECT value FROM counters WHERE name = 'dropped')"
            )
            written, dropped = self._do(lambda db: db.execute(query).fetchone()) or (0, 0)
            return SpoolState(
                depth=written + len(self._unwritten), dropped=(dropped or 0) + self._lost
            )

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _write(self) -> None:
        """Write what is in memory; keep it there, within the bound, if that fails."""
        if self._unwritten:
            written: bool | None = self._do(self._insert)
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

    def _do(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result | None:
        """Do something in a transaction; None, and a reason in `failure`, if it fails."""
        if self._folder is None:
            return None
        try:
            if self._database is None:
                self._database = self._open(self._folder)
            with self._database:
                result = work(self._database)
        except (sqlite3.Error, OSError) as error:
            if self.failure != str(error):
                event(log, logging.WARNING, "events_not_on_disk", reason=error)
            self.failure = str(error)
            return None
        self.failure = ""
        return result

    def _open(self, folder: Path) -> sqlite3.Connection:
        """Open the database; events that are in memory by then follow those that it has."""
        database = _opened(folder / NAME)
        (last,) = database.execute("SELECT max(number) FROM events").fetchone()
        self._unwritten = dict(enumerate(self._unwritten.values(), 1 + (last or 0)))
        self._next = 1 + (last or 0) + len(self._unwritten)
        return database


def _opened(path: Path) -> sqlite3.Connection:
    """Open the database; one that is damaged is put aside, and another made."""
    try:
        return _connected(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # a full disk, say
            raise
        event(log, logging.WARNING, "spool_damaged", file=path, reason=error)
        path.replace(path.with_name(f"{NAME}.damaged"))
        for ending in ("-wal", "-shm"):
            path.with_name(NAME + ending).unlink(missing_ok=True)
        return _connected(path)


def _connected(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False, timeout=1)
    try:
        path.chmod(0o600)
        database.execute("PRAGMA journal_mode = WAL")
        # With less, a power cut may undo transactions (https://sqlite.org/pragma.html).
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(_TABLES)
    except BaseException:
        database.close()
        raise
    return database


def _add(database: sqlite3.Connection, counter: str, more: int) -> int:
    """Add to a counter; return its value."""
    return int(database.execute(_ADD, (counter, more, more)).fetchone()[0])
