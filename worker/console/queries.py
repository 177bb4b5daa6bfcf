"""What the console reads of its database for one answer; every function takes a connection and changes nothing."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from worker.console.reading import PictureKind
from worker.console.store import MINUTE_MS

Answer = dict[str, Any]
"""What becomes JSON."""

MAX_LISTED: Final = 200
MAX_BARS: Final = 5_000
MAX_NOTICES: Final = 100
_EVENT: Final = """
SELECT e.event_id, e.camera_id, e.state, e.severity, e.started_at_ms, e.peak_at_ms, e.ended_at_ms, e.sorted_at_ms,
  e.told_at_ms, e.peak_score, e.threshold, e.p_value, e.area_percent, e.facts,
  EXISTS (SELECT 1 FROM pictures p WHERE p.event_id = e.event_id AND p.kind = 'snapshot') AS has_snapshot,
  EXISTS (SELECT 1 FROM pictures p WHERE p.event_id = e.event_id AND p.kind = 'heat-map') AS has_heat_map,
  v.verdict, v.note, v.at_ms AS said_at_ms, v.by AS said_by
FROM events e LEFT JOIN verdicts v ON v.event_id = e.event_id AND v.camera_id = e.camera_id
"""
_TEXTS: Final = ("e.camera_id", "e.event_id", "e.severity", "e.facts", "v.note", "v.by")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are asked for; None and empty ask for all.

    Attributes:
        camera_id: Of this camera.
        severity: Of this severity.
        state: ``open``, or ``ended``.
        verdict: ``confirmed``, ``false_alarm``, or ``none``.
        text: Part of a camera's id, an event's, a bundle's name, a note.
        before: Those behind this place in the list: its time, ms since 1970, and event id.
    """

    camera_id: str | None = None
    severity: str | None = None
    state: str | None = None
    verdict: str | None = None
    text: str = ""
    before: tuple[int, str] | None = None


def list_events(connection: sqlite3.Connection, wanted: Wanted, limit: int) -> list[Answer]:
    """Events, the latest first."""
    conditions, values = _conditions(wanted)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = connection.execute(
        f"{_EVENT} {where} ORDER BY e.sorted_at_ms DESC, e.event_id DESC LIMIT ?", (*values, min(limit, MAX_LISTED))
    )
    return [_event(row) for row in rows]


def list_events_by_id(connection: sqlite3.Connection, event_ids: Sequence[str]) -> list[Answer]:
    """Those of the named events that are held."""
    places = ", ".join("?" * len(event_ids))
    rows = connection.execute(f"{_EVENT} WHERE e.event_id IN ({places})", list(event_ids))
    return [_event(row) for row in rows]


def find_event(connection: sqlite3.Connection, event_id: str) -> Answer | None:
    """One event with all that is known of it; None where it is not held."""
    row = connection.execute(f"{_EVENT} WHERE e.event_id = ?", (event_id,)).fetchone()
    return None if row is None else {**_event(row), **json.loads(row["facts"])}


def find_picture(connection: sqlite3.Connection, event_id: str, kind: PictureKind) -> bytes | None:
    """A JPEG; None where there is none."""
    row = connection.execute("SELECT data FROM pictures WHERE event_id = ? AND kind = ?", (event_id, kind)).fetchone()
    return None if row is None else bytes(row["data"])


def list_bars(connection: sqlite3.Connection, from_ms: int, to_ms: int) -> list[Answer]:
    """What a timeline shows of the events that lie at least partly between two times, the latest first."""
    rows = connection.execute(
        "SELECT e.event_id, e.camera_id, e.state, e.severity, e.sorted_at_ms, e.ended_at_ms, v.verdict FROM events e "
        "LEFT JOIN verdicts v ON v.event_id = e.event_id AND v.camera_id = e.camera_id "
        "WHERE e.sorted_at_ms <= ? AND (e.state != 'ended' OR e.ended_at_ms >= ? OR e.sorted_at_ms >= ?) "
        "ORDER BY e.sorted_at_ms DESC LIMIT ?",
        (to_ms, from_ms, from_ms, MAX_BARS),
    )
    return [dict(row) for row in rows]


