import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contract.event import EventRule, EventTracker
from contract.scoring import (
    Tail,
    anomalous_area,
    anomalous_boxes,
    cell_statistics,
    fit_gumbel,
    fit_tail,
    frames_to_images,
    say_rate,
    score_to_z,
    severity,
    z_to_score,
)
from tests.calibrations import made_calibration


def gumbel_scores(count, seed=0):
    z = np.random.default_rng(seed).gumbel(3.0, 1.2, count)
    return np.sign(z) * np.log1p(np.abs(z))


@given(st.floats(-5, 50), st.floats(0.1, 20), st.floats(1e-9, 0.99))
def test_p_value_and_score_are_each_other_s_inverse(location, scale, p_value):
    tail = Tail(location=location, scale=scale)
    assert tail.p_value(tail.score_at(p_value)) == pytest.approx(p_value, rel=1e-6)


@given(st.lists(st.floats(-50, 50), min_size=1))
def test_z_and_score_are_each_other_s_inverse_and_rise_together(scores):
    z = score_to_z(scores)
    assert z_to_score(z) == pytest.approx(np.array(scores), rel=1e-9, abs=1e-12)
    assert (np.argsort(z, kind="stable") == np.argsort(scores, kind="stable")).all()


def test_the_tail_of_known_scores_is_found():
    tail = fit_tail(gumbel_scores(20_000))
    assert tail.location == pytest.approx(3.0, abs=0.1)
    assert tail.scale == pytest.approx(1.2, rel=0.05)


@pytest.mark.parametrize("count", [27, 60, 400])
def test_a_few_frames_that_were_not_normal_do_not_move_the_tail_much(count):
    scores = gumbel_scores(count)
    clean, spoilt = fit_tail(scores), fit_tail(np.concatenate([scores, [9.0, 9.0]]))
    assert abs(spoilt.score_at(1e-6) - clean.score_at(1e-6)) < 0.5


def test_scores_that_do_not_differ_still_have_a_tail():
    assert fit_tail(np.full(50, 1.0)).score_at(1e-6) > 1.5


def test_many_tails_are_fitted_as_one_each():
    z = np.random.default_rng(0).gumbel(3.0, 1.2, (4, 500))
    together = fit_gumbel(z, 0.1)
    for row, location, scale in zip(z, *together, strict=True):
        assert (location, scale) == pytest.approx([float(value) for value in fit_gumbel(row, 0.1)])


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"release_threshold": 7.0}, "release_threshold is above"),
        ({"false_events_per_day_low": 10.0}, "false_events_per_day_low is above"),
        ({"false_events_per_day_high": math.inf}, "finite"),
    ],
)
def test_a_calibration_that_contradicts_itself_is_refused(changes, word):
    with pytest.raises(ValidationError, match=word):
        made_calibration(**changes)


def test_a_budget_is_also_one_a_frame():
    assert made_calibration(false_events_per_day=864, frames_per_second=10).budget_per_frame == pytest.approx(1e-3)


@pytest.mark.parametrize(("rate", "said"), [(0, "under 0.01"), (0.123, "0.12"), (9.0, "9"), (61_714, "62,000")])
def test_rates_are_said_to_two_digits(rate, said):
    assert say_rate(rate) == said


def test_a_cell_that_happened_to_hold_still_is_expected_to_vary_as_those_around_it():
    random = np.random.default_rng(0)
    errors = random.normal(0.05, 0.01, (400, 1, 16, 24)).astype(np.float32)
    errors[:, 0, 4:6, 4:6] = 0.05
    mean, spread = cell_statistics(errors, [True])
    assert mean.shape == spread.shape == (1, 16, 24)
    assert np.allclose(mean, 0.05, atol=0.005)
    assert spread[0, 4:6, 4:6].min() > 0.006


def test_a_cell_that_varies_more_than_those_around_it_has_its_own_spread():
    random = np.random.default_rng(0)
    errors = random.normal(0.05, 0.01, (400, 1, 16, 24)).astype(np.float32)
    errors[:, 0, 8:12, 8:12] += random.normal(0.5, 0.1, (400, 4, 4)).astype(np.float32)
    mean, spread = cell_statistics(errors, [True])
    assert mean[0, 9, 9] > 0.4
    assert spread[0, 9, 9] > 0.09
    assert mean[0, 0, 23] < 0.07


def test_cells_that_do_not_differ_by_place_share_mean_and_spread():
    random = np.random.default_rng(0)
    errors = random.normal(-6, 2, (400, 1, 16, 24)).astype(np.float32)
    errors[:, 0, 4, 4] += 3
    mean, spread = cell_statistics(errors, [False])
    assert np.allclose(mean, errors.mean(), atol=1e-5)
    assert np.allclose(spread, errors.std(), rtol=1e-5)
    still = np.full((3, 1, 16, 24), -6, np.float32)
    assert cell_statistics(still, [False])[1].min() > 0


def test_streams_of_any_unit_are_scaled_alike():
    random = np.random.default_rng(0)
    errors = random.normal(0.05, 0.01, (400, 2, 16, 24)).astype(np.float32)
    errors[:, 1] *= 1000
    mean, spread = cell_statistics(errors, [True, True])
    highest = np.quantile(((errors - mean) / spread).max((2, 3)), 0.95, axis=0)
    assert highest[1] == pytest.approx(highest[0], rel=0.15)
    more = errors * np.array([1, 20], np.float32)[:, None, None]
    assert np.allclose(cell_statistics(more, [True, True])[1][1], spread[1] * 20, rtol=0.01)


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
