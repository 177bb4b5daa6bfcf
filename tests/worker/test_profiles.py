"""An engine under more than one profile: bundles, zones, schedules, reloads and warm-up."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from contract.alert import read_alert
from contract.event import EventRule
from contract.frame import Preprocessing
from tests.worker.test_engine import BRIGHT, DARK, detector, frame
from tests.worker.test_state import remembering_detector
from worker.engine import Engine
from worker.profile import make_profile
from worker.zones import Zones

RIGHT = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))
LIMIT = 4096


def named(name, made=None):
    """A detector of a bundle of its own."""
    made = made or detector()
    made.bundle.reference = made.bundle.reference.model_copy(update={"name": name, "digest": "sha256:" + name * 64})
    made.bundle.manifest.shape.anomaly_map = (4, 4)
    return made


def small(name):
    """A detector of smaller frames, whose scores are a tenth of the others'."""
    made = named(name)
    made.bundle.manifest.preprocessing = Preprocessing(height=32, width=48)

    def score(clips):
        assert clips.shape[2:4] == (32, 48)
        cells = clips[:, -1, :, :, 0].reshape(len(clips), 4, 8, 4, 12).mean((2, 4)).astype(np.float32) / 255
        return cells.max((1, 2)), cells

    return SimpleNamespace(bundle=made.bundle, score=score, scores_whole_batches=False)


def engine_of(profile_of, **more):
    engine = Engine(detector(), **more)
    engine.use(profile_of)
    return engine


def told(outcomes):
    return [(alert.type.split(".")[2], alert) for outcome in outcomes for alert in outcome.alerts]


def levels(*said):
    return [level for level, count in said for _ in range(count)]


def test_each_camera_is_scored_by_its_own_bundle_in_one_batch():
    profiles = {"door": make_profile(named("a")), "yard": make_profile(small("b"))}
    frames = [frame(i, BRIGHT, camera) for i, camera in enumerate(["door", "yard", "door", "yard", "yard"])]
    outcomes = engine_of(lambda camera, _at: profiles[camera]).process(frames)

    assert [outcome.frame for outcome in outcomes] == frames
    assert [outcome.anomaly_score > 2 for outcome in outcomes] == [True, False, True, False, False]
    alone = [Engine(named("a")).process(frames[:1]), Engine(small("b")).process(frames[1:2])]
    assert [outcome.anomaly_score for outcome in outcomes[:2]] == [one.anomaly_score for (one,) in alone]


def test_what_lies_outside_the_zones_is_no_anomaly_and_not_in_the_picture():
    # The bright square of the test's frames lies right of the middle.
    left = make_profile(named("a"), zones=Zones(masks=(RIGHT,)))
    right = make_profile(named("a"), zones=Zones(zones=(RIGHT,)))
    visit = [frame(i, level) for i, level in enumerate(levels((DARK, 1), (BRIGHT, 4), (DARK, 4)))]
    without = engine_of(lambda _camera, _at: left).process(visit)
    within = engine_of(lambda _camera, _at: right).process(visit)

    assert not told(without)
    assert max(outcome.anomaly_score for outcome in without) == pytest.approx(DARK / 25.5, abs=0.01)
    started = told(within)[0][1].data
    assert [(box.x, box.y) for box in started.boxes] == [(0.5, 0.25)]
    assert started.rule_version != Engine(detector()).process(visit)[2].alerts[0].data.rule_version


def test_an_event_ends_where_a_schedule_brings_other_terms():
    day, night = make_profile(named("a")), make_profile(named("a"), threshold=7.0)
    engine = engine_of(lambda _camera, at: day if at < 4000 else night)
    frames = [frame(i, level) for i, level in enumerate(levels((DARK, 1), (BRIGHT, 8), (DARK, 4)))]
    (kind, first), (second_kind, second), (third_kind, third), (last_kind, last) = told(engine.process(frames))

    assert (kind, second_kind, third_kind, last_kind) == ("started", "ended", "started", "ended")
    assert (second.data.event_id, second.data.threshold) == (first.data.event_id, 6.0)
    assert second.data.frames.last_offset == 3
    assert second.time.timestamp() == 4
    assert (third.data.event_id, third.data.threshold) == (last.data.event_id, 7.0)
    assert third.data.frames.first_offset == 4
    assert first.data.event_id != third.data.event_id


def test_what_is_loaded_anew_and_did_not_change_ends_nothing():
    frames = [frame(i, level) for i, level in enumerate(levels((DARK, 1), (BRIGHT, 4), (DARK, 4)))]
    expected = engine_of(lambda _camera, _at: made).process(frames) if (made := make_profile(named("a"))) else []
    engine, outcomes = engine_of(lambda _camera, _at: made), []
    for one in frames:
        again = make_profile(named("a"))
        engine.use(lambda _camera, _at, again=again: again)
        outcomes += engine.process([one])

    assert outcomes == expected


