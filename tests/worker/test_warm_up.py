"""A camera's own thresholds come from its first frames, and from nothing else."""

import numpy as np
import pytest

from contract.event import EventRule, EventTracker
from contract.scoring import SECONDS_A_DAY
from tests.worker.test_engine import detector
from trainer.thresholds import calibrate
from worker.profile import make_profile
from worker.warm_up import WarmUp

FRAMES = 4000
FPS = 10.0


def profile(**changes):
    rule = EventRule(min_frames=3, gap_frames=8)
    return make_profile(detector(), event_rule=rule, warm_up_frames=FRAMES, **{"false_events_per_day": 20, **changes})


def some_scores(frames, seed=0, level=1.0):
    """Scores of footage that knows a few frames of its past."""
    drawn = np.random.default_rng(seed).normal(0, 0.5, frames + 4)
    return (level + np.convolve(drawn, np.ones(5) / 5, "valid")).astype(np.float32).tolist()


def warmed(scores, given, *, step_ms=1000 / FPS):
    one = WarmUp(given.terms)
    ended = [one.add(score, round(1_790_000_000_000 + step_ms * i), given) for i, score in enumerate(scores)]
    return one, ended


def test_it_ends_with_the_last_of_its_frames_and_keeps_none():
    one, ended = warmed(some_scores(FRAMES), profile())

    assert ended == [False] * (FRAMES - 1) + [True]
    assert one.kept().histogram == ()
    assert one.kept().maxima == ()


def test_the_thresholds_are_near_those_that_training_would_set():
    scores, given = some_scores(FRAMES), profile()
    one, _ = warmed(scores, given)
    trained = calibrate(
        [np.array(scores)], frames_per_second=FPS, false_events_per_day=20, min_frames=3, gap_frames=8
    )  # fmt: skip

    assert one.thresholds.threshold == pytest.approx(trained.threshold, abs=0.25)
    assert one.thresholds.release == pytest.approx(trained.release_threshold, abs=0.1)


def test_the_budget_is_kept_on_footage_to_come():
    given = profile()
    events = 0
    days = 0.0
    for seed in range(4):
        one, _ = warmed(some_scores(FRAMES, seed), given)
        tracker = EventTracker(given.rule, *one.thresholds)
        frames = 400_000
        told = [tracker.update(i, score) for i, score in enumerate(some_scores(frames, 100 + seed))]
        events += sum(one is not None and one[0] == "started" for one in told)
        days += frames / FPS / SECONDS_A_DAY
    # A warm-up of minutes says where the order of magnitude lies.
    assert events / days <= 10 * given.false_events_per_day


def test_a_camera_that_scores_higher_gets_higher_thresholds():
    low, _ = warmed(some_scores(FRAMES), profile())
    high, _ = warmed(some_scores(FRAMES, level=3.0), profile())

    assert high.thresholds.threshold > low.thresholds.threshold + 1
    assert high.thresholds.release > low.thresholds.release + 1
    assert low.profile(profile()).threshold == low.thresholds.threshold
    assert low.profile(profile()).warm_up_frames == 0


def test_what_is_kept_at_any_frame_gives_the_same_thresholds():
    scores, given = some_scores(FRAMES), profile()
    expected, _ = warmed(scores, given)
    one = WarmUp(given.terms)
    for number, score in enumerate(scores):
        if number % 7 == 0:
            one = WarmUp(given.terms, one.kept(), one.thresholds)
        one.add(score, round(1_790_000_000_000 + 1000 / FPS * number), given)

    assert one.thresholds == expected.thresholds


@pytest.mark.parametrize("step_ms", [0, -100])
def test_clocks_that_tell_no_rate_leave_the_bundles(step_ms):
    one, _ = warmed(some_scores(FRAMES), profile(), step_ms=step_ms)
    rate = detector().bundle.manifest.calibration.frames_per_second
    at_its_rate, _ = warmed(some_scores(FRAMES), profile(), step_ms=1000 / rate)

    assert one.thresholds == pytest.approx(at_its_rate.thresholds, abs=0.01)


DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("first", "shift_ms"),
    [(1, 1_790_000_000_000), (FRAMES // 2, DAY_MS), (FRAMES // 2, -DAY_MS), (FRAMES // 2, -1_790_000_000_000)],
    ids=["set from 1970", "off for a day", "set back", "set back to 1970"],
)
def test_a_clock_that_jumps_and_a_camera_that_was_off_hardly_change_the_rate(first, shift_ms):
    scores, given = some_scores(FRAMES), profile()
    expected, _ = warmed(scores, given)
    began_ms = 1_790_000_000_000 if shift_ms < 0 or first > 1 else 0
    one = WarmUp(given.terms)
    for number, score in enumerate(scores):
        one.add(score, began_ms + 100 * number + (shift_ms if number >= first else 0), given)
        assert 0 <= one.kept().first_ms <= max(one.kept().last_ms, began_ms)

    assert one.thresholds.threshold >= expected.thresholds.threshold - 0.03


def test_what_was_written_down_of_too_few_blocks_begins_anew():
    given = profile()
    one = WarmUp(given.terms, WarmUp(given.terms).kept()._replace(frames=FRAMES - 1, maxima=(1.0, 2.0)))

    assert one.add(1.0, 0, given) is False
    assert one.kept() == WarmUp(given.terms).kept()
