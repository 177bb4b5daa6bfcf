"""A challenger scores what the champion scores, tells nothing, and costs the champion nothing when it fails."""

import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from kafka import TopicPartition

from contract.errors import BundleError, FrameError, FramewatchError
from contract.event import EventRule
from contract.frame import decode_frame
from contract.window import ClipWindow
from tests.worker.test_engine import BRIGHT, DARK, VISIT, detector, frame
from tests.worker.test_loop import committed, lose, make, record, scrape
from tests.worker.test_loop_turns import KilledError, a_life, in_turn, some_flood, wait_for_each_batch
from tests.worker.test_profiles import RIGHT, engine_of, named, small
from tests.worker.test_state import LIMIT, by_turns, remembering_detector, some_footage
from worker.cameras import Cameras
from worker.challenger import agreement, make_challenger
from worker.cores import Crew
from worker.engine import Engine
from worker.frames import Outcome
from worker.profile import make_profile
from worker.replay import Replay
from worker.replay_consumer import Stretch
from worker.state_text import unpack
from worker.zones import Zones

SCORES, CHALLENGER_SCORES = "scores", "scores.challenger"


def plain():
    return named("a")


def long():
    return named("b", remembering_detector())


def short():
    return small("c")


PAIRS = [(plain, plain), (plain, long), (long, plain), (long, long), (long, short), (short, long)]
pairs = pytest.mark.parametrize(("champion", "challenger"), PAIRS)


def challenged(champion, challenger, **more):
    return make_profile(champion, challenger=make_challenger(champion, challenger), **more)


def engine_with(champion, challenger, **more):
    profile = challenged(champion, challenger)
    return engine_of(lambda _camera, _at: profile, **more)


def engine_without(champion, **more):
    profile = make_profile(champion)
    return engine_of(lambda _camera, _at: profile, **more)


def of_the_champion(outcomes):
    """What is told without a challenger; an error is equal to itself alone."""
    return [
        (one.frame, one.anomaly_score, one.threshold, one.is_anomalous, one.counts, str(one.error), one.alerts)
        for one in outcomes
    ]


def of_the_challenger(outcomes):
    return [
        (one.frame, one.challenger.anomaly_score, one.challenger.threshold, one.challenger.bundle)
        for one in outcomes
        if one.challenger is not None and one.challenger.error is None
    ]


def alone(scorer, frames):
    """What a model says of frames as the only one."""
    return [
        (one.frame, one.anomaly_score, one.threshold, one.bundle)
        for one in Engine(scorer).process(frames)
        if one.error is None
    ]


def broken(scorer, *, after=0, error=None):
    """A detector that fails for good after so many calls; it can be mended."""
    calls = []

    def score(clips):
        calls.append(len(clips))
        if made.fails and len(calls) > after:
            raise error or FramewatchError("out of memory")
        return scorer.score(clips)

    made = SimpleNamespace(**{**vars(scorer), "score": score}, fails=True, calls=calls)
    return made


@pairs
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_both_score_each_frame_as_each_would_alone(champion, challenger, size):
    frames = some_footage()
    engine, outcomes = engine_with(champion(), challenger()), []
    for start in range(0, len(frames), size):
        outcomes += engine.process(frames[start : start + size])

    assert of_the_challenger(outcomes) == alone(challenger(), frames)
    assert of_the_champion(outcomes) == of_the_champion(engine_without(champion()).process(frames))
    assert sum(len(outcome.alerts) for outcome in outcomes) >= 6 or champion is short
    assert all(outcome.challenger is None for outcome in outcomes if outcome.error)


@pairs
def test_a_crew_tells_the_same(champion, challenger):
    frames = some_footage()
    with Crew(3) as crew:
        outcomes = engine_with(champion(), challenger(), crew=crew).process(frames)
    assert of_the_challenger(outcomes) == alone(challenger(), frames)
    assert of_the_champion(outcomes) == of_the_champion(engine_without(champion()).process(frames))


@pytest.mark.parametrize(("challenger", "decodes", "clips"), [(plain, 1, 1), (long, 1, 2), (short, 2, 2)])
def test_what_both_take_is_made_once(monkeypatch, challenger, decodes, clips):
    counts = Counter()

    def counted(name, call):
        def count(*given, **more):
            counts[name] += 1
            return call(*given, **more)

        return count

    monkeypatch.setattr("worker.engine.decode_frame", counted("decodes", decode_frame))
    monkeypatch.setattr(ClipWindow, "take", counted("clips", ClipWindow.take))
    engine_with(plain(), challenger()).process([frame(i, DARK) for i in range(5)])
    assert counts == {"decodes": 5 * decodes, "clips": 5 * clips}


