import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import TrainingError
from contract.event import EventRule, EventTracker
from contract.scoring import (
    Tail,
    anomalous_area,
    anomalous_boxes,
    calibrate,
    cell_statistics,
    frames_to_images,
    severity,
)


def gumbel_scores(count, seed=0):
    z = np.random.default_rng(seed).gumbel(3.0, 1.2, count)
    return np.sign(z) * np.log1p(np.abs(z))


@given(st.floats(-5, 50), st.floats(0.1, 20), st.floats(1e-9, 0.99))
def test_p_value_and_score_are_each_other_s_inverse(location, scale, p_value):
    tail = Tail(location=location, scale=scale)
    assert tail.p_value(tail.score_at(p_value)) == pytest.approx(p_value, rel=1e-6)


def test_the_tail_of_known_scores_is_found():
    tail = calibrate(gumbel_scores(20_000), frames_per_second=10, false_events_per_day=1).tail
    assert tail.location == pytest.approx(3.0, abs=0.1)
    assert tail.scale == pytest.approx(1.2, rel=0.05)


def test_as_many_normal_frames_pass_the_threshold_as_the_budget_says():
    budget = 864.0  # a day at 10 frames/s has 864,000 frames: one in a thousand
    calibration = calibrate(gumbel_scores(5_000), frames_per_second=10, false_events_per_day=budget)
    share = np.mean(gumbel_scores(400_000, seed=1) >= calibration.threshold)
    assert share == pytest.approx(1e-3, rel=0.35)
    assert calibration.false_positive_rate == pytest.approx(1e-3)


def test_a_smaller_budget_gives_a_higher_threshold():
    thresholds = [
        calibrate(gumbel_scores(500), frames_per_second=10, false_events_per_day=budget).threshold
        for budget in (1000, 10, 1, 0.01)
    ]
    assert thresholds == sorted(thresholds)


@pytest.mark.parametrize("count", [27, 60, 400])
def test_a_few_frames_that_were_not_normal_do_not_move_the_threshold_much(count):
    scores = gumbel_scores(count)
    clean = calibrate(scores, frames_per_second=10, false_events_per_day=1)
    spoilt = calibrate(np.concatenate([scores, [9.0, 9.0]]), frames_per_second=10, false_events_per_day=1)
    assert abs(spoilt.threshold - clean.threshold) < 0.5
    assert spoilt.frames_over_threshold == 2
    assert spoilt.highest_normal_score == 9.0


def test_support_is_by_the_rule_of_three():
    assert not calibrate(gumbel_scores(100), frames_per_second=10, false_events_per_day=1).supported
    enough = calibrate(gumbel_scores(3_000), frames_per_second=10, false_events_per_day=864)
    assert enough.frames_needed == 3_000
    assert enough.supported


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, math.nan], [1.0, math.inf], [[1.0, 2.0]]])
def test_scores_that_cannot_calibrate_are_refused(scores):
    with pytest.raises(TrainingError):
        calibrate(scores, frames_per_second=10, false_events_per_day=1)


def test_equal_scores_still_give_a_threshold_above_them():
    calibration = calibrate(np.full(50, 1.0), frames_per_second=10, false_events_per_day=1)
    assert calibration.release_threshold < calibration.threshold
    assert calibration.threshold > 1.5


def test_a_cell_that_happened_to_hold_still_is_expected_to_vary_as_those_around_it():
    random = np.random.default_rng(0)
    errors = random.normal(0.05, 0.01, (400, 1, 16, 24)).astype(np.float32)
    errors[:, 0, 4:6, 4:6] = 0.05
    mean, spread = cell_statistics(errors)
    assert mean.shape == spread.shape == (1, 16, 24)
    assert np.allclose(mean, 0.05, atol=0.005)
    assert spread[0, 4:6, 4:6].min() > 0.006


def test_a_cell_that_varies_more_than_those_around_it_has_its_own_spread():
    random = np.random.default_rng(0)
    errors = random.normal(0.05, 0.01, (400, 1, 16, 24)).astype(np.float32)
    errors[:, 0, 8:12, 8:12] += random.normal(0.5, 0.1, (400, 4, 4)).astype(np.float32)
    mean, spread = cell_statistics(errors)
    assert mean[0, 9, 9] > 0.4
    assert spread[0, 9, 9] > 0.09
    assert mean[0, 0, 23] < 0.07


