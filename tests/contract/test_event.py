"""The edges of the rule that makes events of scores; `test_scoring` holds its main course."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contract.event import EventRule, EventTracker, rule_version
from tests.contract.test_scoring import RULE, told


@given(st.lists(st.floats(0, 10), max_size=200))
def test_a_peak_is_the_event_s_highest_score_and_lies_within_it(scores):
    tracker = EventTracker(RULE, threshold=5, release_threshold=3)
    for position, score in enumerate(scores):
        happened = tracker.update(position, score)
        event = happened[1] if happened else tracker.pending
        if event is not None:
            assert event.first <= event.peak <= event.last <= position
            assert event.peak_score == scores[event.peak] == max(scores[event.first : event.last + 1])


def test_of_equal_peaks_the_first_is_kept():
    assert told([6, 7, 7, 7, 0, 0, 0])[0][-1] == (6, "ended", 0, 3, 1)


def test_a_threshold_is_reached_from_exactly_its_score():
    assert [kind for _, kind, *_ in told([5, 5, 5])[0]] == ["started"]
    assert told([4.999] * 10) == ([], None)


def test_updates_keep_their_distance_and_their_rise():
    rule = EventRule(min_frames=1, gap_frames=0, update_rise=1.0, update_frames=3)
    happened, _ = told([5, 6, 7, 8, 8.5, 8.9, 9.0], rule)
    assert [(position, kind) for position, kind, *_ in happened] == [(0, "started"), (3, "updated"), (6, "updated")]
    assert [kind for _, kind, *_ in told([5, 5.9, 5.9, 5.9, 5.9, 5.9], rule)[0]] == ["started"]


def test_without_a_gap_the_first_frame_below_release_ends_it():
    rule = EventRule(min_frames=1, gap_frames=0)
    assert [(position, kind) for position, kind, *_ in told([6, 2, 6], rule)[0]] == [
        (0, "started"),
        (1, "ended"),
        (2, "started"),
    ]


def test_an_event_that_never_started_is_pending_and_leaves_nothing():
    tracker = EventTracker(RULE, threshold=5, release_threshold=3)
    assert tracker.pending is None
    assert tracker.update(0, 6) is None
    assert tracker.pending is not None
    assert tracker.pending.first == 0
    assert tracker.close() is None
    assert tracker.pending is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("min_frames", 0), ("gap_frames", -1), ("update_rise", 0), ("update_rise", float("nan")), ("update_frames", 0)],
)
def test_a_rule_out_of_bounds_is_refused(field, value):
    with pytest.raises(ValidationError):
        EventRule(**{field: value})


def test_a_rule_s_version_is_the_same_for_the_same_rule_and_thresholds_alone():
    assert rule_version(EventRule(), 5.0, 3.0) == rule_version(EventRule(), 5.0, 3.0)
    others = [
        rule_version(EventRule(), 5.0, 3.0),
        rule_version(EventRule(), 5.5, 3.0),
        rule_version(EventRule(), 5.0, 3.5),
        *(rule_version(EventRule(**{field: 77}), 5.0, 3.0) for field in EventRule.model_fields),
    ]
    assert len(set(others)) == len(others)
    assert all(len(version) == 10 and version.startswith("1-") for version in others)
