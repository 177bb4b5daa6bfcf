import base64
import dataclasses
import itertools
import json
import random
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.alert import BundleReference
from contract.event import Event, Following
from contract.frame import Preprocessing
from contract.kafka_source import MAX_TIME_MS
from tests.worker.test_engine import BRIGHT, DARK, detector, frame
from worker.engine import READ_BACK_FRAMES, Engine
from worker.profile import Terms
from worker.settings import KafkaSettings
from worker.state import AHEAD_OFFSETS, CameraState, FollowedCondition, PartitionState, Place, UnwellCamera
from worker.state_text import pack, unpack

LIMIT = 4096
BUNDLE = BundleReference(name="hall", version="2026-11-26", digest="sha256:" + "0123456789abcdef" * 4)
OTHER = BUNDLE.model_copy(update={"digest": "sha256:" + "b" * 64})
TERMS = Terms(BUNDLE, "1-0f3a9c21", 3.25)


def camera(name, next_offset=1_000_000, *, is_open=True, began=200):
    event = Event(-began, -2, -7, float(np.float32(3.123456)), 3)
    following = Following(event, is_open, float(np.float32(2.9)), -30)
    ms = 1_790_000_000_000
    return CameraState(
        name, following, Place(next_offset - began * 40, ms), Place(next_offset - 280, ms + 7_700),
        Place(next_offset - 80, ms + 8_000), next_offset - 560, TERMS, 0.00125, "high",
    )  # fmt: skip


def a_state(cameras, ahead=()):
    return PartitionState(999_000, tuple(cameras), ahead=frozenset(ahead))


NEXT = 1_000_000
scores = st.floats(-50, 50, width=32)
names = st.text(st.sampled_from("abcXYZ019._-"), min_size=1, max_size=128)


@st.composite
def possible_cameras(draw):
    """What an engine can have kept."""

    def rising(least, most):
        return sorted(draw(st.lists(st.integers(least, most), min_size=3, max_size=3)))

    first, peak, last = rising(-(10**12), -1)
    event = Event(first, last, peak, draw(scores), draw(st.integers(0, 10**6)))
    following = Following(event, draw(st.booleans()), draw(scores), draw(st.integers(-(10**12), 10**6)))
    offsets = rising(0, NEXT - 1)
    places = [Place(offset, draw(st.integers(0, MAX_TIME_MS))) for offset in offsets]
    terms = draw(st.sampled_from([TERMS, TERMS._replace(threshold=4.0), TERMS._replace(bundle=OTHER)]))
    rarity = draw(st.sampled_from([0.0, 1e-9, 0.25, 1.0])), draw(st.sampled_from(["low", "medium", "high", "critical"]))
    return CameraState(draw(names), following, *places, draw(st.integers(0, offsets[1])), terms, *rarity)


aheads = st.frozensets(st.integers(NEXT, NEXT + AHEAD_OFFSETS - 1))


@given(st.lists(possible_cameras(), max_size=5), aheads)
def test_what_is_packed_comes_back_as_it_was(cameras, ahead):
    state = a_state(cameras, ahead)
    text, left_out = pack(state, NEXT, 10**6)
    assert left_out == 0
    back = unpack(text, NEXT)
    assert sorted(map(str, back.cameras)) == sorted(map(str, cameras))
    assert (back.read_from, back.ahead) == (state.read_from, ahead)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_finished_ahead_is_never_left_out_however_little_room_there_is(seed):
    drawn = random.Random(seed)
    ahead = {NEXT + place for place in range(AHEAD_OFFSETS) if drawn.random() < 0.5} | {NEXT + AHEAD_OFFSETS - 1}
    cameras = [camera(f"camera-{number}") for number in range(50)]
    state = PartitionState(NEXT - READ_BACK_FRAMES, tuple(cameras), ahead=frozenset(ahead))
    (least,) = (one.ge for one in KafkaSettings.model_fields["commit_metadata_bytes"].metadata if hasattr(one, "ge"))
    text, left_out = pack(state, NEXT, least)
    assert left_out > len(cameras) - 3
    assert len(text) <= least
    assert unpack(text, NEXT).ahead == ahead


