"""What ``worker rules`` is asked to try, checked before a score is read."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from contract.errors import ConfigError
from contract.event import EventRule, EventRuleChanges
from contract.kafka_source import CAMERA_ID, parse_time
from contract.manifest import Bundle
from contract.settings import one_line, read_yaml
from worker.recorded_scores import Wanted
from worker.rules import Candidate
from worker.zones import Zones

_MOST_THRESHOLDS: Final = 64
_MAX_SCORE: Final = 100.0
_MAX_BUDGET: Final = 86_400.0
_DIGITS: Final = 9
_LEAST_STEP: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to differ from what was in force; a field that is None stays as it was.

    Attributes:
        thresholds: Scores, and ranges ``FROM:TO:STEP`` of them with both ends.
        budgets: False events a camera and day, each for the threshold that the bundle's calibration gives it.
        release_threshold: Score below which an open event begins to end.
        rule: Changes of the rule.
        zones: YAML file of zones and masks.
    """

    thresholds: tuple[str, ...] = ()
    budgets: tuple[float, ...] = ()
    release_threshold: float | None = None
    rule: EventRuleChanges = field(default_factory=EventRuleChanges)
    zones: Path | None = None

    @property
    def changes_nothing(self) -> bool:
        """Whether nothing is tried but what was in force."""
        return self == Asked()


def candidates(asked: Asked, bundle: Bundle | None, in_force: EventRuleChanges) -> list[Candidate]:
    """What is tried: first what was in force, then what is asked for, by rising thresholds.

    Args:
        asked: What is asked for.
        bundle: That scored; None where it is not known: the default rule is then taken for the one in force, and each
            threshold for its release threshold.
        in_force: What the settings change of the bundle's rule.

    Raises:
        ConfigError: A threshold or a budget is none, there are too many, or a budget is given without a bundle.
    """
    rule = in_force.over(bundle.manifest.event_rule if bundle is not None else EventRule())
    release = bundle.manifest.calibration.release_threshold if bundle is not None else None
    tried = [Candidate("in force", None, rule, release)]
    if asked.changes_nothing:
        return tried
    named = [("tried", threshold) for threshold in parse_thresholds(asked.thresholds)]
    named += [(f"{budget:g} a day", _threshold_for(bundle, budget)) for budget in asked.budgets]
    if len(named) > _MOST_THRESHOLDS:
        raise ConfigError(f"--threshold and --false-events-per-day give {len(named)}, at most {_MOST_THRESHOLDS} go")
    new_rule = asked.rule.over(rule)
    new_release = release if asked.release_threshold is None else asked.release_threshold
    pairs: list[tuple[str, float | None]] = [*sorted(named, key=lambda one: one[1])] or [("tried", None)]
    is_in_zones = asked.zones is not None
    return tried + [Candidate(name, threshold, new_rule, new_release, is_in_zones) for name, threshold in pairs]


def parse_thresholds(texts: tuple[str, ...]) -> list[float]:
    """Read scores and ranges ``FROM:TO:STEP``, rising and each once.

    Raises:
        ConfigError: One is neither, or does not lie between -100 and 100.
    """
    return sorted({threshold for text in texts for threshold in _parse_one(text)})


def _parse_one(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(":")]
    except ValueError:
        values = []
    if len(values) not in (1, 3) or not all(abs(value) < _MAX_SCORE for value in values):
        raise ConfigError(f"--threshold {text!r} is no score between -100 and 100 and no range FROM:TO:STEP of them")
    if len(values) == 1:
        return values
    first, last, step = values
    if step < _LEAST_STEP or last < first:
        raise ConfigError(f"--threshold {text!r}: FROM must not be above TO, nor STEP below {_LEAST_STEP:g}")
    # Both ends count, whatever binary fractions make of the steps.
    count = math.floor((last - first) / step + 1e-9) + 1
    if count > _MOST_THRESHOLDS:
        raise ConfigError(f"--threshold {text!r} gives {count} thresholds, at most {_MOST_THRESHOLDS} go at once")
    return [round(first + number * step, _DIGITS) for number in range(count)]


def _threshold_for(bundle: Bundle | None, budget: float) -> float:
    if bundle is None:
        raise ConfigError("--false-events-per-day needs --bundle, whose calibration gives the threshold")
    if not 0 < budget <= _MAX_BUDGET:
        raise ConfigError(f"--false-events-per-day {budget:g} is not above 0 and at most {_MAX_BUDGET:g}")
    return bundle.manifest.calibration.threshold_for(budget)


def read_zones(path: Path) -> Zones:
    """Read zones and masks from a YAML file.

    Raises:
        ConfigError: It cannot be read or holds something else; the field is named.
    """
    content = read_yaml(path)
    try:
        return Zones.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"--zones {path}: {one_line(error)}") from error


def wanted_frames(camera_id: str | None, from_time: str | None, to_time: str | None, *, maps: bool) -> Wanted:
    """Which frames are replayed; times are ISO 8601 or ms since 1970.

    Raises:
        ConfigError: The camera id or a time is none, or the range has no length.
    """
    if camera_id is not None and not CAMERA_ID.fullmatch(camera_id):
        raise ConfigError(f"--camera-id {camera_id!r} is not 1 to 128 of A-Z a-z 0-9 . _ -")
    from_ms = parse_time("--from", from_time) if from_time is not None else None
    to_ms = parse_time("--to", to_time) if to_time is not None else None
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise ConfigError("--from must be earlier than --to")
    return Wanted(camera_id, from_ms, to_ms, maps)
