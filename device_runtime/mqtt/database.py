"""Small SQLite databases for what must survive a power cut.

Nothing stops because one cannot be opened or written, as on a full disk: its owner keeps in memory
what it has, and tries again.
"""

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from device_runtime.logs import event

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class Database:
    """A database, opened when it is first needed. Can be used from one thread at a time.

    Args:
        path: its file; None for no database.
        tables: statements that create the tables that it does not have.
        on_open: called with the database once it is open.

    Attributes:
        failure: reason why the last transaction failed; empty if it did not.
    """

    def __init__(
        self, path: Path | None, tables: str, on_open: Callable[[sqlite3.Connection], object]
    ) -> None:
        self.failure = ""
        self._path = path
        self._tables = tables
        self._on_open = on_open
        self._connection: sqlite3.Connection | None = None

    def do(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result | None:
        """Do something in a transaction; None, and a reason in `failure`, if it fails."""
        if self._path is None:
            return None
        try:
            if self._connection is None:
                self._connection = self._with_hook(self._path)
            with self._connection:
                result = work(self._connection)
        except (sqlite3.Error, OSError) as error:
            if self.failure != str(error):
                event(log, logging.WARNING, "database_unusable", file=self._path, reason=error)
            self.failure = str(error)
            return None
        self.failure = ""
        return result

    def _with_hook(self, path: Path) -> sqlite3.Connection:
        database = _opened(path, self._tables)
        try:
            self._on_open(database)
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Close it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _opened(path: Path, tables: str) -> sqlite3.Connection:
    """Open the database; one that is damaged is put aside, and another made."""
    try:
        return _connected(path, tables)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # a full disk, say
            raise
        event(log, logging.WARNING, "database_damaged", file=path, reason=error)
        path.replace(path.with_name(f"{path.name}.damaged"))
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        return _connected(path, tables)


def _connected(path: Path, tables: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False, timeout=1)
    try:
        path.chmod(0o600)
        database.execute("PRAGMA journal_mode = WAL")
        # With less, a power cut may undo transactions (https://sqlite.org/pragma.html).
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(tables)
    except BaseException:
        database.close()
        raise
    return database
