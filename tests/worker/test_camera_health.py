import itertools
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from contract.alert import BundleReference, CameraAlert
from contract.errors import FrameError
from contract.event import EventRule
from contract.frame import Preprocessing
from contract.scene import SceneReference
from tests.calibrations import made_calibration
from tests.footage import room_pictures
from worker.engine import Engine
from worker.frames import IncomingFrame
from worker.health_rule import HealthRule
from worker.state import PartitionState
from worker.state_text import pack

FAULTS = range(100, 140)
RULE = HealthRule(min_frames=8, gap_frames=16, frozen_frames=30)
LIMIT = 4096


@pytest.fixture(scope="module")
def room():
    """The room with nobody in it, the camera's noise drawn anew for each frame."""
    pictures = room_pictures(192, 128)[:48, ..., 0]
    chance = np.random.default_rng(0)
    return [
        np.clip(pictures[number % len(pictures)] + chance.normal(0, 1.5, (128, 192)), 0, 255).astype(np.uint8)
        for number in range(200)
    ]


@pytest.fixture(scope="module")
def detector(room):
    """A detector whose score is high where the clip's frames differ much from the room, or from each other."""
    usual = np.median(np.stack(room[::4]), axis=0)
    manifest = SimpleNamespace(
        preprocessing=Preprocessing(height=128, width=192),
        shape=SimpleNamespace(clip_frames=3),
        calibration=made_calibration(),
        event_rule=EventRule(min_frames=2, gap_frames=4),
        scene=SceneReference.of(np.stack(room[::4])[..., None], 1),
        drift=None,
    )

    def score(clips):
        pictures = clips[..., 0].astype(np.float64)
        off = np.abs(pictures - usual).mean((2, 3)).max(1) / 3
        jumps = np.abs(np.diff(pictures, axis=1)).mean((2, 3)).max(1) / 3
        scores = np.maximum(off, jumps).astype(np.float32)
        return scores, np.repeat(scores, 4).reshape(-1, 2, 2)

    reference = BundleReference(name="fake", version="1", digest="sha256:" + "a" * 64)
    bundle = SimpleNamespace(manifest=manifest, reference=reference)
    return SimpleNamespace(bundle=bundle, score=score, scores_whole_batches=True)


def shaken(picture, number):
    right, down = ((23, -9), (-17, 12), (11, 19), (-26, -14))[number % 4]
    moved = np.float32([[1, 0, right], [0, 1, down]])
    return cv2.warpAffine(picture, moved, (192, 128), borderMode=cv2.BORDER_REFLECT)


def incoming(room, change, where=FAULTS):
    """The room's frames, those of a range changed; every third offset is of another camera."""
    for number, picture in enumerate(room):
        shown = change(picture, number) if number in where else picture
        data = cv2.imencode(".png", shown)[1].tobytes()
        yield IncomingFrame("door", "frames", 0, 3 * number, 40 * number, data)


CHANGES = {
    "black": lambda picture, _number: (picture * 0.02).astype(np.uint8),
    "overexposed": lambda picture, _number: np.clip(picture * 4.0 + 200, 0, 255).astype(np.uint8),
    "covered": lambda picture, _number: cv2.GaussianBlur(picture, (0, 0), 25) // 2,
    "moved": shaken,
}


def told(engine, frames, size=16):
    frames = list(frames)
    alerts = []
    for start in range(0, len(frames), size):
        for outcome in engine.process(frames[start : start + size]):
            alerts += outcome.alerts
    return alerts


