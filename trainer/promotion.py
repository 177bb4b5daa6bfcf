"""The rule by which a retrained model replaces the one in service, with nobody watching."""

from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError
from scipy.stats import poisson

from contract.errors import ConfigError
from contract.scoring import SECONDS_A_DAY
from contract.settings import FrozenModel, one_line, read_yaml
from trainer.compare import Comparison

_LEAST_PROBABLE: Final = 0.05


class PromotionRule(FrozenModel):
    """What a challenger must show; it is promoted where it passes every check."""

    min_normal_seconds: float = Field(default=60.0, ge=0, le=SECONDS_A_DAY * 366)
    """Seconds of normal footage that both must have been shown."""

    without_known_events: bool = False
    """Whether a challenger may be promoted where there is no labelled and no confirmed event to find: nothing then
    shows that it still finds anything."""

    lost_events: int = Field(default=0, ge=0, le=1_000_000)
    """Labelled or confirmed events, found by the champion, that it may miss."""

    delay_rise_seconds: float = Field(default=2.0, ge=0, le=86_400)
    """Seconds by which its alerts may come later, at the median over the events that both find."""

    auroc_loss: float = Field(default=0.05, ge=0, le=1)
    """By how much it may tell held-out frames from the same frames with something put in worse than the champion, in
    AUROC; asked where both bundles state it."""


class Check(FrozenModel):
    """One of the rule's checks."""

    name: str
    """What is checked."""

    passed: bool
    """Whether the challenger passed."""

    text: str
    """What was found, in one line."""


class Verdict(FrozenModel):
    """Whether a challenger replaces the champion."""

    promoted: bool
    """Whether it does."""

    reason: str
    """Why, in one line."""

    checks: tuple[Check, ...] = ()
    """What was checked, in order."""


def load_rule(file: Path | None) -> PromotionRule:
    """Read the rule from YAML; the default where no file is named.

    Raises:
        ConfigError: The file is no such YAML, or a field is wrong.
    """
    if file is None:
        return PromotionRule()
    try:
        return PromotionRule.model_validate(read_yaml(file))
    except ValidationError as error:
        raise ConfigError(f"--rule {file}: {one_line(error)}") from error


def judge(comparison: Comparison, rule: PromotionRule, aurocs: tuple[float, float] | None = None) -> Verdict:
    """Decide by the rule.

    Args:
        comparison: Champion and challenger on the same footage.
        rule: What must be shown.
        aurocs: AUROC of champion and challenger on their own held-out frames, with and without something put in; None
            where one does not state it.
    """
    checks = (
        _has_normal_footage(comparison, rule),
        _has_known_events(comparison, rule),
        _finds_some(comparison),
        _loses_nothing(comparison, rule),
        _tells_no_more_false_events(comparison),
        _is_as_quick(comparison, rule),
        *(() if aurocs is None else (_sees_what_is_put_in(aurocs, rule),)),
    )
    return _verdict(checks, "it passed every check")


def judge_first(comparison: Comparison, rule: PromotionRule) -> Verdict:
    """Decide on a camera's first model, which there is nothing to compare with.

    Args:
        comparison: The model compared with itself.
        rule: What must be shown.
    """
    checks = (
        _has_normal_footage(comparison, rule),
        _has_known_events(comparison, rule),
        _finds_some(comparison),
        _within_budget(comparison),
    )
    return _verdict(checks, "there was no model in service, and it passed every check")


def _verdict(checks: tuple[Check, ...], praise: str) -> Verdict:
    failed = [check.text for check in checks if not check.passed]
    return Verdict(promoted=not failed, reason="; ".join(failed) or praise, checks=checks)


def _has_normal_footage(comparison: Comparison, rule: PromotionRule) -> Check:
    seconds = comparison.normal_seconds
    text = f"{seconds:.0f} s of normal footage were compared, {rule.min_normal_seconds:g} s are asked for"
    return Check(name="normal footage", passed=seconds >= rule.min_normal_seconds, text=text)


def _has_known_events(comparison: Comparison, rule: PromotionRule) -> Check:
    known = comparison.known_events
    if known:
        return Check(name="evidence", passed=True, text=f"{known} labelled or confirmed events were looked for")
    text = "there is no labelled and no confirmed event to find"
    if not rule.without_known_events:
        text += "; give labelled footage, confirm events in the console, or set rule.without_known_events"
    return Check(name="evidence", passed=rule.without_known_events, text=text)


def _finds_some(comparison: Comparison) -> Check:
    """Whether it finds anything, which losing nothing does not say where the champion finds nothing either."""
    found, known = comparison.total("challenger", "found"), comparison.known_events
    text = f"it finds {found} of {known} known events"
    return Check(name="events found", passed=not known or found > 0, text=text)


def _loses_nothing(comparison: Comparison, rule: PromotionRule) -> Check:
    lost, gained = (sum(getattr(one, name) for one in comparison.evidence) for name in ("lost", "gained"))
    text = f"of {comparison.known_events} known events it loses {lost} that the champion found, and gains {gained}"
    return Check(name="events lost", passed=lost <= rule.lost_events, text=text)


def _tells_no_more_false_events(comparison: Comparison) -> Check:
    before, after = (comparison.total(side, "false_events") for side in ("champion", "challenger"))
    if after <= before:
        return Check(name="false events", passed=True, text=f"{after} false events, the champion {before}")
    within = _within_budget(comparison)
    return Check(name="false events", passed=within.passed, text=f"{within.text}; the champion tells {before}")


def _within_budget(comparison: Comparison) -> Check:
    """Whether as many false events, or more, are to be expected in one of twenty such footages at the budget."""
    wrong = comparison.total("challenger", "false_events")
    days = comparison.normal_seconds / SECONDS_A_DAY
    expected = comparison.budget_per_day * days
    probable = float(poisson.sf(wrong - 1, expected)) if wrong else 1.0
    text = (
        f"{wrong} false events in {comparison.normal_seconds:.0f} s, where its budget of "
        f"{comparison.budget_per_day:g} a day lets expect {expected:.2g}"
    )
    return Check(name="false events", passed=probable >= _LEAST_PROBABLE, text=text)


def _is_as_quick(comparison: Comparison, rule: PromotionRule) -> Check:
    worst = max(
        (one.delay_rise_seconds for one in comparison.evidence if one.delay_rise_seconds is not None), default=0.0
    )
    text = f"its alerts come {worst:+.1f} s after the champion's, {rule.delay_rise_seconds:g} s are accepted"
    return Check(name="delay", passed=worst <= rule.delay_rise_seconds, text=text)


def _sees_what_is_put_in(aurocs: tuple[float, float], rule: PromotionRule) -> Check:
    champion, challenger = aurocs
    text = f"AUROC on frames with something put in is {challenger:.3f}, the champion's {champion:.3f}"
    return Check(name="put in", passed=challenger >= champion - rule.auroc_loss, text=text)