@pairs
def test_scores_go_on_where_another_engine_ended(champion, challenger):
    frames = some_footage()
    expected = engine_with(champion(), challenger()).process(frames)
    for cut in range(1, len(frames), 3):
        before = engine_with(champion(), challenger())
        before.process(frames[:cut])
        text, _ = before.state("frames", 0, cut, LIMIT)
        after = engine_with(champion(), challenger())
        after.restore("frames", 0, text, cut, lambda first, end: iter(frames[first:end]))
        outcomes = after.process(frames[cut:])
        assert of_the_champion(outcomes) == of_the_champion(expected[cut:])
        assert of_the_challenger(outcomes) == of_the_challenger(expected[cut:])


@pairs
def test_scores_go_on_where_another_engine_was_ahead_of_the_committed_offset(champion, challenger):
    frames = some_footage()
    turns = list(by_turns(frames, random.Random(5)))
    expected = engine_with(champion(), challenger()).process(turns)
    for cut in range(1, len(turns), 3):
        before = engine_with(champion(), challenger())
        before.process(turns[:cut])
        next_offset = min(one.offset for one in turns[cut:])
        ahead = frozenset(one.offset for one in turns[:cut] if one.offset >= next_offset)
        text, _ = before.state("frames", 0, next_offset, LIMIT, ahead)
        after = engine_with(champion(), challenger())
        after.restore("frames", 0, text, next_offset, lambda first, end: iter(frames[first:end]))
        outcomes = after.process(turns[cut:])
        assert of_the_champion(outcomes) == of_the_champion(expected[cut:])
        assert of_the_challenger(outcomes) == of_the_challenger(expected[cut:])


def test_the_longer_of_both_clips_is_read_back_and_no_more():
    frames = [frame(i, level) for i, level in enumerate(VISIT)]

    def read_from(engine):
        engine.process(frames)
        return unpack(engine.state("frames", 0, len(frames), LIMIT)[0], len(frames)).read_from

    assert read_from(engine_without(plain())) == len(frames) - 1
    assert read_from(engine_with(plain(), short())) == len(frames) - 1
    # Two frames before the next one in its clip, and two for what moved in the earlier of them.
    assert read_from(engine_with(plain(), long())) == len(frames) - 4
    assert read_from(engine_with(long(), plain())) == len(frames) - 4


