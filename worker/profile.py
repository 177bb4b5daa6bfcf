"""What is in force for a camera's frames: the model that scores them and what makes events of their scores."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from contract.alert import BundleReference
from contract.event import EventRule, EventRuleChanges, rule_version
from contract.manifest import Bundle
from contract.scoring import FloatArray, Severity, severity
from worker.zones import Region, Zones


class BatchScorer(Protocol):
    """What the engine needs of a detector."""

    bundle: Bundle

    @property
    def provider(self) -> str:
        """``cuda`` or ``cpu``, whichever runs it."""

    @property
    def scores_whole_batches(self) -> bool:
        """Whether one call for a batch is better than several at once."""

    def score(self, frames: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        """Score clips, uint8 (batch, clip_frames, height, width, channels): scores (batch,), maps (batch, r, c)."""


class Terms(NamedTuple):
    """Under what an event is told; while they hold, it goes on.

    Attributes:
        bundle: The model.
        rule_version: Of the rule, the thresholds and the region in force.
        threshold: Score from which a frame is anomalous.
    """

    bundle: BundleReference
    rule_version: str
    threshold: float


@dataclass(frozen=True, slots=True)
class Challenger:
    """A model that scores the same frames beside the one in service, the champion, and tells nothing of them.

    Attributes:
        detector: Scores the frames.
        bundle: The model.
        threshold: Score from which a frame is anomalous to it.
        region: Cells of its map that count; None for all.
        shares_picture: Whether it takes frames as they are decoded for the champion.
        shares_clip: Whether it takes the champion's clips.
    """

    detector: BatchScorer
    bundle: BundleReference
    threshold: float
    region: Region | None
    shares_picture: bool
    shares_clip: bool


@dataclass(frozen=True, slots=True)
class Profile:
    """What is in force.

    Attributes:
        detector: Scores the frames.
        rule: Makes events of scores.
        release: Score below which an open event begins to end.
        region: Cells of the map that count; None for all.
        terms: How its events are told.
        warm_up_frames: Frames from which a camera's own thresholds are set before it is told of; 0 for none.
        false_events_per_day: Budget that those are set for.
        challenger: Scores the frames too; None where none does.
    """

    detector: BatchScorer
    rule: EventRule
    release: float
    region: Region | None
    terms: Terms
    warm_up_frames: int = 0
    false_events_per_day: float = 1.0
    challenger: Challenger | None = None

    @property
    def threshold(self) -> float:
        """Score from which a frame is anomalous."""
        return self.terms.threshold

    def with_thresholds(self, threshold: float, release: float) -> "Profile":
        """The same with a camera's own thresholds, and no warm-up."""
        terms = _terms(self.detector, self.rule, threshold, release, self.region)
        return Profile(self.detector, self.rule, release, self.region, terms, challenger=self.challenger)

    def rarity(self, peak_score: float) -> tuple[float, Severity]:
        """Probability that a normal frame scores as high, 0..1, and how much rarer than the threshold that is."""
        calibration = self.detector.bundle.manifest.calibration
        # Four digits are more than a fitted tail knows, and travel with an offset.
        p_value = float(f"{calibration.tail.p_value(peak_score):.4g}")
        # A threshold set for a long duration is one that single frames often reach.
        allowed = min(calibration.tail.p_value(self.threshold), calibration.budget_per_frame)
        return p_value, severity(p_value, allowed)


ProfileOf = Callable[[str, int], Profile]
"""Gives what is in force for a frame, by its camera's id and its capture time, ms since 1970; raises FrameError where
frames of the camera are not scored."""


def make_profile(
    detector: BatchScorer,
    *,
    threshold: float | None = None,
    event_rule: EventRule | EventRuleChanges | None = None,
    zones: Zones | None = None,
    warm_up_frames: int = 0,
    false_events_per_day: float | None = None,
    challenger: Challenger | None = None,
) -> Profile:
    """Say what is in force; what is not given is the bundle's.

    Args:
        detector: Scores the frames.
        threshold: Score from which a frame is anomalous.
        event_rule: The rule, or what is to differ from the bundle's.
        zones: Where anomalies count.
        warm_up_frames: Frames from which a camera's own thresholds are set; 0 for none.
        false_events_per_day: Budget of a camera, which sets the threshold where none is given.
        challenger: Scores the frames too.

    Raises:
        ValueError: The zones leave nothing, or the rule asks for more frames than a warm-up can tell of.
    """
    manifest = detector.bundle.manifest
    calibration = manifest.calibration
    if threshold is None and false_events_per_day is not None:
        threshold = calibration.threshold_for(false_events_per_day)
    threshold = calibration.threshold if threshold is None else threshold
    release = min(calibration.release_threshold, threshold)
    rule = event_rule.over(manifest.event_rule) if isinstance(event_rule, EventRuleChanges) else event_rule
    rule = rule or manifest.event_rule
    least = 2 * rule.min_frames
    if 0 < warm_up_frames < least:
        # Half of its blocks, at the least, have to show a level that so many frames hold.
        raise ValueError(f"warm_up_frames {warm_up_frames} must be at least {least}, twice the rule's min_frames")
    region = zones.region(manifest.shape.anomaly_map) if zones is not None else None
    terms = _terms(detector, rule, threshold, release, region)
    budget = calibration.false_events_per_day if false_events_per_day is None else false_events_per_day
    return Profile(detector, rule, release, region, terms, warm_up_frames, budget, challenger)


def _terms(detector: BatchScorer, rule: EventRule, threshold: float, release: float, region: Region | None) -> Terms:
    version = rule_version(rule, threshold, release, region.tobytes() if region is not None else b"")
    return Terms(detector.bundle.reference, version, threshold)
