"""Calibration on made scores whose rate of false events is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import TrainingError
from contract.event import EventRule
from contract.scoring import score_to_z, z_to_score
from tests.calibrations import made_calibration
from trainer.metrics import track_events
from trainer.thresholds import calibrate, correlation_frames, trailing_minimum

GAP = EventRule().gap_frames
FRAMES_A_DAY = 864_000


def independent(random, count):
    return random.gumbel(3.0, 1.2, count)


def clustered(random, count, fresh=0.2):
    """Max-autoregressive, with Gumbel margins: one cluster for each 1 / fresh high values (Coles, section 5.2)."""
    falling = -np.arange(count) * math.log(1 - fresh)
    z = random.gumbel(math.log(fresh), 1.0, count) + falling
    return 3.0 + 1.2 * (np.maximum.accumulate(z) - falling)


def autoregressive(random, count, past=0.9):
    """Gaussian, mean 3, spread 1.5, by the moving average that a first-order recursion unrolls to."""
    weights = past ** np.arange(math.ceil(math.log(1e-4) / math.log(past)))
    noise = random.normal(0, 1.5 * math.sqrt(1 - past**2), count + len(weights) - 1)
    size = 2 ** math.ceil(math.log2(len(noise) + len(weights)))
    product = np.fft.irfft(np.fft.rfft(noise, size) * np.fft.rfft(weights, size), size)
    return 3.0 + product[len(weights) - 1 : len(noise)]


PROCESSES = {"independent": independent, "clustered": clustered, "autoregressive": autoregressive}


def made(process, count, seed=0):
    return z_to_score(PROCESSES[process](np.random.default_rng(seed), count))


def fitted(stretches, budget=500.0, **more):
    return calibrate(stretches, frames_per_second=10, false_events_per_day=budget, **more)


def count_events(scores, calibration):
    """As `track_events` counts them, which a test below compares, but quick on a million frames."""
    held = np.flatnonzero(scores >= calibration.release_threshold)
    event = np.cumsum(np.diff(held, prepend=held[0]) > GAP + 1) if len(held) else held
    high = scores[held] >= calibration.threshold
    run = np.cumsum((np.diff(held, prepend=-1) > 1) | ~high | ~np.append(False, high[:-1]))
    long = np.bincount(run, weights=high) >= calibration.min_frames
    return len(np.unique(event[high & long[run]]))


@pytest.fixture(scope="module")
def long_runs():
    """Four days of normal scores from each process."""
    return {process: made(process, 4 * FRAMES_A_DAY, seed=99) for process in PROCESSES}


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("min_frames", [1, 3])
def test_the_quick_count_is_the_event_rule_s(process, min_frames):
    scores = made(process, 30_000)
    release, threshold = np.quantile(scores, [0.88, 0.9]).tolist()
    calibration = made_calibration(threshold=threshold, release_threshold=release, min_frames=min_frames)
    rule = EventRule(min_frames=min_frames)
    events = track_events(scores, rule, calibration.threshold, calibration.release_threshold)
    assert events
    assert count_events(scores, calibration) == len(events)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_rate_over_long_footage_is_near_the_budget_and_in_the_interval(long_runs, process):
    ratios, inside = [], 0
    for seed in range(12):
        calibration = fitted([made(process, 20_000, seed)])
        achieved = count_events(long_runs[process], calibration) / 4
        ratios.append(achieved / 500)
        inside += calibration.false_events_per_day_low <= achieved <= calibration.false_events_per_day_high
        assert calibration.supported
        assert calibration.false_events_per_day_high < 100 * calibration.false_events_per_day_low
    assert inside >= 10
    assert 0.5 < np.median(ratios) < 1.5


def test_what_is_extrapolated_stays_within_a_wide_interval(long_runs):
    inside = 0
    for seed in range(100, 124):
        calibration = fitted([made("clustered", 3_000, seed)], 10)
        achieved = count_events(long_runs["clustered"], calibration) / 4
        inside += calibration.false_events_per_day_low <= achieved <= calibration.false_events_per_day_high
        assert not calibration.supported
    assert inside >= 21


def test_a_smaller_budget_gives_a_higher_threshold():
    scores = [made("clustered", 5_000)]
    thresholds = [fitted(scores, budget, min_frames=1).threshold for budget in (1000, 10, 1, 0.01)]
    assert thresholds == sorted(set(thresholds))


def test_more_footage_narrows_the_interval():
    few, many = (fitted([made("clustered", count)], 130) for count in (2_000, 60_000))
    assert many.false_events_per_day_high < few.false_events_per_day_high / 2
    assert many.false_events_per_day_low > few.false_events_per_day_low


@pytest.mark.parametrize(("count", "visits", "frames"), [(27, 2, 1), (600, 2, 10), (20_000, 4, 10)])
def test_visits_in_the_footage_do_not_move_the_threshold_much(count, visits, frames):
    scores = made("clustered", count)
    spoilt = scores.copy()
    for start in np.linspace(0.2, 0.8, visits):
        spoilt[int(start * count) : int(start * count) + frames] = 9.0
    clean, with_visits = fitted([scores], 130), fitted([spoilt], 130)
    assert abs(with_visits.threshold - clean.threshold) < 0.5
    assert with_visits.frames_over_threshold >= np.sum(spoilt == 9.0)
    assert with_visits.highest_normal_score == 9.0


def test_the_same_seed_gives_the_same_calibration_and_another_only_another_interval():
    scores = [made("clustered", 3_000)]
    one, same, other = (fitted(scores, seed=seed, min_frames=1) for seed in (1, 1, 2))
    assert one == same
    changed = {name for name, value in other if value != getattr(one, name)}
    assert changed == {"seed", "false_events_per_day_low", "false_events_per_day_high"}


def test_stretches_are_not_joined():
    # Two high frames at each end of a stretch: four in a row only across a break.
    stretches = [np.concatenate([[3.5, 3.5], made("independent", 96, seed), [3.5, 3.5]]) for seed in range(40)]
    apart = fitted(stretches, min_frames=4)
    joined = fitted([np.concatenate(stretches)], min_frames=4)
    assert apart.event_tail.score_at(0.1) < 2.8
    assert joined.event_tail.score_at(0.1) > 3.4
    assert apart.frames == joined.frames == 4_000


def test_correlation_is_not_measured_across_a_break():
    random = np.random.default_rng(0)
    noise = [random.normal(0, 1, 50) for _ in range(40)]
    assert correlation_frames(noise) == pytest.approx(1, abs=0.5)
    ramps = [np.linspace(-1, 1, 50) for _ in range(40)]
    assert correlation_frames(ramps) > 10


@pytest.mark.parametrize("past", [0.0001, 0.5, 0.9])
def test_the_correlation_time_of_a_known_process_is_found(past):
    z = autoregressive(np.random.default_rng(0), 50_000, past)
    assert correlation_frames([z]) == pytest.approx((1 + past) / (1 - past), rel=0.2)
    assert correlation_frames([np.ones(30)]) == 1


def test_a_visit_does_not_make_independent_frames_correlated():
    z = independent(np.random.default_rng(0), 5_000)
    z[1_000:1_040] = 1_000.0
    assert correlation_frames([z]) < 2


@given(st.lists(st.floats(-5, 5), max_size=40), st.integers(1, 12))
def test_the_trailing_minimum_is_that_of_whole_windows(values, frames):
    windows = [min(values[stop - frames : stop]) for stop in range(frames, len(values) + 1)]
    assert trailing_minimum(np.array(values), frames).tolist() == windows


def test_flicker_of_single_frames_asks_for_longer_events_and_slow_change_does_not():
    random = np.random.default_rng(0)
    flicker = random.normal(0, 1, 20_000) + np.where(random.random(20_000) < 0.01, 30.0, 0.0)
    assert fitted([z_to_score(flicker)], 130).min_frames > 1
    slow = autoregressive(random, 20_000, past=0.99)
    assert fitted([z_to_score(slow)], 130).min_frames == 1


def test_a_longer_duration_is_only_taken_for_a_lower_threshold():
    scores = [made("independent", 20_000)]
    chosen = fitted(scores, 20)
    assert 1 < chosen.min_frames <= 10
    assert chosen.threshold < 0.95 * fitted(scores, 20, min_frames=1).threshold


@pytest.mark.parametrize(("frames_per_second", "longest"), [(0.2, 1), (1, 1), (3, 2), (30, 16)])
def test_no_duration_over_a_second_is_chosen(frames_per_second, longest):
    random = np.random.default_rng(0)
    # The longer a flicker lasts, the lower it is: no duration within a second is long enough.
    z = random.normal(0, 0.1, 40_000)
    for length in (8, 4, 2, 1):
        for start in random.integers(0, 39_000, 180):
            z[start : start + length] = np.maximum(z[start : start + length], 4000 / length**2)
    calibration = calibrate([z_to_score(z)], frames_per_second=frames_per_second, false_events_per_day=1)
    assert calibration.min_frames == longest


def test_a_given_duration_is_kept_or_where_it_cannot_be_shown_the_longest_that_can():
    scores = made("clustered", 2_000)
    assert fitted([scores], min_frames=6).min_frames == 6
    short = np.split(scores, 200)
    assert fitted(short, min_frames=100).min_frames == 4


@pytest.mark.parametrize("process", PROCESSES)
def test_normal_footage_lets_an_event_end_but_hardly_more(long_runs, process):
    calibration = fitted([made(process, 20_000)])
    below = long_runs[process][:200_000] < calibration.release_threshold
    windows = trailing_minimum(below.astype(np.float64), GAP + 1)
    assert calibration.release_threshold <= calibration.threshold
    assert np.mean(windows) >= 0.85
    if process == "independent":
        assert np.mean(windows) <= 0.94


@pytest.mark.parametrize("lengths", [[2], [1, 1], [5], [12, 5, 10], [0, 3]])
@pytest.mark.parametrize("budget", [1, 86_400])
def test_a_few_frames_still_give_a_threshold(lengths, budget):
    calibration = fitted([made("clustered", count, seed) for seed, count in enumerate(lengths)], budget)
    assert calibration.frames == sum(lengths)
    assert calibration.threshold >= calibration.release_threshold > 0
    assert not calibration.supported


def test_equal_scores_still_give_a_threshold_above_them():
    calibration = fitted([np.full(50, 1.0)], 1)
    assert calibration.release_threshold < calibration.threshold
    assert calibration.threshold > 1.5


def test_footage_that_hangs_together_must_be_longer_than_the_rule_of_three_says():
    free = fitted([made("independent", 3_000)], 864)
    assert free.frames_needed == 3_000
    assert free.supported
    slow = fitted([z_to_score(autoregressive(np.random.default_rng(0), 3_000, past=0.99))], 864)
    assert slow.frames_needed > 3_000
    assert not slow.supported
    assert slow.blocks == pytest.approx(20, abs=2)


@pytest.mark.parametrize("stretches", [[], [[]], [[1.0]], [[1.0, math.nan]], [[1.0, math.inf]], [[[1.0, 2.0]]]])
def test_scores_that_cannot_calibrate_are_refused(stretches):
    with pytest.raises(TrainingError, match="two or more"):
        fitted(stretches)


def test_the_threshold_is_the_event_tail_s_level_at_the_budget():
    calibration = fitted([made("clustered", 20_000)], 20)
    blocks_a_day = 86_400 / calibration.block_seconds
    z = float(score_to_z(calibration.threshold))
    expected = blocks_a_day * math.exp(-(z - calibration.event_tail.location) / calibration.event_tail.scale)
    assert expected == pytest.approx(20)


def test_another_budget_s_threshold_needs_no_footage():
    scores = made("clustered", 20_000)
    one, ten = (fitted([scores], budget) for budget in (2, 20))
    assert one.threshold_for(2) == pytest.approx(one.threshold)
    assert ten.threshold_for(2) == pytest.approx(one.threshold, rel=0.1)
    assert one.threshold_for(80_000) == one.release_threshold
