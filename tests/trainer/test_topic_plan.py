"""Which stretches are taken: evenly over the time of day and the days, the same each time, and none within an event."""

from collections import Counter

import numpy as np
import pytest

from contract.errors import ConfigError
from contract.event_spans import EventSpan
from trainer.topic_plan import BINS, DAY_MS, Draw, Grid, Plan, around_the_day, join_intervals, seconds_within

STRETCH_MS = 20_000
# A Thursday at noon, so that days begin within the range.
START = 20_783 * DAY_MS + DAY_MS // 2


def drawn(days, wanted, gives=lambda number: 100, left_out=(), stretch_ms=STRETCH_MS):
    """Numbers of the stretches that gave frames, until there are as many frames as are wanted."""
    grid = Grid(START, START + round(days * DAY_MS), stretch_ms)
    draw = Draw(grid, left_out)
    taken, looked, frames = [], 0, 0
    while frames < wanted and (number := draw.next()) is not None:
        looked += 1
        given = gives(number)
        draw.gave(number, given)
        frames += given
        if given:
            taken.append(number)
    return grid, taken, looked


@pytest.mark.parametrize(("days", "stretches"), [(7, 48), (7, 240), (30, 240), (1, 96), (2.5, 72), (14, 24)])
def test_each_part_of_the_day_gives_its_share_and_each_day_its_own(days, stretches):
    grid, taken, _ = drawn(days, stretches * 100)
    assert len(set(taken)) == len(taken) == stretches
    parts = Counter(grid.bins_of(np.array(taken)).tolist())
    assert [parts[part] for part in range(BINS)] == [stretches // BINS] * BINS
    if days >= 2 and stretches / days > 5:
        whole = Counter((number * STRETCH_MS - START) // DAY_MS for number in taken)
        counts = [whole[day] for day in range(int(days))]
        assert stretches / days * 0.6 <= min(counts) <= max(counts) <= stretches / days * 1.6


def test_fewer_stretches_than_parts_of_the_day_are_still_of_all_of_it():
    grid, taken, _ = drawn(7, 600)
    quarters = Counter((grid.bins_of(np.array(taken)) // 6).tolist())
    assert len(taken) == 6
    assert len(quarters) == 4


def test_what_one_part_of_the_day_cannot_give_the_others_share():
    # A camera that is on from six to eighteen.
    grid, taken, looked = drawn(
        7, 24_000, lambda number: 100 if 6 <= number * STRETCH_MS % DAY_MS // 3_600_000 < 18 else 0
    )
    parts = Counter(grid.bins_of(np.array(taken)).tolist())
    assert sorted(parts) == list(range(6, 18))
    assert set(parts.values()) == {20}
    # The night is not searched to its end: it has 15,120 stretches.
    assert looked <= len(taken) + 12 * 4 * 21


def test_a_part_of_the_day_with_gaps_still_gets_its_share():
    _, taken, _ = drawn(
        7, 24_000, lambda number: 0 if number % 3 and number * STRETCH_MS % DAY_MS < DAY_MS // 2 else 100
    )
    halves = Counter(number * STRETCH_MS % DAY_MS // (DAY_MS // 2) for number in taken)
    assert abs(halves[0] - halves[1]) <= BINS


def test_everything_is_taken_where_there_is_less_than_is_wanted():
    grid, taken, _ = drawn(1.1, 10**9)
    assert sorted(taken) == grid.numbers([]).tolist()
    assert grid.interval(taken and min(taken))[0] == START
    assert grid.interval(max(taken))[1] == START + round(1.1 * DAY_MS)


def test_the_same_range_gives_the_same_stretches_in_the_same_order():
    assert drawn(7, 9_000)[1] == drawn(7, 9_000)[1]


def test_stretches_wholly_within_what_is_left_out_are_not_taken():
    hour = (START + 3_600_000, START + 7_200_000 + 1)
    grid, taken, _ = drawn(1, 10**9, left_out=[hour])
    times = [grid.interval(number) for number in taken]
    assert not any(hour[0] <= first and end <= hour[1] for first, end in times)
    assert len(taken) == len(grid.numbers([])) - 180
    # One at its edge is read, and its frames are looked at one by one.
    edge = [(START + 10_000, START + 30_000)]
    assert len(drawn(1, 10**9, left_out=edge)[1]) == len(grid.numbers([]))


def test_ranges_that_meet_cut_time_at_the_same_places():
    first, second = Grid(0, 50_000, STRETCH_MS), Grid(50_000, 90_000, STRETCH_MS)
    assert [first.interval(number) for number in first.numbers([])] == [(0, 20_000), (20_000, 40_000), (40_000, 50_000)]
    assert [second.interval(number) for number in second.numbers([])] == [
        (50_000, 60_000),
        (60_000, 80_000),
        (80_000, 90_000),
    ]


def test_a_range_that_is_too_long_is_refused_with_what_helps():
    with pytest.raises(ConfigError, match=r"give from= and to="):
        Grid(0, START, 1_000)


@pytest.mark.parametrize(("days", "stretches"), [(7, 40), (7, 200), (5, 200), (10, 200), (30, 240)])
def test_what_is_held_out_by_turns_is_of_all_times_of_day(days, stretches):
    _, taken, _ = drawn(days, stretches * 100)
    ordered = sorted(taken, key=lambda number: around_the_day(number * STRETCH_MS))
    for turn in range(5):
        held_out = ordered[turn::5]
        parts = Counter(number * STRETCH_MS % DAY_MS // (DAY_MS // 4) for number in held_out)
        assert min(parts[part] for part in range(4)) >= len(held_out) // 4 - 1 - len(held_out) // 20
        assert len({number * STRETCH_MS // DAY_MS for number in held_out}) >= min(days, len(held_out)) // 2


def test_what_is_held_out_of_every_quarter_of_an_hour_is_of_all_days():
    ordered = sorted(range(0, 5 * DAY_MS, 900_000), key=around_the_day)
    days = Counter(start // DAY_MS for start in ordered[::5])
    assert len(days) == 5
    assert min(days.values()) >= 10


def test_events_are_left_out_with_their_margins_but_false_alarms_are_kept():
    spans = (
        EventSpan("a", 10_000, 12_000, "confirmed"),
        EventSpan("b", 14_000, 15_000, None),
        EventSpan("c", 30_000, 40_000, "false_alarm"),
        EventSpan("d", 50_000, None, None),
    )
    plan = Plan(0, 60_000, spans)
    assert plan.left_out(1.0) == [(9_000, 16_001), (49_000, 61_001)]
    assert plan.left_out(0) == [(10_000, 12_001), (14_000, 15_001), (50_000, 60_001)]
    assert seconds_within(plan.left_out(1.0), 0, 60_000) == pytest.approx(7.001 + 11)
    assert Plan.of_facts(plan.facts()) == plan


def test_an_open_false_alarm_is_kept_too():
    assert Plan(0, 60_000, (EventSpan("a", 10_000, None, "false_alarm"),)).left_out(5) == []


def test_intervals_that_touch_are_joined():
    assert join_intervals([(5, 7), (1, 3), (3, 4), (6, 9)]) == [(1, 4), (5, 9)]
