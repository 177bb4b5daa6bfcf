from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from contract.alert import BundleReference
from contract.event import EventRule
from contract.frame import Preprocessing
from contract.scoring import Tail
from tests.calibrations import made_calibration
from worker.cores import Crew
from worker.engine import Engine
from worker.frames import IncomingFrame
from worker.parts import CLIPS_AT_ONCE
from worker.pictures import snapshot

BRIGHT, DARK = 220, 40


def detector(clip_frames=1):
    """A detector whose map is the brightness of each 16 px cell of the last frame, 0..10."""
    manifest = SimpleNamespace(
        preprocessing=Preprocessing(height=64, width=64),
        shape=SimpleNamespace(clip_frames=clip_frames),
        calibration=made_calibration(),
        event_rule=EventRule(min_frames=2, gap_frames=1, update_rise=0.5, update_frames=1),
        scene=None,
        drift=None,
    )
    reference = BundleReference(name="fake", version="1", digest="sha256:" + "a" * 64)
    seen = []

    def score(clips):
        seen.append(clips)
        cells = clips[:, -1, :, :, 0].reshape(len(clips), 4, 16, 4, 16).mean((2, 4)).astype(np.float32) / 25.5
        return cells.max((1, 2)), cells

    return SimpleNamespace(
        bundle=SimpleNamespace(manifest=manifest, reference=reference),
        score=score,
        seen=seen,
        scores_whole_batches=True,
    )


def frame(offset, level, camera="door", partition=0, data=None):
    pixels = np.full((64, 64), DARK, np.uint8)
    pixels[16:32, 32:48] = level
    encoded = cv2.imencode(".png", pixels)[1].tobytes() if data is None else data
    return IncomingFrame(camera, "frames", partition, offset, 1000 * offset, encoded)


VISIT = [DARK, BRIGHT, BRIGHT + 10, BRIGHT + 30, DARK, DARK, DARK, DARK]


def in_batches(engine, frames, size):
    return [
        outcome for start in range(0, len(frames), size) for outcome in engine.process(frames[start : start + size])
    ]


def test_outcomes_come_in_the_order_of_the_frames():
    frames = [
        frame(i, level, camera) for i, (level, camera) in enumerate([(40, "a"), (220, "b"), (60, "a"), (80, "c")])
    ]
    outcomes = Engine(detector()).process(frames)
    assert [outcome.frame for outcome in outcomes] == frames
    assert [outcome.is_anomalous for outcome in outcomes] == [False, True, False, False]


def test_a_bad_frame_is_an_outcome_and_the_camera_goes_on():
    frames = [frame(i, level) for i, level in enumerate(VISIT)]
    frames.insert(2, frame(99, 0, data=b"<html>"))
    frames.insert(0, IncomingFrame("door", "frames", 0, 98, 0, None))
    outcomes = Engine(detector()).process(frames)
    assert [outcome.error.reason for outcome in outcomes if outcome.error] == ["empty", "not_jpeg_or_png"]
    kinds = [alert.type.split(".")[2] for outcome in outcomes for alert in outcome.alerts]
    assert kinds == ["started", "updated", "ended"]


def test_cameras_do_not_mix():
    both = [f for i, level in enumerate(VISIT) for f in (frame(2 * i, level, "a"), frame(2 * i + 1, DARK, "b"))]
    outcomes = Engine(detector()).process(both)
    assert {alert.subject for outcome in outcomes for alert in outcome.alerts} == {"a"}
    alone = Engine(detector()).process([frame(2 * i, level, "a") for i, level in enumerate(VISIT)])
    assert [a for o in outcomes for a in o.alerts] == [a for o in alone for a in o.alerts]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_batch_size_changes_neither_scores_nor_alerts(size):
    frames = [frame(i, level) for i, level in enumerate(VISIT * 3)]
    assert in_batches(Engine(detector()), frames, size) == Engine(detector()).process(frames)


def test_replay_gives_the_same_alerts():
    frames = [frame(i, level) for i, level in enumerate(VISIT)]
    assert Engine(detector()).process(frames) == Engine(detector()).process(frames)


