"""How many events there would have been at another threshold, by the rule that makes them."""

import sqlite3
from dataclasses import dataclass
from typing import Final

from contract.event import Event, EventRule, EventTracker
from contract.manifest import open_bundle
from worker.console.queries import Answer, raw_scores, scored_cameras
from worker.console.settings import ConsoleSettings

MAX_SCORES: Final = 400_000
MAX_SPANS: Final = 200
_THRESHOLD_IN_FORCE: Final = (
    "SELECT threshold FROM scores JOIN cameras ON number = camera WHERE camera_id = ? ORDER BY at_ms DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class RuleInUse:
    """How scores become events.

    Attributes:
        rule: The rule.
        release_threshold: Score below which an open event begins to end; the threshold where None.
        name: Of the bundle whose it is; None where it is the settings'.
    """

    rule: EventRule
    release_threshold: float | None = None
    name: str | None = None

    @staticmethod
    def of(settings: ConsoleSettings) -> "RuleInUse":
        """The named bundle's rule, or the settings'.

        Raises:
            BundleError: The bundle cannot be trusted.
        """
        if settings.bundle is None:
            return RuleInUse(settings.event_rule)
        manifest = open_bundle(settings.bundle).manifest
        return RuleInUse(manifest.event_rule, manifest.calibration.release_threshold, manifest.name)


def what_if(connection: sqlite3.Connection, used: RuleInUse, threshold: float) -> Answer:
    """Feed every camera's held scores to the rule at another threshold, and at the one in force.

    The first frame held may lie within an event; one that has not ended counts.

    Args:
        connection: The database.
        used: The rule.
        threshold: Score from which a frame would be anomalous.

    Returns:
        The rule, and of each camera the ``scores`` that were looked at with their first and last capture time, the
        ``events`` and their ``spans`` at the threshold asked for, and ``events_now`` at its latest one.
    """
    names = scored_cameras(connection)
    most = MAX_SCORES // max(1, len(names))
    return {
        "threshold": threshold,
        "rule": used.rule.model_dump(),
        "rule_of": used.name,
        "cameras": [_camera(connection, used, threshold, name, most) for name in names],
    }


def find_events(scores: list[tuple[int, float]], used: RuleInUse, threshold: float) -> list[Event]:
    """Events that the rule makes of one camera's scores, in order; positions count the scores."""
    release = threshold if used.release_threshold is None else min(used.release_threshold, threshold)
    tracker = EventTracker(used.rule, threshold, release)
    told = [tracker.update(position, score) for position, (_, score) in enumerate(scores)]
    told.append(tracker.close())
    return [one[1] for one in told if one is not None and one[0] == "ended"]


def _camera(connection: sqlite3.Connection, used: RuleInUse, threshold: float, name: str, most: int) -> Answer:
    scores = raw_scores(connection, name, most)
    row = connection.execute(_THRESHOLD_IN_FORCE, (name,)).fetchone()
    events = find_events(scores, used, threshold)
    return {
        "camera_id": name,
        "scores": len(scores),
        "from_ms": scores[0][0] if scores else None,
        "to_ms": scores[-1][0] if scores else None,
        "events": len(events),
        "events_now": len(find_events(scores, used, row[0])) if row else 0,
        "threshold_now": row[0] if row else None,
        "spans": [[scores[event.first][0], scores[event.last][0]] for event in events[-MAX_SPANS:]],
    }
