"""Scores as an engine gives them, on their way through the scores topic."""

import json
from types import SimpleNamespace

from worker.recorded_scores import read_score
from worker.records import score_record


def as_record(outgoing):
    """A record as it is consumed after it was sent."""
    return SimpleNamespace(key=outgoing.key, value=outgoing.value)


def recorded(outcomes, engine, *, with_map=False):
    """Scored frames, read from the records of an engine's outcomes."""
    records = [as_record(score_record(one, "scores")) for one in outcomes if one.error is None]
    return [read_score(one, with_map=with_map) for one in records]


def score_of(offset, score, /, *, key=b"door", **changes):
    """A record of the scores topic."""
    value = {
        "camera_id": "door", "topic": "frames", "partition": 0, "offset": offset, "captured_at_ms": 200 * offset,
        "anomaly_score": score, "threshold": 6.0, "is_anomalous": score >= 6.0, "counts": True, **changes,
    }  # fmt: skip
    return SimpleNamespace(key=key, value=json.dumps(value).encode())