def test_alerts_tell_where_when_and_how_much():
    outcomes = Engine(detector()).process([frame(10 + i, level) for i, level in enumerate(VISIT)])
    alerts = [alert for outcome in outcomes for alert in outcome.alerts]
    started, ended = alerts[0].data, alerts[-1].data
    assert (started.started_at_ms, started.ended_at_ms, ended.ended_at_ms) == (11_000, None, 13_000)
    assert (ended.frames.first_offset, ended.frames.peak_offset, ended.frames.last_offset) == (11, 13, 13)
    assert ended.peak_score == pytest.approx(250 / 25.5, abs=0.01)
    assert ended.anomalous_area_percent == pytest.approx(100 / 16)
    assert (ended.boxes[0].x, ended.boxes[0].y) == (0.5, 0.25)
    assert ended.event_id == started.event_id


def test_the_pictures_are_of_the_peak():
    import base64

    outcomes = Engine(detector()).process([frame(i, level) for i, level in enumerate(VISIT)])
    ended = [alert for outcome in outcomes for alert in outcome.alerts][-1].data
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(ended.snapshot.base64), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert pixels[24, 40] == pytest.approx(250, abs=6)
    heat = cv2.imdecode(np.frombuffer(base64.b64decode(ended.heat_map.base64), np.uint8), cv2.IMREAD_GRAYSCALE)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 16 <= row < 32
    assert 32 <= column < 48


def test_pictures_too_large_stay_behind():
    outcomes = Engine(detector(), picture_max_bytes=10).process([frame(i, level) for i, level in enumerate(VISIT)])
    data = [alert for outcome in outcomes for alert in outcome.alerts][-1].data
    assert data.snapshot is None
    assert data.heat_map is None
    assert data.frames.peak_offset == 3


def test_a_clip_is_the_camera_s_last_frames_oldest_first():
    fake = detector(clip_frames=3)
    frames = [frame(i, level, camera) for i, level in enumerate((50, 60, 70)) for camera in ("a", "b")]
    in_batches(Engine(fake), frames, 4)
    clips = np.concatenate(fake.seen)
    levels = clips[:, :, 24, 40, 0]
    assert levels.tolist() == [[50, 50, 50]] * 2 + [[50, 50, 60]] * 2 + [[50, 60, 70]] * 2


def test_a_lost_partition_is_forgotten_and_others_are_not():
    engine = Engine(detector())
    engine.process([frame(i, BRIGHT, partition=p) for i in range(3) for p in (0, 1)])
    engine.forget([("frames", 0)])
    outcomes = engine.process([frame(3 + i, DARK, partition=p) for i in range(3) for p in (0, 1)])
    ended = [alert.data.frames.partition for outcome in outcomes for alert in outcome.alerts]
    assert ended == [1]


@pytest.mark.parametrize(("scale", "grade"), [(500.0, "low"), (150.0, "critical")])
def test_severity_counts_from_the_budget_where_single_frames_often_reach_the_threshold(scale, grade):
    # Frames at the threshold, 6, are nothing rare: z is 402 there, and 6,000 at the peak.
    tail = Tail(location=0.0, scale=scale)
    scorer = detector()
    scorer.bundle.manifest.calibration = made_calibration(tail=tail)
    frames = [frame(i, level) for i, level in enumerate(VISIT)]
    alerts = [alert for outcome in Engine(scorer).process(frames) for alert in outcome.alerts]
    assert tail.p_value(6.0) > 0.05
    assert alerts[0].data.severity == grade


def test_a_threshold_given_replaces_the_bundle_s():
    frames = [frame(i, 120) for i in range(4)]
    assert not any(outcome.is_anomalous for outcome in Engine(detector()).process(frames))
    outcomes = Engine(detector(), threshold=3.0).process(frames)
    assert all(outcome.is_anomalous for outcome in outcomes)
    assert outcomes[1].alerts[0].data.threshold == 3.0


def test_an_empty_batch_is_nothing():
    assert Engine(detector()).process([]) == []


def test_footage_that_ends_closes_its_events():
    engine = Engine(detector())
    engine.process([frame(i, BRIGHT) for i in range(4)])
    (alert,) = engine.close_events()
    assert alert.type.endswith("ended.v1")
    assert alert.data.frames.last_offset == 3
    assert engine.close_events() == []


def test_a_camera_of_the_same_name_on_another_partition_is_another():
    frames = [frame(i, BRIGHT, partition=i % 2) for i in range(2)]
    assert not any(outcome.alerts for outcome in Engine(detector()).process(frames))
    frames = [frame(i, BRIGHT, partition=i % 2) for i in range(4)]
    alerts = [alert for outcome in Engine(detector()).process(frames) for alert in outcome.alerts]
    assert len({alert.data.event_id for alert in alerts}) == 2


