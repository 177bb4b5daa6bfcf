import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import betabinom

from contract.drift import (
    DriftReference,
    DriftRule,
    LatentReference,
    chance_beyond,
    enough_of,
    latent_distance,
    make_test,
    most_left_beyond,
    why_untold,
)
from contract.drift_tracker import DriftTracker

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
BLOCK_MS = 10_000
RULE = DriftRule()


def normal(blocks=60, seed=0):
    """Blocks as ten seconds of scores make them that are drawn from a normal distribution."""
    floor, middle = np.quantile(np.random.default_rng(seed).normal(0.5, 0.4, (blocks, 20)), [0.2, 0.5], axis=1)
    return DriftReference(block_seconds=BLOCK_MS / 1000, floor=tuple(floor), middle=tuple(middle))


def feed(tracker, level, minutes, start_ms=0, seed=1, counts=True):
    """Two frames a second whose scores lie about ``level(minute)``, and what blocks of them showed."""
    chance, looks = np.random.default_rng(seed), []
    for at_ms in range(start_ms, start_ms + int(minutes * MINUTE_MS), 500):
        score = chance.normal(0.5, 0.4) + level(at_ms / MINUTE_MS)
        look = tracker.update((at_ms // 500, at_ms), score if counts else None)
        looks += [(at_ms, look)] if look is not None else []
    return looks


def transitions(looks):
    return [(look.transition, at_ms / MINUTE_MS) for at_ms, look in looks if look.transition]


def followed(level, minutes, rule=RULE):
    return feed(DriftTracker(make_test(normal(), rule)), level, minutes)


@pytest.mark.parametrize(("reference", "window"), [(8, 10), (20, 40), (60, 360), (200, 360)])
def test_the_chance_is_that_of_the_beta_binomial_distribution(reference, window):
    for left in (0, reference // 10, reference // 2):
        for there in {0, 1, window // 2, enough_of(window), window}:
            # Its own tail is one minus the rest, which is 0 from 1e-16 on.
            expected = betabinom.pmf(range(there, window + 1), window, left + 1, reference - left).sum()
            assert chance_beyond(reference, left, window, there) == pytest.approx(expected, rel=1e-6)


def test_the_chance_is_how_often_shuffled_blocks_do_it():
    shuffled = np.random.default_rng(0).permuted(np.tile(np.arange(22), (200_000, 1)), axis=1)
    limit = np.sort(shuffled[:, :12], axis=1)[:, -3]
    often = ((shuffled[:, 12:] > limit[:, None]).sum(1) >= 5).mean()
    assert often == pytest.approx(chance_beyond(12, 2, 10, 5), rel=0.05)


def test_the_rarer_a_false_alarm_is_to_be_the_fewer_normal_blocks_lie_beyond_a_limit():
    left = [most_left_beyond(60, 360, 10.0**-power) for power in (3, 20, 40, 200)]
    assert left[0] == 6
    assert left[:3] == sorted(left[:3], reverse=True)
    assert left[3] is None


def test_nearly_all_of_so_many_is_a_whole_number_of_blocks():
    assert [enough_of(blocks) for blocks in (10, 20, 70, 11, 360)] == [9, 18, 63, 10, 324]


@pytest.mark.parametrize(
    ("reference", "rule", "word"),
    [
        (None, RULE, "holds no blocks"),
        (normal(6), RULE, "too few"),
        (normal(6), DriftRule(enabled=False), None),
        (None, DriftRule(enabled=False), None),
        (normal(20), RULE, None),
    ],
)
def test_why_no_drift_is_told_is_said(reference, rule, word):
    said = why_untold(reference, rule)
    assert said is None if word is None else word in said


def test_a_lasting_change_is_told_once_nearly_a_window_shows_it_and_ends_half_a_window_after_it():
    looks = followed(lambda minute: 3.0 if 120 <= minute < 300 else 0.0, 420)
    (started, told_at), (ended, ended_at) = transitions(looks)
    assert (started, ended) == ("started", "ended")
    assert 120 + 50 <= told_at <= 120 + 60
    assert 300 + 25 <= ended_at <= 300 + 35
    drift = next(look.drift for _, look in looks if look.transition)
    assert drift.direction == "higher"
    assert drift.spreads > 10
    assert drift.p_value < 1e-8
    # A few blocks of a normal window lie beyond the limit too.
    assert 110 * MINUTE_MS <= drift.first[1] <= 120 * MINUTE_MS + BLOCK_MS


def test_scores_that_fall_for_good_are_told_as_such():
    drifts = [look.drift for _, look in followed(lambda minute: -2.0 if minute > 60 else 0.0, 180) if look.transition]
    assert [drift.direction for drift in drifts] == ["lower"]


def test_scores_that_spread_for_good_are_told_by_their_floor():
    test = make_test(normal(), RULE)
    tracker, chance = DriftTracker(test), np.random.default_rng(0)
    looks = [tracker.update((n, 500 * n), float(chance.normal(0.5, 2.0))) for n in range(3 * 7200)]
    (drift,) = [look.drift for look in looks if look is not None and look.transition]
    assert (drift.measure, drift.direction) == ("floor", "lower")


@pytest.mark.parametrize("height", [1.0, 8.0])
def test_a_van_that_is_parked_for_a_third_of_the_window_is_no_drift(height):
    assert transitions(followed(lambda minute: height if 90 <= minute < 110 else 0.0, 240)) == []


def test_vans_that_come_and_go_all_day_are_no_drift():
    looks = followed(lambda minute: 6.0 if minute % 60 < 40 else 0.0, 12 * 60)
    assert transitions(looks) == []
    assert max(look.drift.share for _, look in looks) > 0.6


def test_short_visits_in_every_block_leave_its_floor_and_middle():
    assert transitions(followed(lambda minute: 9.0 if (minute * 60) % 10 < 3 else 0.0, 240)) == []


def test_a_longer_window_takes_what_a_shorter_one_tells_for_an_anomaly():
    def two_hours(minute):
        return 4.0 if 300 <= minute < 420 else 0.0

    assert transitions(followed(two_hours, 600)) != []
    assert transitions(followed(two_hours, 600, DriftRule(window_seconds=4 * 3600))) == []


def test_nothing_is_said_before_a_whole_window_nor_of_the_block_in_which_following_begins():
    tracker = DriftTracker(make_test(normal(), RULE))
    looks = feed(tracker, lambda _minute: 3.0, 62, start_ms=5_000)
    assert looks[0][0] == BLOCK_MS + HOUR_MS
    assert transitions(looks) == [("started", looks[0][0] / MINUTE_MS)]
    assert looks[0][1].drift.first == (BLOCK_MS // 500, BLOCK_MS)


def test_frames_that_do_not_count_make_no_block():
    tracker = DriftTracker(make_test(normal(), RULE))
    assert feed(tracker, lambda _minute: 9.0, 120, counts=False) == []
    assert feed(tracker, lambda _minute: 0.0, 59, start_ms=120 * MINUTE_MS) == []


def test_a_drift_that_was_told_before_is_not_told_again_and_ends_after_a_window_of_its_own():
    tracker = DriftTracker(make_test(normal(), RULE), is_open=True)
    assert transitions(feed(tracker, lambda _minute: 3.0, 180)) == []
    tracker = DriftTracker(make_test(normal(), RULE), is_open=True)
    assert [one for one, _ in transitions(feed(tracker, lambda _minute: 0.0, 180))] == ["ended"]


def test_of_blocks_far_shorter_than_the_window_one_in_so_many_is_taken():
    short = normal().model_copy(update={"block_seconds": 1.0})
    test = make_test(short, DriftRule(window_seconds=3600))
    assert (test.every, test.window_blocks) == (10, 360)
    long = normal().model_copy(update={"block_seconds": 1800.0})
    assert make_test(long, DriftRule(window_seconds=3600)).window_blocks == 10


def test_a_rule_s_version_names_what_is_in_force():
    assert DriftRule().version == DriftRule().version
    assert DriftRule().version != DriftRule(window_seconds=7200).version
    assert DriftRule().version.startswith("1-drift-")


def test_a_latent_s_distance_is_in_spreads():
    latent = np.array([[1.0, 2.0], [3.0, 6.0]])
    assert latent_distance(latent, (1.0, 2.0), (2.0, 4.0)).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    "change",
    [
        {"middle": (0.0,)}, {"floor": (0.0,), "middle": (0.0,)}, {"block_seconds": 0.0},
        {"floor": (0.0, float("nan"), 0.0)}, {"block_seconds": 1e9},
    ],
)  # fmt: skip
def test_a_reference_that_does_not_fit_is_refused(change):
    fields = {"block_seconds": 10.0, "floor": (0.0, 1.0, 2.0), "middle": (1.0, 2.0, 3.0)}
    assert DriftReference(**fields)
    with pytest.raises(ValidationError):
        DriftReference(**{**fields, **change})


@pytest.mark.parametrize("spread", [(1.0,), (1.0, 0.0), (1.0, -1.0)])
def test_spreads_of_latents_that_do_not_fit_are_refused(spread):
    with pytest.raises(ValidationError, match="spread"):
        LatentReference(mean=(0.0, 0.0), spread=spread, distances=(1.0, 2.0))
