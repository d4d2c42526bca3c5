"""The commands that were carried out: each only once, however often it arrives.

A command stays in the broker until its sender clears it, and arrives again with each connection.
"""

import json
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from device_runtime.mqtt.database import Database

LIMIT = 10_000
"""Commands that are remembered."""
NAME = "commands.sqlite"
"""Name of the database in the service's state folder."""
_TABLES = """
CREATE TABLE IF NOT EXISTS commands (number INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS lasting (topic TEXT PRIMARY KEY, nonce TEXT, arguments TEXT);
"""


class Lasting(NamedTuple):
    """A command that goes on after a restart of the service.

    Attributes:
        topic: topic.
        nonce: nonce.
        arguments: arguments of the verb.
    """

    topic: str
    nonce: str
    arguments: Mapping[str, Any]


class Ledger:
    """The names of the commands that a device has begun, and those that outlive the service.

    Args:
        folder: folder of the database; None remembers them until the end of the program.
        limit: number of commands to remember.
    """

    def __init__(self, folder: Path | None, limit: int = LIMIT) -> None:
        self._limit = limit
        self._begun: dict[str, None] = {}
        self._lock = threading.Lock()
        path = folder / NAME if folder is not None else None
        self._database = Database(path, _TABLES, self._on_open)
        self._database.do(lambda _: True)  # opens it

    def begin(self, name: str, lasting: Lasting | None = None) -> bool:
        """Note that a command begins, on the disk first; return whether it never has before.

        Without a disk, as on a full one, it is noted in memory alone.

        Args:
            name: tells the command apart from all others.
            lasting: the command itself if it outlives the service; None if not.
        """
        if name in self._begun:
            return False
        self._begun[name] = None
        if len(self._begun) > self._limit:
            del self._begun[next(iter(self._begun))]
        with self._lock:
            self._database.do(lambda database: self._insert(database, name, lasting))
        return True

    def lasting(self) -> list[Lasting]:
        """Return the commands of earlier runs that have not ended."""
        query = "SELECT topic, nonce, arguments FROM lasting ORDER BY rowid"
        with self._lock:
            rows = self._database.do(lambda database: database.execute(query).fetchall()) or []
        return [Lasting(topic, nonce, json.loads(arguments)) for topic, nonce, arguments in rows]

    def end(self, topic: str) -> None:
        """Note that a lasting command has ended."""
        query = "DELETE FROM lasting WHERE topic = ?"
        with self._lock:
            self._database.do(lambda database: database.execute(query, (topic,)))

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    def _insert(self, database: sqlite3.Connection, name: str, lasting: Lasting | None) -> None:
        database.execute("INSERT OR IGNORE INTO commands (name) VALUES (?)", (name,))
        query = "DELETE FROM commands WHERE number <= (SELECT max(number) FROM commands) - ?"
        database.execute(query, (self._limit,))
        if lasting is not None:
            row = (lasting.topic, lasting.nonce, json.dumps(lasting.arguments))
            database.execute("INSERT OR REPLACE INTO lasting VALUES (?, ?, ?)", row)

    def _on_open(self, database: sqlite3.Connection) -> None:
        names = database.execute("SELECT name FROM commands ORDER BY number").fetchall()
        self._begun = {**dict.fromkeys(name for (name,) in names), **self._begun}
