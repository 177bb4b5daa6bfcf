"""What the console writes: rows of Kafka's records with the offsets behind them, in one transaction each time.

So after any stop it goes on with the first record whose rows are not there. Whatever comes twice changes nothing: an
event's row is that of its latest alert by transition, not by arrival, scores stand under their frame's place, and
minutes hold maxima.
"""

import contextlib
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from worker.console.reading import AlertRow, NoticeRow, Row, ScoreRow, VerdictRow
from worker.console.schema import open_writer

Place = tuple[str, int]
"""Topic and partition."""

MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_STEP_ROWS: Final = 1_000
_LEAST_ROWS: Final = 20
_STEP_SHARE: Final = 20
_VACUUM_PAGES: Final = 2_000
_AGEING: Final = ("events", "notices", "verdicts")
_EVENT = (
    "event_id, camera_id, alert_id, state, rank, told_at_ms, sorted_at_ms, started_at_ms, peak_at_ms, ended_at_ms, "
    "peak_score, threshold, p_value, severity, area_percent, facts"
)
_EVENT_FIELDS: Final = len(_EVENT.split(","))
_UPSERT_EVENT: Final = (
    f"INSERT INTO events ({_EVENT}) VALUES ({', '.join('?' * _EVENT_FIELDS)}) ON CONFLICT (event_id) DO UPDATE SET "  # noqa: S608 - constants alone
    + ", ".join(f"{name} = excluded.{name}" for name in _EVENT.split(", ")[2:])
    + " WHERE excluded.rank >= events.rank AND excluded.camera_id = events.camera_id"
)
_UPSERT_NOTICE: Final = (
    "INSERT INTO notices (notice_id, type, camera_id, state, told_at_ms, sorted_at_ms, ended_at_ms, facts) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (notice_id) DO UPDATE SET type = excluded.type, "
    "state = excluded.state, told_at_ms = excluded.told_at_ms, sorted_at_ms = excluded.sorted_at_ms, "
    "ended_at_ms = excluded.ended_at_ms, facts = excluded.facts "
    "WHERE excluded.camera_id = notices.camera_id AND (excluded.ended_at_ms IS NOT NULL OR notices.ended_at_ms IS NULL)"
)
_UPSERT_VERDICT: Final = (
    "INSERT INTO verdicts (event_id, camera_id, verdict, note, at_ms, by, told_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (event_id, camera_id) DO UPDATE SET verdict = excluded.verdict, note = excluded.note, "
    "at_ms = excluded.at_ms, by = excluded.by, told_at_ms = excluded.told_at_ms"
)


class Changes(NamedTuple):
    """What a write may have changed.

    Attributes:
        event_ids: Events whose row, pictures or verdict it may be.
        has_notices: Whether there were alerts that are of no anomaly.
    """

    event_ids: set[str]
    has_notices: bool


