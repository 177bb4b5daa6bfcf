"""Scores become events by a causal rule that is the same live, offline and on replay."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contract.event import EventRule, EventTracker

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


@given(st.lists(st.floats(0, 10), max_size=60), st.lists(st.floats(0, 10), max_size=20))
def test_what_was_told_never_depends_on_what_comes_later(scores, later):
    assert told(scores + later)[0][: len(told(scores)[0])] == told(scores)[0]


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
