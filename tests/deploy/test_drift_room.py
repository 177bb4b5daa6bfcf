"""The room clip as it is, with its six visits, and with its world changed for good, through a model fitted to it."""

import cv2
import numpy as np
import pytest

from contract.alert import Alert
from contract.drift import DriftReference, DriftRule, block_values
from contract.manifest import open_bundle
from contract.runtime import Detector
from deploy.bench import encode_jpeg, room_frames
from worker.engine import Engine
from worker.frames import IncomingFrame

NOBODY = [(0, 61), (203, 228), (452, 502), (704, 745), (874, 921), (1206, 1235), (1366, 1394)]
RULE = DriftRule(window_seconds=100)
# Frames, twice what the empty room's scores are correlated over.
BLOCK = 12


def changed(data):
    """The frame with less light and with a table that was not there."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    height, width = picture.shape[:2]
    picture = (picture * 0.85).astype(np.uint8)
    for left, top, right, bottom in ((0.55, 0.55, 0.8, 0.63), (0.57, 0.63, 0.59, 0.85), (0.76, 0.63, 0.78, 0.85)):
        corners = [(int(x * width), int(y * height)) for x, y in ((left, top), (right, bottom))]
        cv2.rectangle(picture, *corners, (40, 70, 110), -1)
    return encode_jpeg(picture, 85)


def outcomes(engine, frames, begin=0):
    incoming = [IncomingFrame("room", "frames", 0, n, 100 * n, data) for n, data in enumerate(frames, begin)]
    return [
        outcome for start in range(0, len(incoming), 32) for outcome in engine.process(incoming[start : start + 32])
    ]


@pytest.fixture(scope="module")
def detector(room_bundle):
    """The model, which knows what blocks of the empty room are like."""
    made = Detector(open_bundle(room_bundle), "cpu", 1)
    frames = room_frames()
    stretches = [
        np.array([outcome.anomaly_score for outcome in outcomes(Engine(made), frames[first:end], first)])
        for first, end in NOBODY
    ]
    whole = [stretch[: len(stretch) // BLOCK * BLOCK].reshape(-1, BLOCK) for stretch in stretches]
    floor, middle = (tuple(column) for column in block_values(np.concatenate(whole)).T.tolist())
    reference = DriftReference(block_seconds=BLOCK / 10, floor=floor, middle=middle)
    manifest = made.bundle.manifest.model_copy(update={"drift": reference})
    made.bundle = type(made.bundle)(made.bundle.folder, manifest, made.bundle.digest)
    return made


@pytest.mark.slow
def test_six_visits_are_events_and_no_drift_while_a_lasting_change_is_one(detector):
    def told(frames):
        engine = Engine(detector, drift_rule=RULE)
        alerts = [alert for outcome in outcomes(engine, frames) for alert in outcome.alerts]
        return [*alerts, *engine.close_events()]

    frames = room_frames()
    visited, lasting = told(frames), told([changed(data) for data in frames])
    assert sum(isinstance(alert, Alert) for alert in visited) >= 6
    assert [alert for alert in visited if alert.type == "framewatch.camera.drift.v1"] == []
    started, ended = (alert for alert in lasting if alert.type == "framewatch.camera.drift.v1")
    assert started.data.event_id == ended.data.event_id
    assert started.data.drift.direction == "higher"
    assert started.data.started_at_ms <= 2000
    assert 90_000 <= 1000 * started.time.timestamp() <= 105_000
