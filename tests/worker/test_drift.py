import json
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from contract.alert import BundleReference, CameraAlert, read_alert
from contract.drift import DriftReference, DriftRule
from contract.event import EventRule
from contract.frame import Preprocessing
from contract.scene import SceneReference
from tests.calibrations import made_calibration
from worker.alerts_view import describe
from worker.engine import Engine
from worker.frames import IncomingFrame
from worker.health_rule import HealthRule
from worker.profile import make_profile
from worker.telemetry import Metrics

RULE = DriftRule(window_seconds=300)
HEALTH = HealthRule(enabled=False)
FRAMES_A_WINDOW = 150
TAKEN_AWAY = 600
CHANGED = range(200, TAKEN_AWAY)
LIMIT = 4096


def detector(digest="a", drift="normal"):
    """A detector whose score is a frame's lightness, in hundredths."""
    chance = np.random.default_rng(0)
    floor, middle = np.quantile(chance.integers(40, 60, (40, 5)) / 100, [0.2, 0.5], axis=1)
    reference = DriftReference(block_seconds=10.0, floor=tuple(floor), middle=tuple(middle))
    manifest = SimpleNamespace(
        preprocessing=Preprocessing(height=16, width=16),
        shape=SimpleNamespace(clip_frames=1, anomaly_map=(1, 1)),
        calibration=made_calibration(),
        event_rule=EventRule(min_frames=2, gap_frames=4),
        scene=None,
        drift=reference if drift == "normal" else drift,
    )

    def score(clips):
        scores = (clips[:, -1, ..., 0].mean((1, 2)) / 100).astype(np.float32)
        return scores, scores.reshape(-1, 1, 1)

    named = BundleReference(name="fake", version="1", digest="sha256:" + digest * 64)
    return SimpleNamespace(
        bundle=SimpleNamespace(manifest=manifest, reference=named), score=score, scores_whole_batches=True
    )


def frames(changed=CHANGED, count=900, by=60, camera="door"):
    """A frame every two seconds, lighter while its world is changed; every third offset is this camera's."""
    chance = np.random.default_rng(1)
    for number in range(count):
        level = int(chance.integers(40, 60)) + (by if number in changed else 0)
        data = cv2.imencode(".png", np.full((16, 16), level, np.uint8))[1].tobytes()
        yield IncomingFrame(camera, "frames", 0, 3 * number, 2000 * number, data)


def made(scorer=None, **more):
    return Engine(scorer or detector(), **{"drift_rule": RULE, "health_rule": HEALTH, **more})


def outcomes_of(engine, some, size=16):
    some = list(some)
    return [outcome for start in range(0, len(some), size) for outcome in engine.process(some[start : start + size])]


def told(engine, some, size=16):
    alerts = [alert for outcome in outcomes_of(engine, some, size) for alert in outcome.alerts]
    return [alert for alert in alerts if isinstance(alert, CameraAlert)]


@pytest.mark.parametrize("size", [1, 16, 900])
def test_a_world_that_changed_for_good_is_told_of_with_its_end(size):
    started, ended = told(made(), frames(), size)
    assert started.type == ended.type == "framewatch.camera.drift.v1"
    assert started.data.event_id == ended.data.event_id
    assert [alert.id.rpartition(".")[2] for alert in (started, ended)] == ["started", "ended"]
    window_ms = 1000 * RULE.window_seconds
    assert started.data.ended_at_ms is None
    # Few blocks of the window may have lain beyond the limit before.
    assert 400_000 - window_ms / 10 <= started.data.started_at_ms <= 400_000 + 10_000
    assert 400_000 + 0.8 * window_ms <= 1000 * started.time.timestamp() <= 400_000 + window_ms + 10_000
    assert 1_200_000 - 10_000 <= ended.data.ended_at_ms <= 1_200_000 + window_ms / 5
    assert started.data.snapshot is not None
    assert ended.data.snapshot is None
    said = started.data.drift
    assert (said.direction, ended.data.drift) == ("higher", None)
    assert said.spreads > 5
    assert said.share_percent >= 90
    assert said.p_value < 1e-6
    assert started.data.frames.first_offset == 3 * started.data.started_at_ms // 2000


def test_what_is_said_of_a_drift_survives_the_wire_and_tells_an_operator_what_to_do():
    started, ended = told(made(), frames())
    for alert in (started, ended):
        assert read_alert(alert.to_json()) == alert
    assert json.loads(started.to_json())["data"]["state"] == "drift"
    assert "changed for good" in describe(started)
    assert "fit to what it shows now" in describe(started)
    assert describe(ended).endswith(", ended")


