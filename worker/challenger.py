"""A challenger: a model that scores the frames of the one in service, the champion, and tells nothing of them.

It sees what the champion sees, under the same zones, and what the camera's health leaves out counts for neither. What
fails in it costs its own scores alone.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

from contract.alert import BundleReference
from contract.errors import FrameError
from contract.frame import Preprocessing
from contract.scoring import FloatArray
from contract.window import ClipWindow
from worker.followed import frames_needed, take_the_same
from worker.frames import IncomingFrame, Outcome
from worker.profile import BatchScorer, Challenger
from worker.zones import Zones, score_within

NOT_SCORED: Final = "not_scored"


class ChallengerFailure(NamedTuple):
    """Why a challenger scores no more.

    Attributes:
        bundle: The model.
        cause: What it raised.
    """

    bundle: BundleReference
    cause: Exception


@dataclass(slots=True)
class OwnClip:
    """What is kept of one camera for a challenger that takes other clips than the champion.

    Attributes:
        scorer: The challenger's.
        window: Its clip.
        recent: Offsets of the last frames followed, as many as its next score depends on.
    """

    scorer: BatchScorer
    window: ClipWindow
    recent: deque[int]


def make_challenger(
    champion: BatchScorer, detector: BatchScorer, zones: Zones | None = None, false_events_per_day: float | None = None
) -> Challenger:
    """Say how a challenger scores a camera's frames.

    Args:
        champion: Detector in service.
        detector: Its own.
        zones: Where anomalies count.
        false_events_per_day: Budget of the camera; that of the challenger's calibration where not given. A threshold
            that is set for the champion is no threshold of another model.

    Raises:
        ValueError: The zones leave nothing of its map.
    """
    manifest = detector.bundle.manifest
    calibration = manifest.calibration
    return Challenger(
        detector,
        detector.bundle.reference,
        calibration.threshold if false_events_per_day is None else calibration.threshold_for(false_events_per_day),
        zones.region(manifest.shape.anomaly_map) if zones is not None else None,
        _are_decoded_alike(champion.bundle.manifest.preprocessing, manifest.preprocessing),
        take_the_same(champion, detector),
    )


def own_clip(before: OwnClip | None, challenger: Challenger | None) -> OwnClip | None:
    """Give what a camera's next frame goes into for its challenger: what there was, as far as that takes the same.

    Args:
        before: Of the camera's frame before.
        challenger: For the next one.

    Returns:
        None where there is no challenger, or it takes the champion's clips.
    """
    if challenger is None or challenger.shares_clip:
        return None
    detector = challenger.detector
    if before is not None and take_the_same(before.scorer, detector):
        before.scorer = detector
        return before
    manifest = detector.bundle.manifest
    window = ClipWindow(manifest.shape.clip_frames, manifest.preprocessing)
    return OwnClip(detector, window, deque(maxlen=frames_needed(detector)))


def outcome_of(
    challenger: Challenger, frame: IncomingFrame, scored: tuple[float, FloatArray] | None, *, counts: bool,
    keeps_map: bool,
) -> Outcome:  # fmt: skip
    """Say what a challenger makes of a frame.

    Args:
        challenger: The challenger.
        frame: That the champion scored.
        scored: Score and map, float32 of shape (rows, columns); None where it gave none.
        counts: Whether the frame counts for the champion's events.
        keeps_map: Whether the outcome holds the map.
    """
    if scored is None:
        return Outcome(frame, error=FrameError(NOT_SCORED, f"challenger {challenger.bundle.name} gave no score"))
    score, anomaly_map = scored
    if challenger.region is not None:
        score = score_within(anomaly_map, challenger.region)
    return Outcome(
        frame, score, challenger.threshold, counts and score >= challenger.threshold, counts,
        # A copy: the map is a view that would keep its whole batch's.
        anomaly_map=anomaly_map.copy() if keeps_map else None, bundle=challenger.bundle,
    )  # fmt: skip


def agreement(outcome: Outcome) -> str | None:
    """Say whether champion and challenger call a frame the same; None where there is no challenger.

    Returns:
        ``both_normal``, ``both_anomalous``, ``champion_only`` or ``challenger_only`` by who calls it anomalous, or
        ``not_scored`` where the challenger gave no score.
    """
    challenger = outcome.challenger
    if challenger is None:
        return None
    if challenger.error is not None:
        return NOT_SCORED
    if outcome.is_anomalous == challenger.is_anomalous:
        return "both_anomalous" if outcome.is_anomalous else "both_normal"
    return "champion_only" if outcome.is_anomalous else "challenger_only"


def _are_decoded_alike(one: Preprocessing, other: Preprocessing) -> bool:
    return one.model_copy(update={"motion": other.motion}) == other
