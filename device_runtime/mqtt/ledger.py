"""The commands that were carried out: each only once, however often it arrives.

A command stays in the broker until its sender clears it, and arrives again with each connection.
"""

import sqlite3
from pathlib import Path

from device_runtime.mqtt.database import Database

LIMIT = 10_000
"""Commands that are remembered."""
NAME = "commands.sqlite"
"""Name of the database in the service's state folder."""
_TABLES = "CREATE TABLE IF NOT EXISTS commands (number INTEGER PRIMARY KEY, name TEXT UNIQUE);"


class Ledger:
    """The names of the commands that a device has begun. For one thread.

    Args:
        folder: folder of the database; None remembers them until the end of the program.
        limit: number of commands to remember.
    """

    def __init__(self, folder: Path | None, limit: int = LIMIT) -> None:
        self._limit = limit
        self._begun: dict[str, None] = {}
        path = folder / NAME if folder is not None else None
        self._database = Database(path, _TABLES, self._on_open)
        self._database.do(lambda _: True)  # opens it

    def begin(self, name: str) -> bool:
        """Note that a command begins, on the disk first; return whether it never has before.

        Without a disk, as on a full one, it is noted in memory alone.
        """
        if name in self._begun:
            return False
        self._begun[name] = None
        if len(self._begun) > self._limit:
            del self._begun[next(iter(self._begun))]
        self._database.do(lambda database: self._insert(database, name))
        return True

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _insert(self, database: sqlite3.Connection, name: str) -> None:
        database.execute("INSERT OR IGNORE INTO commands (name) VALUES (?)", (name,))
        query = "DELETE FROM commands WHERE number <= (SELECT max(number) FROM commands) - ?"
        database.execute(query, (self._limit,))

    def _on_open(self, database: sqlite3.Connection) -> None:
        names = database.execute("SELECT name FROM commands ORDER BY number").fetchall()
        self._begun = {**dict.fromkeys(name for (name,) in names), **self._begun}