def test_an_anomaly_that_is_shorter_than_nearly_a_window_is_none():
    assert told(made(), frames(range(200, 200 + FRAMES_A_WINDOW * 2 // 3), by=190)) == []


def test_the_same_world_is_none():
    assert told(made(), frames(range(0), count=3000)) == []


def test_without_blocks_of_normal_footage_or_the_rule_nothing_is_told():
    assert told(made(detector(drift=None)), frames()) == []
    assert told(made(drift_rule=DriftRule(enabled=False)), frames()) == []


def test_the_footage_s_end_ends_it():
    engine = made()
    (started,) = told(engine, list(frames())[:TAKEN_AWAY])
    (ended,) = engine.close_events()
    assert ended.data.event_id == started.data.event_id
    # The last block that ended; that of the last frames has not.
    assert ended.data.ended_at_ms == 2000 * (TAKEN_AWAY - 6)


def gone_on(engine, offset, scorer=None, **more):
    """Another engine that goes on from what one wrote down with an offset."""
    text, left_out = engine.state("frames", 0, offset, LIMIT)
    assert not left_out
    after = made(scorer, **more)
    after.restore("frames", 0, text, offset, lambda _first, _end: iter(()))
    return after


@pytest.mark.parametrize("stopped_at", [400, 470, TAKEN_AWAY + 10])
def test_a_drift_that_is_told_of_goes_on_under_another_engine_and_ends_once(stopped_at):
    every = list(frames(count=1200))
    (started, _) = told(made(), every)
    engine = made()
    assert told(engine, every[:stopped_at]) == [started]
    after = gone_on(engine, 3 * stopped_at)
    (ended,) = told(after, every[stopped_at:])
    assert (ended.data.event_id, ended.data.started_at_ms) == (started.data.event_id, started.data.started_at_ms)
    assert ended.data.ended_at_ms is not None


def test_one_that_was_not_told_yet_is_told_at_the_latest_a_window_after_another_engine_began():
    every = list(frames())
    engine = made()
    assert told(engine, every[:300]) == []
    started = told(gone_on(engine, 900), every[300:])[0]
    assert started.data.ended_at_ms is None
    assert 1000 * started.time.timestamp() <= every[300].captured_at_ms + 1000 * RULE.window_seconds + 20_000


def test_another_bundle_ends_it_and_compares_anew():
    every = list(frames(range(200, 900)))
    engine = made()
    (started,) = told(engine, every[:500])
    after = gone_on(engine, 1500, detector("b", drift=None))
    (ended,) = told(after, every[500:])
    assert (ended.data.event_id, ended.data.bundle) == (started.data.event_id, started.data.bundle)


def test_a_rule_that_is_turned_off_ends_what_was_told():
    engine = made()
    every = list(frames())
    (started,) = told(engine, every[:500])
    after = gone_on(engine, 1500, drift_rule=DriftRule(enabled=False))
    (ended,) = told(after, every[500:])
    assert ended.data.event_id == started.data.event_id


def test_a_camera_with_thresholds_of_its_own_is_not_compared():
    engine = made()
    profile = make_profile(detector(), warm_up_frames=400)
    engine.use(lambda _camera, _at_ms: profile)
    assert told(engine, frames(range(900))) == []


def test_frames_of_an_unwell_camera_are_left_out():
    chance = np.random.default_rng(2)
    board = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((8, 8)))
    pictures = [(board * 40 + level).astype(np.uint8) for level in chance.integers(20, 40, 900)]
    scene = SceneReference.of(np.stack(pictures[:20])[..., None], 1)

    def seen(of):
        watching = detector()
        watching.bundle.manifest.scene = of
        watching.bundle.manifest.preprocessing = Preprocessing(height=64, width=64)
        shown = [picture if number < 200 else picture * 0 for number, picture in enumerate(pictures)]
        every = [
            IncomingFrame("door", "frames", 0, 3 * n, 2000 * n, cv2.imencode(".png", picture)[1].tobytes())
            for n, picture in enumerate(shown)
        ]
        health = HealthRule(frozen_frames=10_000, look_every=1, silent_seconds=0)
        return [alert.data.state for alert in told(made(watching, health_rule=health), every)]

    assert seen(None) == ["drift"]
    assert seen(scene) == ["black"]


def test_a_camera_that_drifts_is_not_forgotten_for_another():
    engine = made(max_cameras=2)
    every = list(frames(range(200, 900)))
    told(engine, every[:500])
    for number, name in enumerate(("yard", "hall", "gate")):
        engine.process([replace(every[500], camera_id=name, offset=1501 + 3 * number)])
    assert told(engine, every[501:600]) == []


def test_metrics_say_who_drifts_and_forget_partitions_that_were_lost():
    metrics = Metrics()

    def value(name, camera="door"):
        return metrics.registry.get_sample_value(name, {"camera": camera})

    for outcome in outcomes_of(made(), list(frames())[:500]):
        metrics.observe_drift("door", 3, outcome.drift_share, is_drifting=outcome.is_drifting)
    assert value("framewatch_camera_drifting") == 1
    assert value("framewatch_camera_drift_share") >= 0.9
    metrics.forget([2])
    assert value("framewatch_camera_drifting") == 1
    metrics.observe_drift("door", 3, None, is_drifting=False)
    assert value("framewatch_camera_drifting") == 0
    metrics.forget([3])
    assert value("framewatch_camera_drifting") is None
    assert value("framewatch_camera_drift_share") is None
