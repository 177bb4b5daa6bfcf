"""Drift on made scores whose rate of false alarms is known, from the held-out footage to what is told."""

import numpy as np
import pytest

from contract.drift import DriftRule, block_values, make_test
from contract.drift_tracker import DriftTracker
from contract.errors import ConfigError, FootageError
from contract.scoring import z_to_score
from tests.trainer.test_thresholds import PROCESSES
from trainer.drift import _in_blocks, drift_reference, pool
from trainer.drift_report import compare_blocks

FRAMES_A_DAY = 86_400
NO_LATENTS = (np.zeros((0, 2), np.float32), [np.zeros((0, 2), np.float32)])


def scores(process, seconds, seed=0):
    """A score a second."""
    return z_to_score(PROCESSES[process](np.random.default_rng(seed), seconds))


def reference(process="autoregressive", seconds=7200, seed=0, latents=NO_LATENTS):
    made = drift_reference([scores(process, seconds, seed)], latents, frames_per_second=1)
    assert made is not None
    return made


def starts(live, test):
    """When drifts begin, by blocks, as `DriftTracker` tells them, which a test below compares, but quick."""
    length = test.block_ms // 1000
    values = block_values(live[: len(live) // length * length].reshape(-1, length))[:: test.every]
    beyond = np.stack([values > test.high, values < test.low])
    summed = np.pad(np.cumsum(beyond, axis=1), ((0, 0), (1, 0), (0, 0)))
    counts = (summed[:, test.window_blocks :] - summed[:, : -test.window_blocks]).max((0, 2))
    is_open, found = False, []
    for place in np.flatnonzero((counts >= test.enough) | (counts * 2 < test.window_blocks)).tolist():
        is_high = bool(counts[place] >= test.enough)
        if is_high and not is_open:
            found.append(place + test.window_blocks - 1)
        is_open = is_high
    return found


@pytest.mark.parametrize("rise", [0.0, 0.35, 3.0])
def test_the_quick_count_is_the_tracker_s(rise):
    test = make_test(reference(seconds=900), DriftRule(window_seconds=900, false_alarms_per_year=366))
    live = scores("autoregressive", 40_000, seed=5)
    for begin in (5_000, 20_000):
        live[begin : begin + 4_000] += rise
    tracker = DriftTracker(test)
    # The tracker leaves out the block in which it begins.
    looks = [tracker.update((n, 1000 * n + test.block_ms), score) for n, score in enumerate([live[0], *live])]
    length = test.block_ms // 1000
    told = [n // length - 1 for n, look in enumerate(looks) if look is not None and look.transition == "started"]
    quick = starts(np.concatenate([live[length - 1 :]]), test)
    assert len(told) == len(quick) >= 2 * (rise == 3.0)
    assert [one - other for one, other in zip(told, quick, strict=True)] == [1] * len(told)


@pytest.mark.parametrize("process", PROCESSES)
def test_no_camera_of_twelve_drifts_by_chance_within_months(process):
    told = 0
    for camera in range(12):
        test = make_test(reference(process, seed=camera), DriftRule())
        told += len(starts(scores(process, 8 * FRAMES_A_DAY, seed=100 + camera), test))
    assert told == 0


@pytest.mark.parametrize(("process", "seconds"), [("independent", 100), ("clustered", 400), ("autoregressive", 850)])
def test_false_alarms_are_as_rare_as_asked_for_with_as_little_footage_as_will_do(process, seconds):
    rule = DriftRule(window_seconds=60, false_alarms_per_year=365.25)
    counts = []
    for camera in range(100):
        blocks = drift_reference([scores(process, seconds, seed=camera)], NO_LATENTS, frames_per_second=1)
        test = make_test(blocks, rule) if blocks is not None else None
        if test is not None:
            assert len(blocks.floor) < 60
            counts.append(len(starts(scores(process, FRAMES_A_DAY, seed=1000 + camera), test)))
    assert len(counts) >= 20
    assert np.mean(counts) <= 1.0


@pytest.mark.parametrize("process", PROCESSES)
def test_a_change_of_a_few_spreads_is_told_within_a_window(process):
    for camera in range(5):
        test = make_test(reference(process, seed=camera), DriftRule())
        live = scores(process, 4 * 3600, seed=50 + camera)
        live[7200:] += 4 * test.spread.max()
        (at,) = starts(live, test)
        told_after = (at + 1) * test.every * test.block_ms / 1000 - 7200
        assert 0 < told_after <= 3600 + 2 * test.block_ms / 1000


def test_a_block_is_twice_what_scores_are_correlated_over_and_ten_seconds_with_footage_enough():
    assert reference("independent").block_seconds == pytest.approx(10, abs=3)
    # Integrated over all lags, 0.9 to the power of the lag is 19 frames.
    assert 30 <= reference("autoregressive").block_seconds <= 48


@pytest.mark.parametrize("seed", range(20))
def test_footage_too_short_to_show_what_scores_are_correlated_over_gives_none(seed):
    # Twelve times as long as that is: a twentieth of it looks much less correlated.
    assert drift_reference([scores("autoregressive", 240, seed)], NO_LATENTS, 1) is None


def test_blocks_do_not_reach_over_a_gap():
    blocks = _in_blocks([np.full(13, level) for level in range(4)], 5)
    assert blocks.tolist() == [[level] * 5 for level in range(4) for _ in range(2)]


def test_a_day_of_footage_is_kept_as_two_hundred_blocks_spread_over_it():
    made = reference("independent", FRAMES_A_DAY)
    assert len(made.floor) == len(made.middle) == 200


def latents(count, shift=0.0, seed=0):
    return (np.random.default_rng(seed).normal(0, [1, 5, 0.1], (count, 3)) + shift).astype(np.float32)


def with_latents():
    made = reference("independent", 1200, latents=(latents(900), [latents(1200, seed=1)]))
    assert made.latent is not None
    return made


def compared(live, shift=0.0, made=None):
    made = made or with_latents()
    numbers = np.arange(len(live)) // round(made.block_seconds)
    return compare_blocks("run x", made, numbers, live, latents(len(live), shift, seed=2))


def test_the_same_footage_is_no_change():
    report = compared(scores("independent", 1200, seed=7))
    assert not report.changed
    assert [one.measure for one in report.measures] == ["floor", "middle", "latent"]
    assert all(one.p_value > 0.001 and not one.lasts for one in report.measures)
    assert report.reason.startswith("no lasting change")


@pytest.mark.parametrize(("by", "direction"), [(2.0, "higher"), (-2.0, "lower")])
def test_footage_whose_scores_moved_is_a_change_with_its_reason(by, direction):
    report = compared(scores("independent", 1200, seed=7) + by)
    assert report.changed
    floor = report.measures[0]
    assert (floor.direction, floor.lasts) == (direction, True)
    assert floor.spreads > 3
    assert floor.p_value < 1e-6
    assert "changed for good" in report.reason
    assert direction in report.reason


def test_latents_that_moved_alone_are_measured_and_no_change():
    report = compared(scores("independent", 1200, seed=7), shift=3.0)
    latent = report.measures[-1]
    assert (latent.measure, latent.direction, latent.lasts) == ("latent", "higher", True)
    assert not report.changed


def test_a_change_of_half_the_footage_is_measured_and_does_not_last():
    live = scores("independent", 1200, seed=7)
    live[600:] += 3.0
    report = compared(live)
    assert report.measures[0].p_value < 1e-3
    assert not report.changed


def test_footage_of_few_blocks_and_models_of_few_are_refused():
    made = with_latents()
    with pytest.raises(FootageError, match="give more"):
        compared(scores("independent", 60))
    few = made.model_copy(update={"floor": made.floor[:2], "middle": made.middle[:2]})
    with pytest.raises(ConfigError, match="too few"):
        compared(scores("independent", 100), made=few)


def test_latents_are_averaged_over_the_picture():
    assert pool(np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)).tolist() == [[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]]
    assert pool(np.ones((2, 5), np.float32)).shape == (2, 5)
