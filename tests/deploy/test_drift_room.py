"""The room clip as it is, with its six visits, and with its world changed for good, through a model fitted to it."""

import pytest

from contract.alert import Alert
from contract.drift import DriftRule
from contract.manifest import open_bundle
from contract.runtime import Detector
from tests.changed_room import VISITS, room
from tests.deploy.test_retraining import NOBODY, STEP_MS, encoded, fit_to_the_room_as_it_was
from worker.engine import Engine
from worker.frames import IncomingFrame

WINDOW_SECONDS = 100
RULE = DriftRule(window_seconds=WINDOW_SECONDS, false_alarms_per_year=366)
DRIFT = "framewatch.camera.drift.v1"


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """The model, whose bundle says what blocks of the empty room are like."""
    return Detector(open_bundle(fit_to_the_room_as_it_was(tmp_path_factory.mktemp("room"))), "cpu", 1)


def told(detector, frames):
    """What a worker would tell of them, to the end."""
    engine = Engine(detector, drift_rule=RULE)
    incoming = [IncomingFrame("room", "frames", 0, n, STEP_MS * n, data) for n, data in enumerate(frames)]
    batches = (incoming[start : start + 32] for start in range(0, len(incoming), 32))
    alerts = [alert for batch in batches for outcome in engine.process(batch) for alert in outcome.alerts]
    return [*alerts, *engine.close_events()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_six_visits_are_events_and_no_drift_while_a_lasting_change_is_one(detector):
    # Somebody is there for two fifths of the time; in the clip itself it is four, and nine of ten in a part of it.
    comes_by = [place for first, last in VISITS for place in (*NOBODY, *range(first, last + 1))] + NOBODY
    visited = told(detector, encoded(comes_by, changed=False))
    assert len({alert.data.event_id for alert in visited if isinstance(alert, Alert)}) == len(VISITS)
    assert [alert for alert in visited if alert.type == DRIFT] == []
    lasting = told(detector, encoded(range(len(room())), changed=True))
    started, ended = (alert for alert in lasting if alert.type == DRIFT)
    assert started.data.event_id == ended.data.event_id
    assert started.data.drift.direction == "higher"
    assert started.data.started_at_ms <= 2000
    assert 0.9 * WINDOW_SECONDS <= started.time.timestamp() <= 1.1 * WINDOW_SECONDS