def test_after_forgetting_a_replay_tells_the_same_alerts_again():
    engine = Engine(detector(clip_frames=3))
    frames = [frame(i, level) for i, level in enumerate(VISIT)]
    first = [outcome.alerts for outcome in engine.process(frames)]
    engine.process(frames[:3])
    engine.forget([("frames", 0)])
    assert [outcome.alerts for outcome in engine.process(frames)] == first


def test_a_bad_frame_leaves_the_clip_as_if_it_never_came():
    fake = detector(clip_frames=2)
    Engine(fake).process([frame(0, 50), frame(1, 0, data=b"x"), frame(2, 60)])
    assert np.concatenate(fake.seen)[:, :, 24, 40, 0].tolist() == [[50, 50], [50, 60]]


def test_a_batch_of_bad_frames_alone_needs_no_model():
    fake = detector()
    outcomes = Engine(fake).process([frame(i, 0, data=b"x") for i in range(3)])
    assert [outcome.error.reason for outcome in outcomes] == ["not_jpeg_or_png"] * 3
    assert fake.seen == []


def test_a_rule_given_replaces_the_bundle_s():
    frames = [frame(i, level) for i, level in enumerate(VISIT)]
    patient = EventRule(min_frames=4, gap_frames=1)
    assert not any(outcome.alerts for outcome in Engine(detector(), event_rule=patient).process(frames))


def test_stages_are_told_in_order():
    stages = []
    Engine(detector(), on_stage=lambda *told: stages.append(told)).process([frame(0, DARK)])
    assert [stage for stage, _ in stages] == ["decode", "motion", "infer", "events"]
    assert all(seconds >= 0 for _, seconds in stages)


def test_steps_may_overlap_and_tell_the_same():
    frames = [frame(i, level) for i, level in enumerate(VISIT * 3)]
    engine, told = Engine(detector(clip_frames=3)), []
    first, second, third = frames[:5], frames[5:9], frames[9:]
    one = engine.score(engine.prepare(first))
    two = engine.prepare(second)
    told += engine.follow(one)
    three = engine.prepare(third)
    told += engine.follow(engine.score(two))
    told += engine.follow(engine.score(three))
    assert told == Engine(detector(clip_frames=3)).process(frames)


def test_a_crew_tells_the_same():
    frames = [frame(i, level, camera) for i, level in enumerate(VISIT * 3) for camera in ("a", "b")]
    scorer = detector()
    scorer.scores_whole_batches = False
    with Crew(3) as crew:
        assert Engine(scorer, crew=crew).process(frames) == Engine(detector()).process(frames)
    assert len(scorer.seen) == len(frames) / CLIPS_AT_ONCE


def test_what_no_longer_counts_is_left_out_and_changes_nothing():
    frames = [frame(i, level) for i, level in enumerate(VISIT)]
    engine = Engine(detector())
    gone = engine.score(engine.prepare([frame(100 + i, BRIGHT) for i in range(4)] + [frame(104, 0, data=b"x")]))
    assert engine.follow(gone, lambda _frame: False) == []
    engine.forget([("frames", 0)])
    assert engine.process(frames) == Engine(detector()).process(frames)


def test_a_camera_whose_scores_are_not_told_yet_is_not_forgotten():
    engine = Engine(detector(), max_cameras=1)
    under_way = engine.prepare([frame(i, BRIGHT) for i in range(3)])
    refused = engine.prepare([frame(0, DARK, "other")])
    engine.follow(engine.score(under_way))
    (outcome,) = engine.follow(engine.score(refused))
    assert outcome.error.reason == "too_many_cameras"


def test_an_alert_s_time_is_the_capture_time_and_never_the_clock_s(monkeypatch):
    alerts = [
        alert
        for outcome in Engine(detector()).process([frame(i, level) for i, level in enumerate(VISIT)])
        for alert in outcome.alerts
    ]
    assert [round(alert.time.timestamp() * 1000) for alert in alerts] == [2000, 3000, 5000]


def test_beyond_the_most_cameras_the_longest_idle_without_an_event_is_forgotten():
    fake = detector(clip_frames=2)
    engine = Engine(fake, max_cameras=3)
    in_batches(engine, [frame(0, BRIGHT, "event"), frame(1, 50, "old"), frame(2, 60, "new"), frame(3, 70, "more")], 1)
    outcomes = in_batches(engine, [frame(4, BRIGHT, "event"), frame(5, 80, "new"), frame(6, 90, "old")], 1)
    assert not any(outcome.error for outcome in outcomes)
    assert [alert.type.split(".")[2] for outcome in outcomes for alert in outcome.alerts] == ["started"]
    levels = np.concatenate(fake.seen)[-2:, :, 24, 40, 0].tolist()
    assert levels == [[60, 80], [90, 90]]