def by_schedule(challengers=True):
    """Champions and challengers that change with the capture time, in all their combinations."""
    made = [plain(), long(), short()]
    drawn = random.Random(2)
    profiles = []
    for champion in made:
        alone = make_profile(champion)
        both = [make_profile(champion, challenger=make_challenger(champion, one)) for one in made]
        profiles += [alone, *both] if challengers else [alone] * 4
    order = [drawn.randrange(len(profiles)) for _ in range(10)]
    return lambda _camera, at: profiles[order[at // 5000 % len(order)]]


def noise(count):
    drawn = np.random.default_rng(1)
    return [frame(i, int(level)) for i, level in enumerate(drawn.integers(DARK, BRIGHT, count))]


def test_whoever_takes_turns_as_champion_and_challenger_the_champion_is_as_without():
    frames = noise(50)
    outcomes = engine_of(by_schedule()).process(frames)
    without = engine_of(by_schedule(challengers=False)).process(frames)
    assert of_the_champion(outcomes) == of_the_champion(without)
    assert 20 < len(of_the_challenger(outcomes)) < 50


def test_an_engine_goes_on_twice_where_challengers_with_clips_of_other_lengths_take_turns():
    frames = noise(50)
    expected = of_the_challenger(engine_of(by_schedule()).process(frames))
    for first in range(1, 48, 5):
        for second in range(first + 1, 49, 2):
            engine, told, at = engine_of(by_schedule()), [], 0
            for cut in (first, second, len(frames)):
                told += of_the_challenger(engine.process(frames[at:cut]))
                at = cut
                text, _ = engine.state("frames", 0, at, LIMIT)
                engine = engine_of(by_schedule())
                engine.restore("frames", 0, text, at, lambda begin, end: iter(frames[begin:end]))
            assert told == expected, (first, second)


FAILURES = [FramewatchError("out of memory"), BundleError("not finite"), MemoryError(), RuntimeError("a bug")]


@pytest.mark.parametrize("error", FAILURES, ids=[type(one).__name__ for one in FAILURES])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [plain, short])
def test_a_challenger_that_fails_is_dropped_and_the_champion_goes_on(error, threads, shape):
    frames = some_footage()[:60]
    scorer = broken(shape(), after=5, error=error)
    profile = challenged(plain(), scorer)
    works, outcomes, called = [], [], 0
    with Crew(threads) as crew:
        engine = engine_of(lambda _camera, _at: profile, crew=crew)
        for start in range(0, len(frames), 5):
            works.append(engine.score(engine.prepare(frames[start : start + 5])))
            outcomes += engine.follow(works[-1])
            if works[-1].failures:
                called = len(scorer.calls)

    assert of_the_champion(outcomes) == of_the_champion(engine_without(plain()).process(frames))
    fails_at = next(place for place, work in enumerate(works) if work.failures)
    ((bundle, cause),) = [failure for work in works for failure in work.failures]
    assert (bundle, cause) == (scorer.bundle.reference, error)
    assert of_the_challenger(outcomes) == alone(shape(), frames[: 5 * fails_at])
    reasons = {one.challenger.error.reason for one in outcomes[5 * fails_at :] if one.error is None}
    assert reasons == {"not_scored"}
    # Once it is dropped it is not asked any more.
    assert len(scorer.calls) == called > 0


def test_a_challenger_that_failed_is_tried_again_once_settings_are_loaded_anew():
    scorer = broken(long())
    profile = challenged(plain(), scorer)
    engine = engine_of(lambda _camera, _at: profile)
    frames = noise(12)
    assert of_the_challenger(engine.process(frames[:4])) == []
    scorer.fails = False
    assert of_the_challenger(engine.process(frames[4:8])) == []
    engine.use(lambda _camera, _at: profile)
    assert of_the_challenger(engine.process(frames[8:])) == alone(long(), frames[8:])


def test_one_that_fails_on_a_batch_from_before_is_tried_all_the_same():
    scorer = broken(plain())
    profile = challenged(plain(), scorer)
    engine = engine_of(lambda _camera, _at: profile)
    before = engine.prepare([frame(0, DARK)])
    engine.use(lambda _camera, _at: profile)
    assert engine.score(before).failures
    scorer.fails = False
    assert len(of_the_challenger(engine.process([frame(1, DARK)]))) == 1


def test_of_two_challengers_one_fails_alone():
    good = challenged(plain(), named("d"))
    bad = challenged(plain(), broken(named("e")))
    engine = engine_of(lambda camera, _at: good if camera == "door" else bad)
    outcomes = engine.process([frame(i, DARK, "door" if i % 2 else "yard") for i in range(8)])
    assert {one.frame.camera_id: one.challenger.error is None for one in outcomes} == {"door": True, "yard": False}


def test_a_champion_that_fails_once_is_tried_again_and_its_challenger_asked_once():
    champion, scorer = broken(plain()), broken(plain())
    scorer.fails = False
    engine = engine_with(champion, scorer)
    work = engine.prepare([frame(0, DARK), frame(1, BRIGHT)])
    with pytest.raises(FramewatchError):
        engine.score(work)
    champion.fails = False
    assert len(of_the_challenger(engine.follow(engine.score(work)))) == 2
    assert sum(scorer.calls) == 2


def test_zones_hold_for_both():
    zones = Zones(masks=(RIGHT,))
    profile = make_profile(plain(), zones=zones, challenger=make_challenger(plain(), short(), zones))
    outcomes = engine_of(lambda _camera, _at: profile).process([frame(i, BRIGHT) for i in range(3)])
    # The bright square lies right of the middle.
    assert [one.anomaly_score for one in outcomes] == [pytest.approx(DARK / 25.5, abs=0.01)] * 3
    assert [one.challenger.anomaly_score for one in outcomes] == [pytest.approx(DARK / 255, abs=0.01)] * 3
    with pytest.raises(ValueError, match="leave no place"):
        make_challenger(plain(), short(), Zones(masks=(((0, 0), (1, 0), (1, 1), (0, 1)),)))


def test_its_threshold_is_that_of_its_own_calibration_or_of_the_budget():
    scorer = short()
    scorer.bundle.manifest.calibration = scorer.bundle.manifest.calibration.model_copy(update={"threshold": 4.5})
    assert make_challenger(plain(), scorer).threshold == 4.5
    calibration = scorer.bundle.manifest.calibration
    assert make_challenger(plain(), scorer, None, 1e-40).threshold == calibration.threshold_for(1e-40) > 4.5


def test_what_does_not_count_for_the_champion_counts_for_neither():
    rule = EventRule(min_frames=2, gap_frames=3, update_rise=0.5, update_frames=1)
    challenger = make_challenger(plain(), plain())
    profile = make_profile(plain(), event_rule=rule, warm_up_frames=400, challenger=challenger)
    drawn = np.random.default_rng(3)
    frames = [frame(i, DARK + int(drawn.integers(0, 25))) for i in range(410)] + [frame(410, BRIGHT)]
    frames[200] = frame(200, BRIGHT)
    outcomes = engine_of(lambda _camera, _at: profile).process(frames)
    assert (
        [one.challenger.counts for one in outcomes] == [one.counts for one in outcomes] == [False] * 400 + [True] * 11
    )
    assert outcomes[200].challenger.anomaly_score > outcomes[200].challenger.threshold
    assert [one.frame.offset for one in outcomes if one.challenger.is_anomalous] == [410]
    # The champion's thresholds are the camera's own by now; the challenger's are not measured.
    assert outcomes[-1].threshold < outcomes[-1].challenger.threshold == 6.0


@pytest.mark.parametrize("keeps", [True, False])
def test_its_maps_are_kept_where_the_champion_s_are(keeps):
    (outcome,) = engine_with(plain(), short(), keep_maps=keeps).process([frame(0, BRIGHT)])
    assert (outcome.challenger.anomaly_map is not None) == keeps
    if keeps:
        assert outcome.challenger.anomaly_map.max() == pytest.approx(outcome.challenger.anomaly_score)


def test_a_stage_of_its_own_is_told_where_there_is_a_challenger():
    stages = []
    engine_with(plain(), short(), on_stage=lambda stage, _seconds: stages.append(stage)).process([frame(0, DARK)])
    assert stages == ["decode", "motion", "infer", "challenge", "events"]


@pytest.mark.parametrize(
    ("champion", "challenger", "said"),
    [
        (False, False, "both_normal"), (True, True, "both_anomalous"), (True, False, "champion_only"),
        (False, True, "challenger_only"), (True, None, "not_scored"),
    ],
)  # fmt: skip
def test_who_calls_a_frame_anomalous_is_said(champion, challenger, said):
    one = frame(0, DARK)
    its = (
        Outcome(one, error=FrameError("not_scored", "why"))
        if challenger is None
        else Outcome(one, 1.0, 1.0, challenger)
    )
    assert agreement(Outcome(one, 1.0, 1.0, champion, challenger=its)) == said
    assert agreement(Outcome(one, 1.0, 1.0, champion)) is None


# The loop.


def use_challenger(made, challenger=short):
    profile = challenged(remembering_detector(), challenger())
    made.engine.use(lambda _camera, _at: profile)


def both(made):
    use_challenger(made)


def test_its_scores_are_on_a_topic_of_their_own_and_all_else_is_as_without():
    records, told, without = some_flood(), [], []
    a_life(records, {}, told, once=False, change=both)
    a_life(records, {}, without, once=False)
    its = [json.loads(value) for topic, _, value in told if topic == CHALLENGER_SCORES]
    mine = [json.loads(value) for topic, _, value in told if topic == SCORES]
    # Without its bundle a record of one could be taken for the other's.
    assert {one["bundle_digest"] for one in its} == {"sha256:" + "c" * 64}
    assert {one["bundle_digest"] for one in mine} == {"sha256:" + "a" * 64}
    place = ("camera_id", "topic", "partition", "offset", "captured_at_ms", "counts")
    assert [[one[name] for name in place] for one in its] == [[one[name] for name in place] for one in mine]
    assert [key for topic, key, _ in told if topic == CHALLENGER_SCORES] == [one["camera_id"].encode() for one in its]
    others = [one for one in told if one[0] != CHALLENGER_SCORES]
    assert sorted(others, key=lambda one: one[0]) == sorted(without, key=lambda one: one[0])


@pytest.mark.parametrize("comes_through", [True, False])
@pytest.mark.parametrize("once", [True, False], ids=["exactly_once", "at_least_once"])
@pytest.mark.parametrize("challenger", [short, long, plain])
def test_a_worker_killed_anywhere_leaves_no_score_of_it_out(once, comes_through, challenger):
    def change(made):
        use_challenger(made, challenger)

    records, expected = some_flood(), []
    a_life(records, {}, expected, once=once, change=change)
    kinds = Counter(topic for topic, _, _ in expected)
    assert kinds[CHALLENGER_SCORES] == kinds[SCORES] > 150
    for cut in range(0, len(records) // 7, 3):
        kept, told = {}, []
        with pytest.raises(KilledError):
            a_life(
                records, kept, told, once=once, dies_after=cut, comes_through=comes_through,
                change=lambda made: (change(made), wait_for_each_batch(made)),
            )  # fmt: skip
        a_life(records, kept, told, once=once, change=change)
        if once:
            assert Counter(told) == Counter(expected)
        assert set(told) == set(expected)


@pytest.mark.parametrize("once", [True, False], ids=["exactly_once", "at_least_once"])
def test_a_partition_that_comes_back_leaves_no_score_of_it_out(once):
    records, expected, told = some_flood(), [], []
    a_life(records, {}, expected, once=once, change=both)

    def change(made):
        both(made)
        in_turn(made, 7, lambda: lose(made, 0, comes_back=True))
        stops = iter(range(1000))
        made.source.on_empty = lambda: made.loop.stop() if not made.loop._queue and next(stops) > 30 else None

    a_life(records, {}, told, once=once, change=change)
    if once:
        assert Counter(told) == Counter(expected)
    assert set(told) == set(expected)


def test_a_failure_is_said_once_and_counted_and_no_frame_is_lost(caplog):
    records = [record(i, BRIGHT if 5 < i < 12 else DARK) for i in range(20)]
    made = make(records, batch=2)
    profile = challenged(plain(), broken(plain(), after=4))
    made.engine.use(lambda _camera, _at: profile)
    made.loop.run()
    without = make(records, batch=2)
    without.engine.use(lambda _camera, _at: make_profile(plain()))
    without.loop.run()

    assert committed(made.journal) == {0: 20}
    assert made.values["alerts"] == without.values["alerts"] != []
    assert made.values["scores"] == without.values["scores"]
    assert [json.loads(value)["offset"] for value in made.values[CHALLENGER_SCORES]] == list(range(8))
    (line,) = [one for one in caplog.records if "challenger" in one.message]
    assert line.message == "challenger dropped until settings are loaded anew: out of memory"
    assert line.bundle == "a 1"
    text = scrape(made.metrics)
    assert "framewatch_challenger_failures_total 1.0" in text
    for outcome, count in (("both_normal", 6), ("both_anomalous", 2), ("not_scored", 12)):
        assert f'framewatch_challenger_frames_total{{camera="door",outcome="{outcome}"}} {count}.0' in text
    assert 'framewatch_challenger_frames_total{camera="door",outcome="champion_only"}' not in text


def test_what_only_one_of_them_sees_is_counted():
    made = make([record(i, BRIGHT) for i in range(5)])
    profile = make_profile(plain(), threshold=50.0, challenger=make_challenger(plain(), plain()))
    made.engine.use(lambda _camera, _at: profile)
    made.loop.run()
    assert made.values["alerts"] == []
    assert 'framewatch_challenger_frames_total{camera="door",outcome="challenger_only"} 5.0' in scrape(made.metrics)
    assert [json.loads(value)["is_anomalous"] for value in made.values[CHALLENGER_SCORES]] == [True] * 5


def test_a_reload_brings_and_removes_a_challenger_between_two_batches():
    champion, records = plain(), [record(i, BRIGHT if 4 < i < 30 else DARK) for i in range(40)]

    def cameras(profile):
        return Cameras(profile, made.loop._settings.late, None, {}, {Path("unused"): champion})

    coming = {3: challenged(champion, long()), 6: challenged(champion, short()), 8: make_profile(champion)}
    turns = iter(range(1000))

    def reloaded():
        made.loop._pipeline.drain()
        profile = coming.get(next(turns))
        return cameras(profile) if profile is not None else None

    made = make(records, batch=3, reloaded=reloaded, scorer=champion)
    made.loop.run()
    without = make(records, batch=3, scorer=plain())
    without.loop.run()

    its = [json.loads(value) for value in made.values[CHALLENGER_SCORES]]
    assert [one["offset"] for one in its] == list(range(its[0]["offset"], its[-1]["offset"] + 1))
    assert 0 < its[0]["offset"] < its[-1]["offset"] < 39
    assert list(dict.fromkeys(one["bundle_digest"] for one in its)) == ["sha256:" + name * 64 for name in "bc"]
    assert len(made.values[SCORES]) == 40
    assert made.values["alerts"] == without.values["alerts"] != []


def test_a_replay_gives_its_scores_of_the_range_alone():
    records = [record(i) for i in range(20)]
    made = make(records, replay=Replay({TopicPartition("frames", 0): Stretch(0, 7, 30)}))
    profile = challenged(plain(), long())
    made.engine.use(lambda _camera, _at: profile)
    made.loop.run()
    assert [json.loads(value)["offset"] for value in made.values[CHALLENGER_SCORES]] == list(range(7, 20))


def test_a_detector_that_both_name_may_be_one():
    one = detector()
    outcomes = engine_with(named("a", one), one).process([frame(i, DARK) for i in range(3)])
    assert [o.anomaly_score for o in outcomes] == [o.challenger.anomaly_score for o in outcomes]