def test_streams_of_any_unit_are_scaled_alike_and_motion_counts_somewhat_more():
    random = np.random.default_rng(0)
    errors = random.normal(0.05, 0.01, (400, 2, 16, 24)).astype(np.float32)
    errors[:, 1] *= 1000
    mean, spread = cell_statistics(errors)
    highest = np.quantile(((errors - mean) / spread).max((2, 3)), 0.95, axis=0)
    assert highest[1] == pytest.approx(highest[0] / 0.6, rel=0.15)
    more = errors * np.array([1, 20], np.float32)[:, None, None]
    assert np.allclose(cell_statistics(more)[1][1], spread[1] * 20, rtol=0.01)


def test_severity_rises_with_rarity():
    grades = [severity(10.0**-power, 1e-6) for power in (6, 7, 8, 12, 18, 300)]
    assert grades == ["low", "low", "medium", "high", "critical", "critical"]
    assert severity(0.0, 1e-6) == "critical"


def test_boxes_and_area_are_of_the_connected_cells():
    anomaly_map = np.zeros((4, 8), np.float32)
    anomaly_map[0:2, 1:3] = 5
    anomaly_map[3, 7] = 5
    assert anomalous_area(anomaly_map, 5) == pytest.approx(5 / 32 * 100)
    boxes = anomalous_boxes(anomaly_map, 5)
    assert [(box.x, box.y, box.width, box.height) for box in boxes] == [
        (0.125, 0.0, 0.25, 0.5),
        (0.875, 0.75, 0.125, 0.25),
    ]
    assert anomalous_boxes(anomaly_map, 6) == []
    assert anomalous_boxes(np.zeros((0, 0), np.float32), 1) == []


def test_images_hold_the_clip_s_frames_then_channels():
    frames = np.zeros((1, 2, 4, 4, 3), np.uint8)
    frames[0, 1, :, :, 2] = 255
    images = frames_to_images(frames)
    assert images.shape == (1, 6, 4, 4)
    assert images.dtype == np.float32
    assert images[0, 5].min() == 1
    assert images[0, :5].max() == 0


RULE = EventRule(min_frames=3, gap_frames=2, update_rise=1.0, update_frames=2)


def told(scores, rule=RULE):
    tracker = EventTracker(rule, threshold=5, release_threshold=3)
    events = [
        (position, *happened) for position, score in enumerate(scores) if (happened := tracker.update(position, score))
    ]
    closed = tracker.close()
    return [(position, kind, event.first, event.last, event.peak) for position, kind, event in events], closed


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], []),
        ([6, 6, 0, 6, 6, 0], []),
        ([0, 6, 6, 6, 0, 0, 0, 0], [(3, "started", 1, 3, 1), (6, "ended", 1, 3, 1)]),
        ([6, 6, 6, 4, 4, 4, 0, 0, 0], [(2, "started", 0, 2, 0), (8, "ended", 0, 5, 0)]),
        ([6, 6, 6, 0, 0, 6, 0, 0, 0], [(2, "started", 0, 2, 0), (8, "ended", 0, 5, 0)]),
        (
            [6, 6, 6, 8, 8, 9, 0, 0, 0],
            [(2, "started", 0, 2, 0), (4, "updated", 0, 4, 3), (6, "updated", 0, 5, 5), (8, "ended", 0, 5, 5)],
        ),
        ([6, 6, 6, 0, 0, 0, 6, 6, 6], [(2, "started", 0, 2, 0), (5, "ended", 0, 2, 0), (8, "started", 6, 8, 6)]),
    ],
)
def test_events_start_after_a_while_outlast_gaps_and_end(scores, expected):
    assert told(scores)[0] == expected


def test_an_event_open_at_the_end_is_closed_once():
    happened, closed = told([6, 6, 6])
    assert [kind for _, kind, *_ in happened] == ["started"]
    assert closed is not None
    assert closed[0] == "ended"
    assert told([6, 6])[1] is None


@given(st.lists(st.floats(0, 10), max_size=200))
def test_starts_and_ends_alternate_and_events_do_not_overlap(scores):
    happened, closed = told(scores)
    kinds = [kind for _, kind, *_ in happened if kind != "updated"] + (["ended"] if closed else [])
    assert kinds == ["started", "ended"] * (len(kinds) // 2)
    ends = [(first, last) for _, kind, first, last, _ in happened if kind == "ended"]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ends))
