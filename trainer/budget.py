"""What footage can show of a budget of false events, and how a calibration is told of, in words."""

import math
from typing import Final

from contract.errors import UnsupportedBudgetError
from contract.event import EventRule
from contract.scoring import SECONDS_A_DAY, Calibration, say_rate
from trainer.settings import FitSettings

MIN_BLOCKS: Final = 20
"""Blocks of footage, each as long as what footage and event rule remember, from which a rate can be fitted."""

# No event in a time bounds the rate, at 95%, by three in that time (Hanley and Lippman-Hand, JAMA 249, 1983).
_RULE_OF_THREE: Final = 3


def frames_needed(frames_per_second: float, false_events_per_day: float, memory_frames: int) -> int:
    """Held-out normal frames without an event that would show a budget.

    Args:
        frames_per_second: Rate of the footage, frames/s.
        false_events_per_day: Budget, events a camera and day.
        memory_frames: Frames after which the footage has forgotten, and the event rule too.
    """
    bounding = _RULE_OF_THREE * frames_per_second * SECONDS_A_DAY / false_events_per_day
    # Rounded, since a quotient of whole numbers may lie just above the whole number that it is.
    return max(math.ceil(round(bounding, 6)), MIN_BLOCKS * memory_frames)


def require_support(frames: int, frames_per_second: float, settings: FitSettings) -> None:
    """Refuse a budget that was asked for and that held-out footage of this length cannot show.

    Args:
        frames: Held-out frames.
        frames_per_second: Rate of the footage, frames/s.
        settings: Budget, event rule, and whether to extrapolate.

    Raises:
        UnsupportedBudgetError: There are too few frames; the message says how much footage would do.
    """
    budget = settings.false_events_per_day
    if budget is None or settings.extrapolate:
        return
    rule = settings.event_rule.over(EventRule(min_frames=1))
    memory = rule.min_frames + rule.gap_frames + 1
    needed = frames_needed(frames_per_second, budget, memory)
    if frames >= needed:
        return
    seconds, share = frames / frames_per_second, settings.calibration_share
    least = _rounded_up(_RULE_OF_THREE * SECONDS_A_DAY / seconds)
    shows = f"shows {least:,.12g} at the least" if frames >= MIN_BLOCKS * memory else "is too short for any"
    held_out, whole = (say_seconds(needed / frames_per_second / part) for part in (1, share))
    raise UnsupportedBudgetError(
        f"false_events_per_day {budget:g} cannot be shown by {say_seconds(seconds)} of held-out footage: that {shows}; "
        f"{budget:g} needs {held_out} held out, {whole} in all at calibration_share {share:g}; give more footage, "
        "allow more events, or accept the fitted tail with --extrapolate"
    )


def describe(calibration: Calibration, rule: EventRule, *, budget_given: bool) -> list[str]:
    """Say in lines what a calibration chose, what it promises and what it only extrapolates.

    Args:
        calibration: What was fitted.
        rule: The event rule that goes with it.
        budget_given: Whether the budget was asked for, or is the default.
    """
    c = calibration
    budget = f"{c.false_events_per_day:g} false event{'' if c.false_events_per_day == 1 else 's'} a day"
    frames = f"{rule.min_frames} frame{'' if rule.min_frames == 1 else 's'}"
    low, high = say_rate(c.false_events_per_day_low), say_rate(c.false_events_per_day_high)
    chosen = f"threshold {c.threshold:.3f} for {frames} or more, released below {c.release_threshold:.3f}"
    lines = [
        f"{chosen}, from {c.frames} held-out frames in {c.blocks} blocks of {say_seconds(c.block_seconds)}",
        f"set for {budget}; 95% interval {low} to {high}",
    ]
    if not c.supported:
        held_out, needed = (say_seconds(frames / c.frames_per_second) for frames in (c.frames, c.frames_needed))
        whence = "" if budget_given else ", taken since none was asked for,"
        lines.append(
            f"note: {held_out} of held-out footage cannot show {budget}: the threshold{whence} is extrapolated; "
            f"{needed} held out would show it"
        )
    return lines


def say_seconds(seconds: float) -> str:
    """Say a length of time in seconds, minutes or hours, to three digits or whole hours."""
    if seconds >= 3600:
        hours = seconds / 3600
        return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"
    return f"{seconds / 60:.3g} min" if seconds >= 60 else f"{seconds:.3g} s"


def _rounded_up(value: float) -> float:
    """To three digits, never below the value."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.ceil(value / step) * step
