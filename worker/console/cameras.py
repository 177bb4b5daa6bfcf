"""How the cameras are: when each was last scored, how often, what its events and its own health alerts say."""

import sqlite3
from typing import Final

from worker.console.queries import Answer
from worker.console.store import MINUTE_MS

MAX_SHOWN: Final = 1_000
_DAY_MS: Final = 86_400_000


def list_cameras(connection: sqlite3.Connection, now_ms: int, silent_seconds: float) -> list[Answer]:
    """Every camera of which something is held, by its id, at most a thousand.

    Returns:
        Of each: ``camera_id``; ``last_at_ms``, ``last_score`` and ``threshold`` of its latest score, or None;
        ``frames_per_minute``; ``is_silent``, None where it was never scored; ``events_a_day`` and ``open_events``;
        ``trouble``: state and beginning of a health alert that has not ended, or None.
    """
    cameras: dict[str, Answer] = {
        camera_id: {**_EMPTY, "camera_id": camera_id, **_scored(connection, number, now_ms, silent_seconds)}
        for number, camera_id in connection.execute("SELECT number, camera_id FROM cameras ORDER BY camera_id")
    }
    events = connection.execute(
        "SELECT camera_id, sum(sorted_at_ms >= ?) AS events_a_day, sum(state != 'ended') AS open_events FROM events "
        "GROUP BY camera_id",
        (now_ms - _DAY_MS,),
    )
    for row in events:
        cameras.setdefault(row["camera_id"], {**_EMPTY, "camera_id": row["camera_id"]}).update(dict(row))
    troubles = connection.execute(
        "SELECT camera_id, state, max(sorted_at_ms) AS since_ms FROM notices "
        "WHERE state IS NOT NULL AND ended_at_ms IS NULL GROUP BY camera_id"
    )
    for row in troubles:
        camera = cameras.setdefault(row["camera_id"], {**_EMPTY, "camera_id": row["camera_id"]})
        camera["trouble"] = {"state": row["state"], "since_ms": row["since_ms"]}
    return [cameras[camera_id] for camera_id in sorted(cameras)][:MAX_SHOWN]


_EMPTY: Final[Answer] = {
    "last_at_ms": None, "last_score": None, "threshold": None, "frames_per_minute": 0, "is_silent": None,
    "events_a_day": 0, "open_events": 0, "trouble": None,
}  # fmt: skip


def _scored(connection: sqlite3.Connection, number: int, now_ms: int, silent_seconds: float) -> Answer:
    last = connection.execute(
        "SELECT at_ms, score, threshold FROM scores WHERE camera = ? ORDER BY at_ms DESC LIMIT 1", (number,)
    ).fetchone()
    if last is None:
        last = connection.execute(
            "SELECT at_ms, score, threshold FROM minutes WHERE camera = ? ORDER BY at_ms DESC LIMIT 1", (number,)
        ).fetchone()
    if last is None:
        return {}
    count = connection.execute(
        "SELECT count(*) FROM scores WHERE camera = ? AND at_ms > ?", (number, now_ms - MINUTE_MS)
    ).fetchone()[0]
    is_silent = now_ms - last["at_ms"] > silent_seconds * 1000
    return {
        "last_at_ms": last["at_ms"], "last_score": last["score"], "threshold": last["threshold"],
        "frames_per_minute": count, "is_silent": is_silent,
    }  # fmt: skip
