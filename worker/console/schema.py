"""The tables of the console's database, and how a file of them is opened; it is held by one console at a time."""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from contract.errors import ConfigError

SCHEMA_VERSION: Final = "1"
"""Changes with the tables, and with what a row means; a file of another version is made anew from Kafka."""

_BUSY_SECONDS: Final = 10.0
_TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE offsets (topic TEXT, partition INTEGER, next INTEGER NOT NULL, PRIMARY KEY (topic, partition));
CREATE TABLE counts (name TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE events (
  event_id TEXT PRIMARY KEY, camera_id TEXT NOT NULL, alert_id TEXT NOT NULL, state TEXT NOT NULL,
  rank INTEGER NOT NULL, told_at_ms INTEGER NOT NULL, sorted_at_ms INTEGER NOT NULL, started_at_ms INTEGER NOT NULL,
  peak_at_ms INTEGER NOT NULL, ended_at_ms INTEGER, peak_score REAL NOT NULL, threshold REAL NOT NULL,
  p_value REAL NOT NULL, severity TEXT NOT NULL, area_percent REAL NOT NULL, facts TEXT NOT NULL
);
CREATE INDEX events_by_time ON events (sorted_at_ms, event_id);
CREATE INDEX events_by_told ON events (told_at_ms);
CREATE TABLE pictures (
  event_id TEXT, kind TEXT, peak_at_ms INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (event_id, kind)
);
CREATE TABLE notices (
  notice_id TEXT PRIMARY KEY, type TEXT NOT NULL, camera_id TEXT NOT NULL, state TEXT, told_at_ms INTEGER NOT NULL,
  sorted_at_ms INTEGER NOT NULL, ended_at_ms INTEGER, facts TEXT NOT NULL
);
CREATE INDEX notices_by_time ON notices (sorted_at_ms);
CREATE INDEX notices_by_told ON notices (told_at_ms);
CREATE TABLE verdicts (
  event_id TEXT, camera_id TEXT, verdict TEXT NOT NULL, note TEXT NOT NULL, at_ms INTEGER NOT NULL, by TEXT NOT NULL,
  told_at_ms INTEGER NOT NULL, PRIMARY KEY (event_id, camera_id)
);
CREATE INDEX verdicts_by_told ON verdicts (told_at_ms);
CREATE TABLE cameras (number INTEGER PRIMARY KEY, camera_id TEXT NOT NULL UNIQUE);
CREATE TABLE scores (
  camera INTEGER, at_ms INTEGER, partition INTEGER, offset INTEGER, score REAL NOT NULL, threshold REAL NOT NULL,
  counts INTEGER NOT NULL, PRIMARY KEY (camera, at_ms, partition, offset)
) WITHOUT ROWID;
CREATE TABLE minutes (
  camera INTEGER, at_ms INTEGER, score REAL NOT NULL, threshold REAL NOT NULL, PRIMARY KEY (camera, at_ms)
) WITHOUT ROWID;
"""


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a database for this process.

    Raises:
        ConfigError: Another console holds it, or its folder is not there or cannot be written.
    """
    lock_path = path.with_name(path.name + ".lock")
    file: IO[bytes] | None = None
    try:
        file = lock_path.open("ab")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"database: {path} is in use by another console; name another one") from error
    except OSError as error:
        raise ConfigError(f"database: {path} cannot be used: {error.strerror}") from error
    else:
        yield
    finally:
        if file is not None:
            file.close()


def open_writer(path: Path) -> sqlite3.Connection:
    """Open the database for writing; one that is missing, damaged or of another version is made anew and empty.

    Raises:
        ConfigError: It cannot be written.
    """
    try:
        connection = _connect(path)
        if _version(connection) != SCHEMA_VERSION:
            connection.close()
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            connection = _connect(path)
            _create(connection)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"database: {path} cannot be used: {error}") from error
    return connection


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the database for the reads of one request; they see one state of it."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    connection.isolation_level = None
    try:
        connection.execute("BEGIN")
        yield connection
    finally:
        connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    # Pictures of people stand in it: its owner's alone, and its write-ahead log takes the same mode.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    return sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level=None)


def _version(connection: sqlite3.Connection) -> str | None:
    """Version of the tables; None where there are none or the file is no whole database."""
    try:
        row = connection.execute("SELECT value FROM meta WHERE name = 'version'").fetchone()
        is_whole = connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise
    except sqlite3.DatabaseError:
        return None
    return str(row[0]) if row and is_whole else None


def _create(connection: sqlite3.Connection) -> None:
    # Before the file has its first page, and so before the mode of the journal is written into it.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(f"BEGIN;{_TABLES}COMMIT;")
    connection.execute("INSERT INTO meta VALUES ('version', ?)", (SCHEMA_VERSION,))
