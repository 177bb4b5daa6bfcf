"""Footage read from a topic, kept on disk: one SQLite file a plan, whose stretches appear whole or not at all.

``REQUEST-PLAN.sqlite`` holds what a plan gave, under digests of what was asked for and of the plan; beside it stands
``REQUEST-PLAN.lock``, which its users share and which nothing is removed under.
"""

import fcntl
import json
import os
import sqlite3
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Final

from contract.clip import Clip, SourceFrame
from contract.errors import CacheError

_SUFFIX: Final = ".sqlite"
_FOLDER_LOCK: Final = "folder.lock"
_BUSY_SECONDS: Final = 60.0
_DAY_SECONDS: Final = 86_400
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS stretches (
    number INTEGER PRIMARY KEY, seen INTEGER NOT NULL, kept INTEGER NOT NULL, in_events INTEGER NOT NULL,
    no_picture INTEGER NOT NULL, is_whole INTEGER NOT NULL, partitions TEXT NOT NULL, was_wide INTEGER NOT NULL,
    first_bad TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS frames (
    stretch INTEGER NOT NULL, place INTEGER NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
    captured_at_ms INTEGER NOT NULL, height INTEGER NOT NULL, width INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (stretch, place)
);
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a stretch gave.

    Attributes:
        number: Which stretch.
        seen: Records of the camera in it that were looked at.
        kept: Those that are footage.
        in_events: Those left out since they lie within an event.
        no_picture: Those left out since they are no picture.
        is_whole: Whether all of the stretch was looked at.
        partitions: Numbers of the partitions in which the camera was found, separated by commas.
        was_wide: Whether it was looked for in other partitions than those in which it was found before.
        first_bad: What is wrong with the first that is no picture; empty where all are.
    """

    number: int
    seen: int = 0
    kept: int = 0
    in_events: int = 0
    no_picture: int = 0
    is_whole: bool = True
    partitions: str = ""
    was_wide: bool = False
    first_bad: str = ""


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A frame and where it stood: on the topic, and among the camera's records of its stretch."""

    place: int
    partition: int
    offset: int
    captured_at_ms: int
    height: int
    width: int
    data: bytes


class FootageCache:
    """What a plan gave so far.

    Args:
        path: The file, made where it is not there.
        lock: Descriptor of its lock, which is closed with it.

    Raises:
        CacheError: It cannot be used.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._unlock = weakref.finalize(self, os.close, lock)
        with _mapped(path):
            # Its owner's alone, whatever the folder is: SQLite gives what stands beside it the same.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            # What a crash of the machine takes back is read again; a killed process loses nothing.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file, which may be removed from then on."""
        self._connection.close()
        self._unlock()

    def fact(self, name: str) -> Any:  # noqa: ANN401 - whatever was remembered
        """What was remembered under a name; None where nothing was."""
        with _mapped(self.path):
            row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def remember(self, **facts: Any) -> None:  # noqa: ANN401 - what JSON holds
        """Remember things that JSON can hold, all or none of them."""
        with self._transaction() as connection:
            rows = [(name, json.dumps(value)) for name, value in facts.items()]
            connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    def taken(self) -> dict[int, Taken]:
        """What each stretch gave that was read, by number."""
        with _mapped(self.path):
            rows = self._connection.execute(f"SELECT {_TAKEN} FROM stretches ORDER BY number").fetchall()  # noqa: S608 - constants alone
        return {
            number: Taken(number, seen, kept, in_events, no_picture, bool(is_whole), partitions, bool(was_wide), bad)
            for number, seen, kept, in_events, no_picture, is_whole, partitions, was_wide, bad in rows
        }

    def add(self, number: int, frames: Iterator[StoredFrame | Taken]) -> Taken:
        """Write a stretch as its frames come, in one transaction: after any end all of it is there, or nothing.

        Args:
            number: Which stretch.
            frames: Its frames, and last what it gave.
        """
        with self._transaction() as connection:
            connection.execute("DELETE FROM frames WHERE stretch = ?", (number,))
            for frame in frames:
                if isinstance(frame, Taken):
                    row = astuple(frame)
                    connection.execute(f"INSERT OR REPLACE INTO stretches VALUES ({_places(row)})", row)  # noqa: S608 - question marks alone
                    return frame
                row = (number, *astuple(frame))
                connection.execute(f"INSERT INTO frames VALUES ({_places(row)})", row)  # noqa: S608 - question marks alone
            raise ValueError("a stretch ends with what it gave")

    def sizes(self) -> Iterator[tuple[int, int, int, int]]:
        """Stretch, place, height and width of every frame, in order."""
        with _mapped(self.path):
            yield from self._connection.execute(
                "SELECT stretch, place, height, width FROM frames ORDER BY stretch, place"
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _mapped(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                if self._connection.in_transaction:  # a full disk has SQLite roll back by itself
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


_TAKEN: Final = ", ".join(field.name for field in fields(Taken))


def _places(row: Sequence[Any]) -> str:
    return ", ".join("?" * len(row))


@dataclass(frozen=True)
class StoredClip(Clip):
    """Frames of a cache, read from disk alone.

    Attributes:
        name: Of the clip.
        cache: The cache, which stays on disk for as long as a clip of it is held.
        pieces: Number of a stretch, first and last place in it, and the index at which its place 0 stands in the clip.
    """

    name: str
    cache: FootageCache
    pieces: tuple[tuple[int, int, int, int], ...]

    def frames(self) -> Iterator[SourceFrame]:
        """Read the frames; one at a time is in memory.

        Raises:
            CacheError: The cache is damaged.
        """
        with _mapped(self.cache.path), closing(sqlite3.connect(self.cache.path, timeout=_BUSY_SECONDS)) as connection:
            for stretch, first, last, index in self.pieces:
                rows = connection.execute(
                    "SELECT place, captured_at_ms, data FROM frames WHERE stretch = ? AND place BETWEEN ? AND ? "
                    "ORDER BY place",
                    (stretch, first, last),
                )
                for place, captured_at_ms, data in rows:
                    yield SourceFrame(index + place, captured_at_ms, data)


class CacheFolder:
    """The caches of a machine.

    Args:
        path: The folder, made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        # Its owner's alone: it holds what cameras saw.
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path

    @contextmanager
    def asked(self, request: str) -> Iterator[None]:
        """Have what is asked for to oneself while it is planned and read; waits for whoever else reads it."""
        with _locked(self._path / f"{request}.lock"):
            yield

    def newest(self, request: str) -> str | None:
        """Digest of the plan that was used last for a request; None where there is none."""
        with _locked(self._path / _FOLDER_LOCK):
            found = sorted(self._path.glob(f"{request}-*{_SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
        return found[-1].stem.removeprefix(f"{request}-") if found else None

    def use(self, request: str, plan: str) -> FootageCache:
        """Open a cache; it is not removed while it is held.

        Raises:
            CacheError: It cannot be used.
        """
        path = self._path / f"{request}-{plan}{_SUFFIX}"
        with _locked(self._path / _FOLDER_LOCK):
            lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_SH)
        cache = FootageCache(path, lock)
        os.utime(path)
        return cache

    def prune(self, days: float) -> int:
        """Remove the caches that nobody used for so many days and nobody uses now; say how many."""
        oldest = time.time() - days * _DAY_SECONDS
        removed = 0
        with _locked(self._path / _FOLDER_LOCK):
            for path in self._path.glob(f"*-*{_SUFFIX}"):
                if path.stat().st_mtime >= oldest:
                    continue
                lock = path.with_suffix(".lock")
                with lock.open("a") as held:
                    try:
                        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    for one in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), lock):
                        one.unlink(missing_ok=True)
                    removed += 1
        return removed


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _mapped(path: Path) -> Iterator[None]:
    """Map SQLite's errors to the project's.

    Raises:
        CacheError: The file is damaged, or cannot be written.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise CacheError(f"footage cache {path}: {error}; is the disk full? if it is damaged, remove it") from error