@pytest.mark.parametrize("state", CHANGES)
def test_an_unwell_camera_is_told_of_as_such_and_never_as_an_anomaly(room, detector, state):
    frames = list(incoming(room, CHANGES[state]))
    outcomes = Engine(detector, health_rule=RULE).process(frames)
    alerts = [alert for outcome in outcomes for alert in outcome.alerts]
    assert [(alert.type, alert.id.rpartition(".")[2]) for alert in alerts] == [
        (f"framewatch.camera.{state}.v1", "started"), (f"framewatch.camera.{state}.v1", "ended"),
    ]  # fmt: skip
    started, ended = (alert.data for alert in alerts)
    assert started.event_id == ended.event_id
    assert (started.started_at_ms, started.ended_at_ms) == (40 * FAULTS[0], None)
    assert (ended.started_at_ms, ended.ended_at_ms) == (40 * FAULTS[0], 40 * FAULTS[-1])
    assert (ended.frames.first_offset, ended.frames.last_offset) == (3 * FAULTS[0], 3 * FAULTS[-1])
    assert started.snapshot is not None
    assert not any(outcome.is_anomalous for outcome in outcomes)
    # The clips of the two frames after it still hold frames of it.
    assert [outcome.frame.captured_at_ms // 40 for outcome in outcomes if not outcome.counts] == [
        *FAULTS, FAULTS[-1] + 1, FAULTS[-1] + 2,
    ]  # fmt: skip


@pytest.mark.parametrize("state", CHANGES)
def test_without_it_the_same_would_be_an_anomaly(room, detector, state):
    alerts = told(Engine(detector, health_rule=HealthRule(enabled=False)), incoming(room, CHANGES[state]))
    assert {"framewatch.anomaly.started.v1", "framewatch.anomaly.ended.v1"} <= {alert.type for alert in alerts}
    assert not any(isinstance(alert, CameraAlert) for alert in alerts)


def test_a_frozen_camera_is_told_of_from_so_many_equal_frames(room, detector):
    # It jumps when it goes on, to a room that is lit anew.
    brighter = [np.clip(picture + 25.0, 0, 255).astype(np.uint8) for picture in room[140:]]
    frames = incoming([*room[:140], *brighter], lambda _picture, _number: room[100])
    alerts = told(Engine(detector, health_rule=RULE), frames)
    states = [alert for alert in alerts if isinstance(alert, CameraAlert)]
    assert [alert.type for alert in states] == ["framewatch.camera.frozen.v1"] * 2
    # The first of them is the one that the others equal.
    assert (states[1].data.started_at_ms, states[1].data.ended_at_ms) == (40 * 101, 40 * 139)


def visited(picture, _number):
    out = picture.copy()
    out[30:, 60:110] = 255 - out[30:, 60:110]
    return out


def test_something_in_view_is_an_anomaly_still(room, detector):
    alerts = told(Engine(detector, health_rule=RULE), incoming(room, visited))
    assert [alert.type.split(".")[1:3] for alert in alerts] == [["anomaly", "started"], ["anomaly", "ended"]]


def test_an_open_event_ends_while_its_camera_is_unwell(room, detector):
    def visited_then_black(picture, number):
        return CHANGES["black"](picture, number) if number >= 112 else visited(picture, number)

    alerts = told(Engine(detector, health_rule=RULE), incoming(room, visited_then_black))
    assert sum(alert.type == "framewatch.anomaly.ended.v1" for alert in alerts) == 1
    assert sum(alert.type == "framewatch.camera.black.v1" for alert in alerts) == 2


def test_a_scene_that_is_not_known_has_no_faults_but_standing_still(room, detector):
    unknown = SimpleNamespace(**{**vars(detector.bundle.manifest), "scene": None})
    bundle = SimpleNamespace(manifest=unknown, reference=detector.bundle.reference)
    engine = Engine(SimpleNamespace(**{**vars(detector), "bundle": bundle}), health_rule=RULE)
    alerts = told(engine, incoming(room, CHANGES["black"]))
    assert {alert.type.split(".")[1] for alert in alerts} == {"anomaly"}