def list_notices(connection: sqlite3.Connection) -> list[Answer]:
    """The latest alerts that are of no anomaly."""
    rows = connection.execute(
        "SELECT notice_id, type, camera_id, state, sorted_at_ms, ended_at_ms, facts FROM notices "
        "ORDER BY sorted_at_ms DESC LIMIT ?",
        (MAX_NOTICES,),
    )
    return [{**dict(row), "facts": json.loads(row["facts"])} for row in rows]


def curve(connection: sqlite3.Connection, camera_id: str, from_ms: int, to_ms: int, points: int) -> Answer:
    """A camera's scores between two times, the highest of each stretch; where raw ones are gone, those of minutes.

    Returns:
        ``stretch_ms`` and ``points``, each of them its stretch's beginning, highest score and threshold.
    """
    stretch_ms = max(1, -(-(to_ms - from_ms) // points))
    number = _number(connection, camera_id)
    first_raw = connection.execute("SELECT min(at_ms) FROM scores WHERE camera = ?", (number,)).fetchone()[0]
    first_raw = to_ms if first_raw is None else max(from_ms, first_raw)
    found = connection.execute(
        "SELECT min(at_ms), max(score), max(threshold) FROM ("
        "SELECT at_ms, score, threshold FROM minutes "
        "WHERE camera = :camera AND at_ms >= :start AND at_ms < :raw_minute UNION ALL "
        "SELECT at_ms, score, threshold FROM scores WHERE camera = :camera AND at_ms >= :raw AND at_ms <= :end"
        ") GROUP BY at_ms / :stretch ORDER BY min(at_ms)",
        {
            "camera": number, "start": from_ms - from_ms % MINUTE_MS, "raw": first_raw, "end": to_ms,
            "stretch": stretch_ms, "raw_minute": first_raw - first_raw % MINUTE_MS,
        },
    )  # fmt: skip
    return {"stretch_ms": stretch_ms, "points": [list(row) for row in found]}


def raw_scores(connection: sqlite3.Connection, camera_id: str, limit: int) -> list[tuple[int, float]]:
    """A camera's latest raw scores with their capture times, in order of capture; those that do not count as normal."""
    rows = connection.execute(
        "SELECT at_ms, iif(counts, score, -100) FROM scores WHERE camera = ? "
        "ORDER BY at_ms DESC, partition DESC, offset DESC LIMIT ?",
        (_number(connection, camera_id), limit),
    ).fetchall()
    return [(row[0], row[1]) for row in reversed(rows)]


def scored_cameras(connection: sqlite3.Connection) -> list[str]:
    """Cameras of which scores are held."""
    return [row[0] for row in connection.execute("SELECT camera_id FROM cameras ORDER BY camera_id")]


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Records that were passed over, by reason."""
    return {row[0]: row[1] for row in connection.execute("SELECT name, count FROM counts ORDER BY name")}


def _number(connection: sqlite3.Connection, camera_id: str) -> int:
    row = connection.execute("SELECT number FROM cameras WHERE camera_id = ?", (camera_id,)).fetchone()
    return -1 if row is None else int(row[0])


def _event(row: sqlite3.Row) -> Answer:
    fields = dict(row)
    del fields["facts"]
    said = {name: fields.pop(name) for name in ("verdict", "note", "said_at_ms", "said_by")}
    fields["has_snapshot"], fields["has_heat_map"] = bool(fields["has_snapshot"]), bool(fields["has_heat_map"])
    return {**fields, "said": said if said["verdict"] is not None else None}


def _conditions(wanted: Wanted) -> tuple[list[str], list[Any]]:
    conditions: list[str] = []
    values: list[Any] = []
    for column, value in (("e.camera_id", wanted.camera_id), ("e.severity", wanted.severity)):
        if value is not None:
            conditions.append(f"{column} = ?")
            values.append(value)
    if wanted.state is not None:
        conditions.append("e.state = 'ended'" if wanted.state == "ended" else "e.state != 'ended'")
    if wanted.verdict == "none":
        conditions.append("v.verdict IS NULL")
    elif wanted.verdict is not None:
        conditions.append("v.verdict = ?")
        values.append(wanted.verdict)
    for word in wanted.text.split()[:8]:
        conditions.append(f"({' OR '.join(f'{text} LIKE ? ESCAPE ?' for text in _TEXTS)})")
        values += [f"%{_escaped(word)}%", "\\"] * len(_TEXTS)
    if wanted.before is not None:
        conditions.append("(e.sorted_at_ms, e.event_id) < (?, ?)")
        values += wanted.before
    return conditions, values


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