class Store:
    """The database's one writer; every method may be called from any thread.

    Args:
        path: The file, which `worker.console.schema.held` holds.
        max_cameras: Cameras whose scores are kept.

    Raises:
        ConfigError: The file cannot be written.
    """

    def __init__(self, path: Path, max_cameras: int) -> None:
        self._lock = threading.Lock()
        self._path = path
        self._max_cameras = max_cameras
        self._open()

    def _open(self) -> None:
        self._connection = open_writer(self._path)
        # A crash of the machine may lose the last transactions, rows and offsets alike: they are read again.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        rows = self._connection.execute("SELECT camera_id, number FROM cameras")
        self._cameras: dict[str, int] = dict(rows)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def belongs_to(self, source: str) -> bool:
        """Say which cluster and topics the rows are of; those of others are dropped first, and False is returned."""
        with self._lock, self._transaction() as connection:
            held = connection.execute("SELECT value FROM meta WHERE name = 'source'").fetchone()
            if held is not None and held[0] == source:
                return True
            for table in ("offsets", "events", "pictures", "notices", "verdicts", "scores", "minutes", "cameras"):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 - constants alone
            self._cameras = {}
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('source', ?)", (source,))
            return held is None

    def offsets(self) -> dict[Place, int]:
        """Offset of the next record of each partition."""
        with self._lock:
            rows = self._connection.execute("SELECT topic, partition, next FROM offsets").fetchall()
        return {(topic, partition): following for topic, partition, following in rows}

    def apply(self, rows: Sequence[Row], offsets: Mapping[Place, int], malformed: Mapping[str, int]) -> Changes:
        """Write rows, counts of what was passed over, and offsets, all or nothing; says what may have changed."""
        with self._lock, self._transaction() as connection:
            changed = {row.event_id for row in rows if isinstance(row, AlertRow) and _put_alert(connection, row)}
            notices = [row for row in rows if isinstance(row, NoticeRow)]
            connection.executemany(_UPSERT_NOTICE, notices)
            verdicts = [row for row in rows if isinstance(row, VerdictRow)]
            connection.executemany(_UPSERT_VERDICT, verdicts)
            changed |= {row.event_id for row in verdicts}
            counts = Counter(malformed)
            counts["too_many_cameras"] += self._put_scores([row for row in rows if isinstance(row, ScoreRow)])
            connection.executemany(
                "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET count = count + excluded.count",
                [(name, count) for name, count in counts.items() if count],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)",
                [(topic, partition, following) for (topic, partition), following in offsets.items()],
            )
        return Changes(changed, bool(notices))

    def prune(self, now_ms: int, retention_days: float, raw_score_hours: float, max_bytes: int) -> bool:
        """Delete some of what is too old, or too much; returns whether there may be more, so call it again soon."""
        oldest, oldest_raw = now_ms - round(retention_days * _DAY_MS), now_ms - round(raw_score_hours * _HOUR_MS)
        with self._lock:
            with self._transaction() as connection:
                gone = [_delete_oldest(connection, table, oldest, _STEP_ROWS) for table in _AGEING]
                gone += [self._prune_scores("minutes", oldest), self._prune_scores("scores", oldest_raw)]
                if self._used_bytes() > max_bytes:
                    gone += [
                        _delete_oldest(connection, table, 2**62, _share_of(connection, table)) for table in _AGEING
                    ]
                    gone += [self._prune_scores(table, self._early_ms(table)) for table in ("scores", "minutes")]
                if any(gone):
                    connection.execute("DELETE FROM pictures WHERE event_id NOT IN (SELECT event_id FROM events)")
                    connection.execute(
                        "DELETE FROM cameras WHERE number NOT IN (SELECT camera FROM minutes) "
                        "AND number NOT IN (SELECT camera FROM scores)"
                    )
                    self._cameras = dict(connection.execute("SELECT camera_id, number FROM cameras"))
            # As a script, since execute steps once, which gives one page back; within a transaction it does nothing.
            self._connection.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
            return max(gone) >= _LEAST_ROWS or self._used_bytes() > max_bytes

    def _put_scores(self, rows: Sequence[ScoreRow]) -> int:
        """Write scores and their minutes; returns how many were passed over because there are too many cameras."""
        taken = [(self._camera(row.camera_id), row) for row in rows]
        numbered = [(number, row) for number, row in taken if number is not None]
        self._connection.executemany(
            "INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (number, row.at_ms, row.partition, row.offset, row.score, row.threshold, row.counts)
                for number, row in numbered
            ],
        )
        minutes: dict[tuple[int, int], tuple[float, float]] = {}
        for number, row in numbered:
            minute = number, row.at_ms - row.at_ms % MINUTE_MS
            highest, _ = minutes.get(minute, (row.score, 0.0))
            minutes[minute] = max(highest, row.score), row.threshold
        self._connection.executemany(
            "INSERT INTO minutes VALUES (?, ?, ?, ?) ON CONFLICT (camera, at_ms) DO UPDATE SET "
            "score = max(score, excluded.score), threshold = excluded.threshold",
            [(*minute, *values) for minute, values in minutes.items()],
        )
        return len(taken) - len(numbered)

    def _camera(self, camera_id: str) -> int | None:
        number = self._cameras.get(camera_id)
        if number is None and len(self._cameras) < self._max_cameras:
            number = self._connection.execute("INSERT INTO cameras (camera_id) VALUES (?)", (camera_id,)).lastrowid
            assert number is not None  # noqa: S101 - SQLite names every row that it inserts
            self._cameras[camera_id] = number
        return number

    def _prune_scores(self, table: str, before_ms: int) -> int:
        # By camera, since that is how they lie on the disk.
        gone = 0
        for number in self._cameras.values():
            gone += self._connection.execute(
                f"DELETE FROM {table} WHERE camera = ? AND at_ms < ? AND at_ms <= (SELECT max(at_ms) FROM "  # noqa: S608
                f"(SELECT at_ms FROM {table} WHERE camera = ? ORDER BY at_ms LIMIT {_STEP_ROWS}))",
                (number, before_ms, number),
            ).rowcount
        return gone

    def _early_ms(self, table: str) -> int:
        """A time before which a small share of a table's rows lies."""
        low, high = self._connection.execute(f"SELECT min(at_ms), max(at_ms) FROM {table}").fetchone()  # noqa: S608
        return 0 if low is None else int(low) + (int(high) - int(low)) // _STEP_SHARE + 1

    def _used_bytes(self) -> int:
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            # What was noted of cameras in this transaction is not there.
            self._cameras = dict(self._connection.execute("SELECT camera_id, number FROM cameras"))
            raise
        self._connection.execute("COMMIT")


def _put_alert(connection: sqlite3.Connection, row: AlertRow) -> bool:
    """Write an alert; whether the event's row or pictures changed."""
    before = connection.total_changes
    connection.execute(_UPSERT_EVENT, row[:_EVENT_FIELDS])
    held = connection.execute(
        "SELECT alert_id, peak_at_ms, camera_id FROM events WHERE event_id = ?", (row.event_id,)
    ).fetchone()
    if held[2] != row.camera_id:
        return False
    connection.execute(
        "DELETE FROM pictures WHERE event_id = ? AND peak_at_ms != ?", (row.event_id, held[1])
    )  # of an earlier peak
    if held[1] == row.peak_at_ms:
        # Those of one peak are the same in every alert that has them.
        pictures = (("snapshot", row.snapshot), ("heat-map", row.heat_map))
        connection.executemany(
            "INSERT OR IGNORE INTO pictures VALUES (?, ?, ?, ?)",
            [(row.event_id, kind, row.peak_at_ms, data) for kind, data in pictures if data is not None],
        )
    return connection.total_changes > before


def _delete_oldest(connection: sqlite3.Connection, table: str, before_ms: int, most: int) -> int:
    return connection.execute(
        f"DELETE FROM {table} WHERE rowid IN "  # noqa: S608 - constants alone
        f"(SELECT rowid FROM {table} WHERE told_at_ms < ? ORDER BY told_at_ms LIMIT ?)",
        (before_ms, most),
    ).rowcount


def _share_of(connection: sqlite3.Connection, table: str) -> int:
    count = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - constants alone
    return max(_LEAST_ROWS, int(count) // _STEP_SHARE)