@pytest.mark.parametrize("state", [*CHANGES, "frozen"])
def test_an_engine_that_goes_on_after_any_frame_tells_the_same(room, detector, state):
    change = CHANGES.get(state, lambda _picture, _number: room[100])
    frames = list(incoming(room, change))
    expected = told(Engine(detector, health_rule=RULE), frames)
    by_offset = {frame.offset: frame for frame in frames}

    def read(first, end):
        return (by_offset[offset] for offset in range(first, end) if offset in by_offset)

    for cut in itertools.chain(range(98, 112), range(130, 170, 3)):
        before, after = (Engine(detector, health_rule=RULE) for _ in range(2))
        alerts = told(before, frames[:cut])
        next_offset = frames[cut].offset
        text, left_out = before.state("frames", 0, next_offset, LIMIT)
        assert not left_out
        after.restore("frames", 0, text, next_offset, read)
        assert alerts + told(after, frames[cut:]) == expected, cut


def encoded(room, colour, where):
    """The room as JPEGs, with a colour cast but within a range, as under infrared light."""
    for number in range(600):
        picture = cv2.cvtColor(room[number % len(room)], cv2.COLOR_GRAY2BGR).astype(np.float64)
        shown = picture if number in where else picture * (1 - colour, 1.0, 1 - colour / 2)
        data = cv2.imencode(".jpg", shown.astype(np.uint8))[1].tobytes()
        yield IncomingFrame("door", "frames", 0, 3 * number, 40 * number, data)


COLOURED = HealthRule(min_frames=8, gap_frames=16, frozen_frames=30, colour_every=16)


@pytest.fixture(scope="module")
def coloured(detector):
    """The same camera, whose bundle was fitted to colours."""
    manifest = SimpleNamespace(**vars(detector.bundle.manifest))
    manifest.scene = manifest.scene.model_copy(update={"least_colour": 20.0})
    bundle = SimpleNamespace(manifest=manifest, reference=detector.bundle.reference)
    return SimpleNamespace(**{**vars(detector), "bundle": bundle})


def test_a_camera_that_loses_its_colours_has_switched_to_infrared(room, coloured):
    outcomes = Engine(coloured, health_rule=COLOURED).process(list(encoded(room, 0.4, range(200, 400))))
    alerts = [alert for outcome in outcomes for alert in outcome.alerts if isinstance(alert, CameraAlert)]
    assert [alert.type for alert in alerts] == ["framewatch.camera.infrared.v1"] * 2
    begins, ends = alerts[1].data.started_at_ms // 40, alerts[1].data.ended_at_ms // 40
    # One frame in sixteen is looked at.
    assert 200 <= begins < 248
    assert 352 < ends < 400
    # The scene is seen still.
    assert all(outcome.counts for outcome in outcomes)


@pytest.mark.parametrize("least_colour", [0.0, 0.5])
def test_a_camera_that_never_showed_colours_switches_to_nothing(room, detector, least_colour):
    scene = detector.bundle.manifest.scene.model_copy(update={"least_colour": least_colour})
    manifest = SimpleNamespace(**{**vars(detector.bundle.manifest), "scene": scene})
    bundle = SimpleNamespace(manifest=manifest, reference=detector.bundle.reference)
    engine = Engine(SimpleNamespace(**{**vars(detector), "bundle": bundle}), health_rule=COLOURED)
    assert not [alert for alert in told(engine, encoded(room, 0.4, range(200, 400))) if isinstance(alert, CameraAlert)]


def test_a_covered_lens_is_no_infrared_light(room, coloured):
    covered = [CHANGES["covered"](picture, 0) for picture in room]
    frames = list(encoded(room, 0.4, ()))[:100] + list(encoded(covered, 0.4, range(600)))[100:200]
    alerts = told(Engine(coloured, health_rule=COLOURED), frames)
    assert {alert.type for alert in alerts if isinstance(alert, CameraAlert)} == {"framewatch.camera.covered.v1"}


def silent_engine(detector, at):
    return Engine(detector, health_rule=HealthRule(silent_seconds=60), clock=lambda: at[0])