def test_a_camera_may_be_ahead_of_the_committed_offset_where_its_frames_are_finished():
    ahead = dataclasses.replace(camera("a"), first=Place(NEXT + 1, 0), peak=Place(NEXT + 3, 0), last=Place(NEXT + 9, 0))
    assert unpack(pack(a_state([ahead], [NEXT + 1, NEXT + 3, NEXT + 9]), NEXT, LIMIT)[0], NEXT).cameras == (ahead,)
    assert unpack(pack(a_state([ahead], [NEXT + 1, NEXT + 9]), NEXT, LIMIT)[0], NEXT) is None


def resealed(text, change):
    """A text with its content changed."""
    value = json.loads(zlib.decompress(base64.b85decode(text[1:])))
    return text[0] + base64.b85encode(zlib.compress(json.dumps(change(value)).encode())).decode()


@pytest.mark.parametrize("bits", ["-1", " 1", "1_0", "0x1", "g", "1\n", "F", "1" + "0" * (AHEAD_OFFSETS // 4), 7, None])
def test_bits_that_no_engine_writes_are_none(bits):
    text = pack(a_state([], [NEXT + 4]), NEXT, LIMIT)[0]
    assert unpack(resealed(text, lambda value: [*value[:3], "10", *value[4:]]), NEXT).ahead == {NEXT + 4}
    assert unpack(resealed(text, lambda value: [*value[:3], bits, *value[4:]]), NEXT) is None


def with_event(**changes):
    one = camera("a")
    event = dataclasses.replace(one.following.event, **changes)
    return dataclasses.replace(one, following=dataclasses.replace(one.following, event=event))


FORGED = {
    "no camera id": camera("../../x\n"),
    "before the first record": dataclasses.replace(camera("a"), first=Place(-1, 0)),
    "out of order": dataclasses.replace(camera("a"), first=Place(NEXT - 1, 0)),
    "after the offset": dataclasses.replace(camera("a"), last=Place(NEXT, 0)),
    "read from before the first record": dataclasses.replace(camera("a"), peak_from=-(10**12)),
    "read from behind the peak": dataclasses.replace(camera("a"), peak_from=NEXT - 1),
    "captured before 1970": dataclasses.replace(camera("a"), peak=Place(NEXT - 280, -1)),
    "captured after year 9999": dataclasses.replace(camera("a"), peak=Place(NEXT - 280, MAX_TIME_MS + 1)),
    "frames to come": with_event(last=0),
    "positions out of order": with_event(peak=-1),
    "long ago": with_event(first=-(10**4000)),
    "fewer than no updates": with_event(updates=-1),
    "likelier than certain": dataclasses.replace(camera("a"), p_value=1.5),
    "a threshold that is no number": dataclasses.replace(camera("a"), terms=TERMS._replace(threshold=float("inf"))),
    "a rule of any text": dataclasses.replace(camera("a"), terms=TERMS._replace(rule_version="x\n")),
    "told of after all": dataclasses.replace(
        camera("a"), following=dataclasses.replace(camera("a").following, told_at=10**4000)
    ),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_what_no_engine_can_have_kept_is_none(forged):
    good = unpack(pack(a_state([camera("a")]), NEXT, LIMIT)[0], NEXT)
    assert len(good.cameras) == 1
    assert unpack(pack(a_state([camera("b"), forged]), NEXT, 10**6)[0], NEXT) is None


@pytest.mark.parametrize("read_from", [-1, NEXT + 1])
def test_clips_begin_at_no_offset_that_cannot_be(read_from):
    state = dataclasses.replace(a_state([]), read_from=read_from)
    assert unpack(pack(state, NEXT, LIMIT)[0], NEXT) is None


def test_sixty_cameras_with_an_event_fit_into_what_a_broker_takes():
    drawn = random.Random(0)
    cameras = [camera(f"site-7.camera-{number:03}", began=drawn.randrange(100, 5000)) for number in range(60)]
    text, left_out = pack(a_state(cameras), 1_000_000, LIMIT)
    assert left_out == 0
    assert len(text.encode()) <= LIMIT


def test_what_does_not_fit_is_left_out_the_latest_and_the_not_yet_open_first():
    drawn = random.Random(0)
    held = [camera(f"{drawn.randbytes(40).hex()}", began=1000 + number) for number in range(100)]
    maybe = [camera(f"{drawn.randbytes(40).hex()}", is_open=False, began=9000) for _ in range(20)]
    text, left_out = pack(a_state(maybe + held), 1_000_000, LIMIT)
    kept = unpack(text, 1_000_000).cameras
    assert len(text) <= LIMIT
    assert len(kept) + left_out == 120
    assert len(kept) > 30
    assert [one.camera_id for one in kept] == [one.camera_id for one in reversed(held)][: len(kept)]


SOUND = pack(a_state([]), 5, LIMIT)[0]


@pytest.mark.parametrize("text", ["", "x", "3", "3{}", "3\x00", "2" + SOUND[1:], SOUND[:-4]])
def test_what_is_no_state_is_none(text):
    assert unpack(text, 5) is None


def test_a_score_that_is_no_number_is_none():
    broken = camera("a")
    broken = CameraState(
        "a", Following(Event(0, 0, 0, float("nan")), is_open=True, told_score=0, told_at=0), broken.first,
        broken.peak, broken.last, broken.peak_from, TERMS, 0.5, "low",
    )  # fmt: skip
    assert unpack(pack(a_state([broken]), 5, LIMIT)[0], 5) is None


def test_text_that_unpacks_to_very_much_is_none():
    bomb = SOUND[0] + base64.b85encode(zlib.compress(b"[" + b" " * 2**26 + b"]", 9)).decode()
    assert unpack(bomb, 5) is None


def remembering_detector():
    """A detector whose scores depend on all frames of the clip and on what moved in them."""
    made = detector(clip_frames=3)
    made.bundle.manifest.preprocessing = Preprocessing(height=64, width=64, motion="difference-1")

    def score(clips):
        weights = np.array([0.1, 0.2, 0.6], np.float32).reshape(1, 3, 1, 1)
        pictures, motion = clips[..., 0].astype(np.float32), clips[..., 1].astype(np.float32)
        seen = (weights * (pictures + motion)).sum(1)
        cells = seen.reshape(len(clips), 4, 16, 4, 16).mean((2, 4)) / 25.5
        return cells.max((1, 2)), cells

    return SimpleNamespace(bundle=made.bundle, score=score, scores_whole_batches=True)


def some_footage():
    """Frames of two cameras, of whom each is visited twice, and a few records that are no frame."""
    drawn = random.Random(3)
    visits = {"door": [range(8, 14), range(25, 40)], "yard": [range(10, 12), range(22, 30)]}
    frames = []
    for number in range(50):
        for name, seen in visits.items():
            inside = any(number in visit for visit in seen)
            level = BRIGHT + drawn.randrange(30) if inside else DARK + drawn.randrange(20)
            data = b"<html>" if drawn.random() < 0.05 else None
            frames.append(frame(len(frames), level, name, data=data))
    return frames


def by_turns(frames, drawn):
    """Frames in another order, in which each camera keeps its own."""
    waiting = {}
    for one in frames:
        waiting.setdefault(one.camera_id, []).append(one)
    while any(waiting.values()):
        yield waiting[drawn.choice([name for name, some in waiting.items() if some])].pop(0)


def told(outcomes):
    """What can be compared of outcomes: an error is equal to itself alone."""
    return [(one.frame, one.anomaly_score, str(one.error), one.alerts) for one in outcomes]


@pytest.mark.parametrize("make", [detector, remembering_detector])
def test_an_engine_goes_on_where_another_ended_with_the_same_scores_alerts_and_pictures(make):
    frames = some_footage()
    expected = Engine(make()).process(frames)
    assert sum(alert.type.endswith("ended.v1") for outcome in expected for alert in outcome.alerts) >= 3
    for cut in range(1, len(frames)):
        before = Engine(make())
        before.process(frames[:cut])
        text, left_out = before.state("frames", 0, cut, LIMIT)
        assert left_out == 0
        after = Engine(make())
        after.restore("frames", 0, text, cut, lambda first, end: iter(frames[first:end]))
        assert told(after.process(frames[cut:])) == told(expected[cut:])


@pytest.mark.parametrize("make", [detector, remembering_detector])
def test_an_engine_goes_on_where_another_was_ahead_of_the_committed_offset(make):
    frames = some_footage()
    turns = list(by_turns(frames, random.Random(5)))
    expected = Engine(make()).process(turns)
    for cut in range(1, len(turns)):
        before = Engine(make())
        before.process(turns[:cut])
        next_offset = min(one.offset for one in turns[cut:])
        ahead = frozenset(one.offset for one in turns[:cut] if one.offset >= next_offset)
        text, left_out = before.state("frames", 0, next_offset, LIMIT, ahead)
        assert left_out == 0
        after = Engine(make())
        after.restore("frames", 0, text, next_offset, lambda first, end: iter(frames[first:end]))
        assert told(after.process(turns[cut:])) == told(expected[cut:])


def test_a_state_that_is_written_while_another_thread_restores_it_is_a_whole_one():
    """As where a batch from before a partition was lost is published while what came back is restored."""
    frames = some_footage()[:66]
    places = Place(20, 0), Place(60, 0)
    conditions = tuple(FollowedCondition(name, True, -40, -1, *places) for name in ("frozen", "moved", "infrared"))
    engine = Engine(remembering_detector())
    engine.process(frames)
    written = unpack(engine.state("frames", 0, len(frames), LIMIT)[0], len(frames))
    with_health = UnwellCamera("yard", 3, conditions, written.cameras[0].terms)
    written = dataclasses.replace(written, unwell=(with_health,))
    text = pack(written, len(frames), LIMIT)[0]
    after = Engine(remembering_detector())
    found = []

    def look(one, event, _argument):
        if one.f_code.co_name not in ("_resume", "resume_event", "resume_health", "resume"):
            return None
        if event == "line":
            sys.settrace(None)
            found.append(unpack(after.state("frames", 0, len(frames), LIMIT)[0], len(frames)))
            sys.settrace(look)
        return look

    sys.settrace(look)
    try:
        after.restore("frames", 0, text, len(frames), lambda first, end: iter(frames[first:end]))
    finally:
        sys.settrace(None)

    assert len(written.cameras) == 2
    assert len(found) > 20
    assert {one for state in found for one in state.cameras} == set(written.cameras)
    assert {one for state in found for one in state.unwell} == set(written.unwell)


def test_a_state_passes_through_many_hands():
    frames = some_footage()
    expected = Engine(remembering_detector()).process(frames)
    engine, outcomes, at = Engine(remembering_detector()), [], 0
    for size in itertools.cycle([1, 3, 2]):
        outcomes += engine.process(frames[at : at + size])
        at = min(at + size, len(frames))
        text, _ = engine.state("frames", 0, at, LIMIT)
        engine = Engine(remembering_detector())
        engine.restore("frames", 0, text, at, lambda first, end: iter(frames[first:end]))
        if at == len(frames):
            break
    assert told(outcomes) == told(expected)


def test_no_more_is_read_back_than_the_next_clips_need():
    frames = some_footage()
    engine = Engine(remembering_detector())
    engine.process(frames)
    read = []
    after = Engine(remembering_detector())
    after.restore("frames", 0, engine.state("frames", 0, len(frames), LIMIT)[0], len(frames), lambda *one: read.append(one) or [])  # fmt: skip  # noqa: E501
    # Three frames of a clip but the next, and two for what moved in the earliest of them; two cameras.
    ((first, end),) = read
    assert end == len(frames)
    assert 8 <= end - first <= 10


def test_an_event_of_another_bundle_ends_under_its_own_id():
    frames = some_footage()[:60]
    engine = Engine(remembering_detector())
    engine.process(frames)
    text, _ = engine.state("frames", 0, len(frames), LIMIT)
    other = remembering_detector()
    other.bundle.reference = other.bundle.reference.model_copy(update={"digest": "sha256:" + "b" * 64})
    after = Engine(other)
    assert after.restore("frames", 0, text, len(frames), lambda first, end: iter(frames[first:end])) == 2
    (before,) = [alert for alert in engine.close_events() if alert.subject == "door"]
    (ended,) = after.process([frame(len(frames), DARK, "door")])[0].alerts
    assert ended.type == "framewatch.anomaly.ended.v1"
    left_out = {"snapshot": None, "heat_map": None, "boxes": (), "anomalous_area_percent": 0.0}
    assert ended.data.model_dump() == {**before.data.model_dump(), **left_out}
    assert [one.alerts for one in after.process([frame(len(frames) + 1, DARK, "door")])] == [()]


def test_an_event_goes_on_without_pictures_where_its_frames_are_gone():
    frames = [frame(i, level) for i, level in enumerate([DARK, BRIGHT, BRIGHT + 20, BRIGHT, DARK, DARK, DARK, DARK])]
    expected = Engine(detector()).process(frames)
    engine = Engine(detector())
    engine.process(frames[:4])
    after = Engine(detector())
    assert after.restore("frames", 0, engine.state("frames", 0, 4, LIMIT)[0], 4, lambda _first, _end: []) == 1
    (ended,) = [alert for outcome in after.process(frames[4:]) for alert in outcome.alerts]
    (wanted,) = [alert for outcome in expected[4:] for alert in outcome.alerts]
    assert wanted.data.snapshot is not None
    assert ended.data == wanted.data.model_copy(
        update={"snapshot": None, "heat_map": None, "boxes": (), "anomalous_area_percent": 0.0}
    )


def restored_ranges(cameras, **settings):
    """Ranges of offsets that an engine reads to go on from a state, far behind its beginning."""
    at = 10**9
    made = detector()
    state = PartitionState(at, tuple(cameras))
    read = []
    engine = Engine(made, **settings)
    engine.restore("frames", 0, pack(state, at, 10**6)[0], at, lambda *one: read.append(one) or iter(()))
    return engine, [end - first for first, end in read if end > first]


def far_camera(name, frames):
    one = camera(name, 10**9)
    return dataclasses.replace(one, peak_from=one.peak.offset + 1 - frames)


def test_no_state_makes_an_engine_read_without_bound():
    engine, ranges = restored_ranges([far_camera("near", READ_BACK_FRAMES), far_camera("far", READ_BACK_FRAMES + 1)])
    assert ranges == [READ_BACK_FRAMES]
    assert len(engine._cameras) == 2
    _, ranges = restored_ranges([far_camera(f"camera-{number}", 3000) for number in range(100)])
    assert sum(ranges) <= 8 * READ_BACK_FRAMES
    assert len(ranges) > 8


def test_names_that_fill_a_topic_fill_no_memory():
    frames = [frame(number, DARK, f"name-{number}") for number in range(300)]
    engine = Engine(remembering_detector(), max_cameras=8)
    text = pack(PartitionState(0), 300, LIMIT)[0]
    engine.restore("frames", 0, text, 300, lambda first, end: iter(frames[first:end]))
    assert [key[2] for key in engine._cameras] == [f"name-{number}" for number in range(292, 300)]