@pytest.mark.parametrize("same_input", [True, False])
def test_a_clip_goes_on_under_another_bundle_that_takes_the_same_frames(same_input):
    before = named("a", detector(clip_frames=3))
    after = named("b", detector(clip_frames=3 if same_input else 2))
    engine = engine_of(lambda _camera, at: make_profile(before) if at < 2000 else make_profile(after))
    for i, level in enumerate((50, 60, 70)):
        engine.process([frame(i, level)])

    (clip,) = after.seen[0][:, :, 24, 40, 0].tolist()
    assert clip == ([50, 60, 70] if same_input else [70, 70])


def schedule_of_two(camera, at):
    """Two bundles by turns, one of the cameras with zones besides."""
    number = (at // 7000) % 2
    profiles = TWO[camera == "door"]
    return profiles[number]


TWO = [
    [make_profile(named("a", detector(clip_frames=3))), make_profile(small("b"), threshold=0.7)],
    [make_profile(named("a", detector(clip_frames=3)), zones=Zones(zones=(RIGHT,))), make_profile(named("c"))],
]


def test_an_engine_goes_on_where_another_ended_under_every_profile():
    frames = [
        frame(2 * i + place, level, camera)
        for i, level in enumerate(levels((DARK, 3), (BRIGHT, 8), (DARK, 4), (BRIGHT, 3), (DARK, 4)))
        for place, camera in enumerate(("door", "yard"))
    ]
    expected = engine_of(schedule_of_two).process(frames)
    assert sum(kind == "ended" for kind, _ in told(expected)) >= 4
    for cut in range(1, len(frames)):
        before = engine_of(schedule_of_two)
        before.process(frames[:cut])
        text, left_out = before.state("frames", 0, cut, LIMIT)
        assert left_out == 0
        after = engine_of(schedule_of_two)
        after.restore("frames", 0, text, cut, lambda first, end: iter(frames[first:end]))
        assert told(after.process(frames[cut:])) == told(expected[cut:])


def test_an_engine_goes_on_twice_where_bundles_with_clips_of_other_lengths_take_turns():
    """Scores depend on whole clips; the first engine ends where the bundle changes, the second one anywhere."""
    long, short = named("a", remembering_detector()), named("b")

    def by_turns(_camera, at):
        return make_profile(long if (at // 7000) % 2 else short)

    drawn = np.random.default_rng(1)
    frames = [frame(i, int(level)) for i, level in enumerate(drawn.integers(DARK, BRIGHT, 30))]
    expected = [outcome.anomaly_score for outcome in engine_of(by_turns).process(frames)]
    for first in range(1, 28):
        for second in range(first + 1, 29):
            engine, scores, at = engine_of(by_turns), [], 0
            for cut in (first, second, len(frames)):
                scores += [outcome.anomaly_score for outcome in engine.process(frames[at:cut])]
                at = cut
                text, _ = engine.state("frames", 0, at, LIMIT)
                engine = engine_of(by_turns)
                engine.restore("frames", 0, text, at, lambda begin, end: iter(frames[begin:end]))
            assert scores == pytest.approx(expected), (first, second)


WARM = 400


def warm_frames():
    """Frames of a new camera: some noise, a visit while it warms up, and one after."""
    drawn = np.random.default_rng(5)
    noise = (DARK + drawn.integers(0, 25, WARM + 60)).tolist()
    noise[WARM // 2 : WARM // 2 + 5] = [BRIGHT] * 5
    noise[WARM + 20 : WARM + 26] = [BRIGHT] * 6
    return [frame(i, level) for i, level in enumerate(noise)]


def warming(**changes):
    rule = EventRule(min_frames=2, gap_frames=3, update_rise=0.5, update_frames=1)
    return make_profile(
        named("a"), threshold=20.0, event_rule=rule, warm_up_frames=WARM, false_events_per_day=100, **changes
    )


def test_a_camera_that_warms_up_is_not_told_of_and_then_is_by_thresholds_of_its_own():
    profile = warming()
    outcomes = engine_of(lambda _camera, _at: profile).process(warm_frames())

    assert not told(outcomes[:WARM])
    assert not any(outcome.counts or outcome.is_anomalous for outcome in outcomes[:WARM])
    # The bundle's own threshold would have told nothing at all.
    assert {outcome.threshold for outcome in outcomes[:WARM]} == {20.0}
    (threshold,) = {outcome.threshold for outcome in outcomes[WARM:]}
    assert (DARK + 25) / 25.5 < threshold < BRIGHT / 25.5
    assert [kind for kind, _ in told(outcomes)] == ["started", "ended"]
    assert told(outcomes)[0][1].data.frames.first_offset == WARM + 20


def test_a_warm_up_goes_on_where_another_engine_ended():
    frames = warm_frames()
    profile = warming()
    expected = engine_of(lambda _camera, _at: profile).process(frames)
    for cut in [1, 2, 9, 10, 11, 205, 399, 400, 401, 421, 424, 430]:
        before = engine_of(lambda _camera, _at: profile)
        before.process(frames[:cut])
        text, left_out = before.state("frames", 0, cut, LIMIT)
        assert left_out == 0
        after = engine_of(lambda _camera, _at: profile)
        after.restore("frames", 0, text, cut, lambda first, end: iter(frames[first:end]))
        assert after.process(frames[cut:]) == expected[cut:]


def test_a_camera_warms_up_anew_under_another_bundle():
    frames = warm_frames()
    profile, other = warming(), warming(zones=Zones(zones=(RIGHT,)))
    engine = engine_of(lambda _camera, at: profile if at < 1000 * (WARM + 22) else other)
    outcomes = engine.process(frames)

    assert [kind for kind, _ in told(outcomes)] == ["started", "ended"]
    assert told(outcomes)[1][1].data.frames.last_offset == WARM + 21
    assert not any(outcome.counts for outcome in outcomes[WARM + 22 :])


def test_an_open_event_ends_where_a_warm_up_begins():
    rule = EventRule(min_frames=2, gap_frames=1000, update_rise=0.5, update_frames=1)
    before = make_profile(named("a"), event_rule=rule)
    after = make_profile(named("a"), event_rule=rule, warm_up_frames=WARM)
    assert before.terms == after.terms
    engine = engine_of(lambda _camera, at: before if at < 4000 else after)
    alerts = told(engine.process([frame(i, BRIGHT if 0 < i < 4 else DARK + i % 2) for i in range(WARM + 10)]))
    assert [kind for kind, _ in alerts] == ["started", "ended"]
    assert alerts[1][1].data.frames.last_offset == 3


def test_many_cameras_that_warmed_up_fit_into_what_a_broker_takes():
    profile = warming()
    engine = engine_of(lambda _camera, _at: profile)
    cameras = [f"site-7.camera-{number:02}" for number in range(16)]
    frames = [
        replace(one, camera_id=camera, offset=len(cameras) * one.offset + place)
        for one in warm_frames()[: WARM + 1]
        for place, camera in enumerate(cameras)
    ]
    engine.process(frames[: -len(cameras) * 200])
    half_way, left_out = engine.state("frames", 0, len(frames), LIMIT)
    assert (len(half_way) <= LIMIT, left_out) == (True, 0)
    engine.process(frames[-len(cameras) * 200 :])
    done, left_out = engine.state("frames", 0, len(frames), LIMIT)
    assert (len(done) <= LIMIT, left_out) == (True, 0)


def test_another_bundle_that_was_loaded_is_told_once_a_camera_at_its_first_frame():
    before, after = make_profile(named("a")), make_profile(named("b"))
    cameras = ("door", "yard")
    frames = [frame(2 * i + place, DARK, camera) for i in range(6) for place, camera in enumerate(cameras)]
    engine = engine_of(lambda _camera, _at: before)
    outcomes = engine.process(frames[:5])
    engine.use(lambda _camera, _at: after)
    outcomes += engine.process([*frames[5:8], frame(100, DARK, "new")])
    again = make_profile(named("b"))
    engine.use(lambda _camera, _at: again)
    outcomes += engine.process(frames[8:])

    alerts = [alert for outcome in outcomes for alert in outcome.alerts]
    assert [(alert.type, alert.subject) for alert in alerts] == [
        ("framewatch.camera.model_changed.v1", "yard"), ("framewatch.camera.model_changed.v1", "door"),
    ]  # fmt: skip
    for alert, offset in zip(alerts, (5, 6), strict=True):
        data = alert.data
        assert (data.before.name, data.after.name) == ("a", "b")
        assert (data.frames.topic, data.frames.partition, data.frames.offset) == ("frames", 0, offset)
        assert data.changed_at_ms == frames[offset].captured_at_ms == alert.time.timestamp() * 1000
        assert read_alert(alert.to_json()) == alert
    assert len({alert.id for alert in alerts}) == 2
    assert all(alert.id == f"{alert.data.event_id}.changed" for alert in alerts)


def test_an_open_event_ends_before_another_model_is_told():
    before, after = make_profile(named("a")), make_profile(named("b"))
    engine = engine_of(lambda _camera, _at: before)
    visit = [frame(i, level) for i, level in enumerate(levels((DARK, 1), (BRIGHT, 6)))]
    outcomes = engine.process(visit[:4])
    engine.use(lambda _camera, _at: after)
    outcomes += engine.process(visit[4:])
    kinds = told(outcomes)
    assert [kind for kind, _ in kinds] == ["started", "ended", "model_changed", "started"]
    assert [kinds[place][1].data.bundle.name for place in (0, 1, 3)] == ["a", "a", "b"]


def test_a_schedule_s_change_of_model_is_no_news():
    engine = engine_of(schedule_of_two)
    assert not told(engine.process([frame(i, DARK, "yard") for i in range(20)]))
