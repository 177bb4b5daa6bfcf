"""What footage can show of a budget, and how it is said."""

import pytest

from contract.errors import ConfigError
from contract.event import EventRule
from tests.calibrations import made_calibration
from tests.footage import tiny_settings
from trainer.budget import describe, frames_needed, require_support, say_seconds


def settings(budget, **more):
    return tiny_settings(false_events_per_day=budget, **more)


def test_footage_shows_a_budget_from_three_events_worth_of_it():
    assert frames_needed(10, 864, 14) == 3_000
    assert frames_needed(0.1, 81, 14) == 320  # 3 * 0.1 * 86,400 / 81 is 320 and a little in binary fractions
    require_support(3_000, 10, settings(864))
    with pytest.raises(ConfigError):
        require_support(2_999, 10, settings(864))


def test_footage_shows_no_budget_before_it_is_twenty_times_as_long_as_the_rule_s_memory():
    assert frames_needed(10, 86_400, 100) == 2_000
    rule = {"min_frames": 5, "gap_frames": 4}
    require_support(200, 10, settings(86_400, event_rule=rule))
    with pytest.raises(ConfigError, match="too short for any; 86400 needs 20 s held out"):
        require_support(199, 10, settings(86_400, event_rule=rule))


def test_a_budget_that_was_not_given_or_is_to_be_extrapolated_is_not_refused():
    require_support(5, 10, tiny_settings())
    require_support(5, 10, settings(1, extrapolate=True))


def test_a_refusal_says_what_there_is_what_it_shows_and_what_is_needed():
    with pytest.raises(ConfigError) as caught:
        require_support(3_600, 10, settings(2, calibration_share=0.25))
    said = str(caught.value)
    assert "\n" not in said
    for word in ("false_events_per_day 2 ", "6 min of held-out", "720 at the least", "36 h held out", "144 h in all"):
        assert word in said
    assert "calibration_share 0.25" in said
    assert "--extrapolate" in said


@pytest.mark.parametrize(("frames", "frames_per_second"), [(7_001, 10), (1_200, 0.1), (900, 29.97)])
def test_the_least_that_is_said_would_be_accepted(frames, frames_per_second):
    with pytest.raises(ConfigError) as caught:
        require_support(frames, frames_per_second, settings(1))
    least = float(str(caught.value).partition("that shows ")[2].partition(" at the least")[0].replace(",", ""))
    require_support(frames, frames_per_second, settings(least))
    with pytest.raises(ConfigError):
        require_support(frames, frames_per_second, settings(least * 0.98))


def test_a_calibration_is_told_with_its_interval():
    chosen, interval = describe(made_calibration(), EventRule(min_frames=1), budget_given=True)
    assert "threshold 6.000 for 1 frame or more, released below 4.000" in chosen
    assert "60 blocks of 1.6 s" in chosen
    assert interval == "set for 1 false event a day; 95% interval 0.1 to 9"


@pytest.mark.parametrize("given", [True, False])
def test_what_is_extrapolated_is_said_in_one_line_more(given):
    calibration = made_calibration(supported=False, frames=600, frames_needed=2_592_000)
    note = describe(calibration, EventRule(), budget_given=given)[2:]
    assert len(note) == 1
    assert note[0].startswith("note: 1 min of held-out footage cannot show 1 false event a day")
    assert "extrapolated; 72 h held out would show it" in note[0]
    assert ("none was asked for" in note[0]) != given


@pytest.mark.parametrize(
    ("seconds", "said"), [(2.7, "2.7 s"), (59.94, "59.9 s"), (90, "1.5 min"), (5_400, "1.5 h"), (1_296_000, "360 h")]
)
def test_lengths_of_time_are_said_in_a_unit_that_suits(seconds, said):
    assert say_seconds(seconds) == said