def test_a_camera_that_sends_nothing_is_told_of_once_and_once_more_when_it_is_heard(room, detector):
    at = [1000.0]
    engine = silent_engine(detector, at)
    frames = list(incoming(room, lambda picture, _number: picture))[:20]
    engine.process(frames[:10])
    at[0] += 59
    assert engine.find_silent("frames", 0, 0.0, at[0]) == []
    at[0] += 1
    assert engine.find_silent("frames", 1, 0.0, at[0]) == []
    # What was fetched late is no silence.
    assert engine.find_silent("frames", 0, at[0] - 59, at[0]) == []
    (started,) = engine.find_silent("frames", 0, 0.0, at[0])
    assert engine.find_silent("frames", 0, 0.0, at[0]) == []
    assert started.type == "framewatch.camera.silent.v1"
    assert (started.data.started_at_ms, started.data.ended_at_ms) == (40 * 9, None)
    assert started.time.timestamp() == 0.36 + 60
    (ended,) = told(engine, frames[10:])
    assert (ended.data.event_id, ended.data.ended_at_ms) == (started.data.event_id, 400)
    assert ended.data.frames.first_offset, ended.data.frames.last_offset == (27, 30)


def test_what_came_after_the_worker_listened_is_no_silence_however_long_it_is_under_way(room, detector):
    at = [1000.0]
    engine = silent_engine(detector, at)
    engine.process(list(incoming(room, lambda picture, _number: picture))[:10])
    at[0] += 59
    listened_until = at[0]
    at[0] += 100
    assert engine.find_silent("frames", 0, 0.0, listened_until) == []
    assert len(engine.find_silent("frames", 0, 0.0, listened_until + 1)) == 1


def test_silence_goes_on_under_another_engine(room, detector):
    at = [1000.0]
    frames = list(incoming(room, lambda picture, _number: picture))[:20]
    by_offset = {frame.offset: frame for frame in frames}

    def gone_on(engine):
        text, left_out = engine.state("frames", 0, 30, LIMIT)
        assert not left_out
        after = silent_engine(detector, at)
        after.restore("frames", 0, text, 30, lambda first, end: (by_offset[o] for o in range(first, end) if o % 3 == 0))
        return after

    engine = silent_engine(detector, at)
    engine.process(frames[:10])
    at[0] += 100
    # Whoever goes on has not listened for long.
    engine = gone_on(engine)
    assert engine.find_silent("frames", 0, at[0], at[0]) == []
    at[0] += 60
    (started,) = engine.find_silent("frames", 0, 0.0, at[0])
    engine = gone_on(engine)
    at[0] += 1000
    assert engine.find_silent("frames", 0, 0.0, at[0]) == []
    (ended,) = told(engine, frames[10:])
    assert ended.data.event_id == started.data.event_id


@pytest.mark.parametrize("is_read_back", [False, True])
def test_a_camera_whose_frames_are_turned_away_is_not_silent(room, detector, is_read_back):
    at = [1000.0]
    frames = list(incoming(room, lambda picture, _number: picture))[:10]
    engine = silent_engine(detector, at)
    if is_read_back:
        text = pack(PartitionState(0), 30, LIMIT)[0]
        engine.restore("frames", 0, text, 30, lambda _first, _end: iter(frames))
    else:
        engine.process(frames)

    def refuse(_camera, _at_ms):
        raise FrameError("camera_not_allowed", "no frames of it are scored any more")

    engine.use(refuse)
    at[0] += 100
    assert engine.find_silent("frames", 0, 0.0, at[0]) == []


def test_what_looks_well_is_looked_at_now_and_then_and_the_same_frames_again():
    rule = HealthRule()
    due = [offset for offset in range(80_000) if rule.is_due(offset, 8)]
    assert 9_500 < len(due) < 10_500
    for step in (2, 3, 4, 8, 64):
        of_a_camera = [offset for offset in range(0, 80_000, step) if rule.is_due(offset, 8)]
        assert len(of_a_camera) == pytest.approx(80_000 / step / 8, rel=0.2)
    assert all(rule.is_due(offset, 1) for offset in range(100))