def test_a_camera_for_which_there_is_no_room_is_refused_and_others_go_on():
    engine = Engine(detector(), max_cameras=2)
    both = [frame(i, BRIGHT, camera) for i, camera in enumerate("ab")]
    outcomes = engine.process([*both, frame(2, DARK, "c"), frame(3, BRIGHT, "a")])
    assert [outcome.error and outcome.error.reason for outcome in outcomes] == [None, None, "too_many_cameras", None]
    assert len(outcomes[3].alerts) == 1
    # Of a, an event is open; of b, one may begin.
    assert engine.process([frame(4, DARK, "c")])[0].error is None
    assert engine.process([frame(5, BRIGHT, "c"), frame(6, BRIGHT, "c")])[1].alerts
    assert engine.process([frame(7, DARK, "b")])[0].error.reason == "too_many_cameras"


def test_single_anomalous_frames_of_many_names_hold_no_places():
    engine = Engine(detector(), max_cameras=4)
    for number in range(20):
        outcomes = engine.process([frame(number, BRIGHT, f"name-{number}")])
        assert outcomes[0].error is None
    assert engine.process([frame(30, DARK, "door")])[0].error is None


def test_a_large_frame_of_a_pending_event_is_kept_small():
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (400, 400), dtype=np.uint8)
    noise[:, 200:] = 255
    large = cv2.imencode(".png", noise)[1].tobytes()
    assert len(large) > 20_000
    outcomes, kept = [], []
    for most in (10**6, 20_000):
        engine = Engine(detector(), picture_max_bytes=most)
        outcomes.append(engine.process([frame(0, 0, data=large), frame(1, 0, data=large)])[1])
        kept.append(next(iter(engine._cameras.values())).followed.peak)
    assert [len(peak.data) for peak in kept] == [len(large), 0]
    assert kept[1].small is None or len(kept[1].small.base64) < 30_000
    whole, small = (outcome.alerts[0].data for outcome in outcomes)
    assert whole.model_copy(update={"snapshot": None}) == small.model_copy(update={"snapshot": None})


def test_cameras_of_one_batch_do_not_push_each_other_out():
    engine = Engine(detector(), max_cameras=1)
    outcomes = engine.process([frame(0, DARK, "a"), frame(1, DARK, "b")])
    assert [outcome.error and outcome.error.reason for outcome in outcomes] == [None, "too_many_cameras"]


def test_an_open_event_does_not_keep_its_batch_s_maps_alive():
    fake = detector()
    score, maps = fake.score, []

    def remember(clips):
        scores, cells = score(clips)
        maps.append(cells)
        return scores, cells

    fake.score = remember
    engine = Engine(fake)
    engine.process([frame(i, BRIGHT, str(i)) for i in range(8)])
    assert not any(np.shares_memory(maps[0], camera.followed.peak.anomaly_map) for camera in engine._cameras.values())


def test_ids_and_rule_version_tell_thresholds_and_rules_apart():
    frames = [frame(i, BRIGHT) for i in range(6)]

    def told(**changes):
        (alert,) = (alert for outcome in Engine(detector(), **changes).process(frames) for alert in outcome.alerts)
        return alert.data.event_id, alert.data.rule_version

    rule = detector().bundle.manifest.event_rule
    other = [told(), told(threshold=5.0), told(event_rule=rule.model_copy(update={"gap_frames": 2}))]
    assert len({event for event, _ in other}) == 3
    assert len({version for _, version in other}) == 3
    assert told(event_rule=rule.model_copy()) == told()


def test_trailing_bytes_are_told_and_do_not_matter():
    plain, tailed = Engine(detector()).process([frame(0, DARK), frame(1, DARK, data=frame(0, DARK).data + b"tail")])
    assert (plain.trailing_bytes, tailed.trailing_bytes) == (0, 4)
    assert plain.anomaly_score == tailed.anomaly_score


def test_a_snapshot_that_cannot_be_decoded_is_none():
    header = bytearray(cv2.imencode(".png", np.zeros((16, 16), np.uint8))[1].tobytes())
    header[16:24] = (2**30).to_bytes(4, "big") * 2
    assert snapshot(bytes(header), 10**6) is None
    assert snapshot(b"", 10**6) is None
