"""What is measured of scores and maps: pure functions on arrays.

A figure that the input cannot give is None with a sentence that says why; nothing here gives NaN or raises for it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from contract.event import EventRule, EventTracker

AUPRO_FPR_LIMIT: Final = 0.3
"""False positive rate up to which AUPRO is integrated, as in Bergmann et al. 2021."""

_LEVELS: Final = 2**16
_MS_PER_HOUR: Final = 3_600_000.0

FloatVector = npt.NDArray[np.floating[Any]]
BoolVector = npt.NDArray[np.bool_]


class Measure(NamedTuple):
    """One figure, or why there is none.

    Attributes:
        value: The figure; None where the input cannot give it.
        note: A sentence that says why, or what the figure leaves out; empty where there is nothing to say.
    """

    value: float | None
    note: str = ""


class FoundEvent(NamedTuple):
    """An event that the rule found, as places in one stretch of scores.

    Attributes:
        first: First anomalous frame.
        told: Frame at which it was told that the event started.
        last: Last frame at or above the release threshold.
        peak: Frame of the highest score.
        peak_score: That score.
    """

    first: int
    told: int
    last: int
    peak: int
    peak_score: float


@dataclass(frozen=True)
class LabelledStretch:
    """An unbroken stretch of labelled frames and the events found in it.

    Attributes:
        labels: True where anomalous, bool of shape (frames,).
        captured_at_ms: Capture times, rising, int64 of shape (frames,).
        events: What the rule found.
    """

    labels: BoolVector
    captured_at_ms: npt.NDArray[np.int64]
    events: Sequence[FoundEvent]


@dataclass(frozen=True)
class PixelCounts:
    """How map values of pixels are spread over evenly spaced levels, lowest first; float64 of shape (levels,) each.

    Attributes:
        normal: Pixels outside every mask.
        anomalous: Pixels inside a mask.
        overlap: Pixels inside a mask, each counted as one over the size of its region.
        regions: Connected regions in all masks.
    """

    normal: npt.NDArray[np.float64]
    anomalous: npt.NDArray[np.float64]
    overlap: npt.NDArray[np.float64]
    regions: int


def frame_auroc(labels: BoolVector, scores: FloatVector) -> Measure:
    """Area under the ROC curve of one ranking over all frames.

    Args:
        labels: True where anomalous, shape (frames,).
        scores: Higher is worse, shape (frames,).
    """
    reason = _why_not(labels, scores)
    return Measure(None, f"AUROC: {reason}") if reason else Measure(float(roc_auc_score(labels, scores)))


def frame_auroc_per_clip(labels: BoolVector, scores: FloatVector, clips: npt.NDArray[np.int64]) -> Measure:
    """Area under the ROC curve after each clip's scores were scaled to its own 0..1, as papers on video do.

    Not causal: a clip's smallest and largest score are known at its end alone. Source of the custom: Liu et al.,
    Future Frame Prediction for Anomaly Detection, CVPR 2018, equation 8.

    Args:
        labels: True where anomalous, shape (frames,).
        scores: Higher is worse, shape (frames,).
        clips: Number of each frame's clip, shape (frames,).
    """
    reason = _why_not(labels, scores)
    if reason:
        return Measure(None, f"AUROC per clip: {reason}")
    scaled = np.zeros(len(scores), np.float64)
    for clip in np.unique(clips):
        inside = clips == clip
        low, high = float(scores[inside].min()), float(scores[inside].max())
        if high > low:
            scaled[inside] = (scores[inside].astype(np.float64) - low) / (high - low)
    return Measure(float(roc_auc_score(labels, scaled)))


def average_precision(labels: BoolVector, scores: FloatVector) -> Measure:
    """Area under the precision-recall curve by steps, anomalous frames being what is looked for.

    Args:
        labels: True where anomalous, shape (frames,).
        scores: Higher is worse, shape (frames,).
    """
    reason = _why_not(labels, scores)
    if reason:
        return Measure(None, f"average precision: {reason}")
    return Measure(float(average_precision_score(labels, scores)))


def count_pixels(maps: npt.NDArray[np.floating[Any]], masks: Iterable[npt.NDArray[np.uint8]]) -> PixelCounts:
    """Spread the pixels of all maps over levels, so that memory does not grow with the frames.

    Maps are brought to their mask's size by bilinear interpolation. 65,536 levels from the lowest to the highest
    value hold what float16 maps can tell apart in their upper half.

    Args:
        maps: Higher is worse, finite, shape (frames, rows, columns).
        masks: One a map, in the same order, shape (height, width); above 0 is anomalous.
    """
    normal, anomalous, overlap = (np.zeros(_LEVELS) for _ in range(3))
    regions = 0
    low, high = (float(maps.min()), float(maps.max())) if maps.size else (0.0, 0.0)
    scale = (_LEVELS - 1) / (high - low) if high > low else 0.0
    for anomaly_map, mask in zip(maps, masks, strict=True):
        height, width = mask.shape
        grown = cv2.resize(anomaly_map.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        levels = np.clip((grown - low) * scale, 0, _LEVELS - 1).astype(np.uint16)
        inside = mask > 0
        if not inside.any():
            normal += np.bincount(levels.ravel(), minlength=_LEVELS)
            continue
        normal += np.bincount(levels[~inside], minlength=_LEVELS)
        anomalous += np.bincount(levels[inside], minlength=_LEVELS)
        found, numbers = cv2.connectedComponents(inside.astype(np.uint8), connectivity=8)
        sizes = np.bincount(numbers.ravel())
        overlap += np.bincount(levels[inside], weights=1.0 / sizes[numbers[inside]], minlength=_LEVELS)
        regions += found - 1
    return PixelCounts(normal, anomalous, overlap, regions)


def pixel_auroc(counts: PixelCounts) -> Measure:
    """Area under the ROC curve of one ranking over all pixels; pixels on one level count as half right."""
    if not counts.normal.sum() or not counts.anomalous.sum():
        return Measure(None, "pixel AUROC: the masks hold only one of normal and anomalous pixels.")
    return Measure(float(auc(_share_above(counts.normal), _share_above(counts.anomalous))))


def aupro(counts: PixelCounts, fpr_limit: float = AUPRO_FPR_LIMIT) -> Measure:
    """Area under the per-region overlap curve up to a false positive rate, divided by that rate.

    Every connected region of every mask weighs the same, however small. Source: Bergmann et al., The MVTec Anomaly
    Detection Dataset, International Journal of Computer Vision 129, 2021, section 5.

    Args:
        counts: Of all pixels.
        fpr_limit: Share of normal pixels up to which the curve is integrated, above 0.
    """
    if not counts.normal.sum() or not counts.regions:
        return Measure(None, "AUPRO: the masks hold only one of normal and anomalous pixels.")
    rates, overlaps = _share_above(counts.normal), _share_above(counts.overlap)
    inside = rates < fpr_limit
    edge = float(np.interp(fpr_limit, rates, overlaps))
    area = auc(np.append(rates[inside], fpr_limit), np.append(overlaps[inside], edge))
    return Measure(float(area / fpr_limit))


def track_events(scores: FloatVector, rule: EventRule, threshold: float, release_threshold: float) -> list[FoundEvent]:
    """Run the live event rule over one unbroken stretch of scores.

    Args:
        scores: In the order of capture, shape (frames,).
        rule: How scores become events.
        threshold: Score from which a frame is anomalous.
        release_threshold: Score below which an open event begins to end.
    """
    tracker = EventTracker(rule, threshold, release_threshold)
    found: list[FoundEvent] = []
    told_at = 0
    for position, score in enumerate(scores.tolist()):
        told = tracker.update(position, score)
        if told and told[0] == "started":
            told_at = position
        elif told and told[0] == "ended":
            found.append(FoundEvent(told[1].first, told_at, told[1].last, told[1].peak, told[1].peak_score))
    closed = tracker.close()
    if closed:
        event = closed[1]
        found.append(FoundEvent(event.first, told_at, event.last, event.peak, event.peak_score))
    return found


def labelled_events(labels: BoolVector) -> list[tuple[int, int]]:
    """First and last place of each run of anomalous frames.

    Args:
        labels: True where anomalous, shape (frames,).
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labels.astype(np.int8), [0]])))
    return [(int(start), int(stop) - 1) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def event_recall(stretches: Sequence[LabelledStretch]) -> Measure:
    """Share of labelled events, runs of anomalous frames, that an event found overlaps."""
    hits = [bool(overlapping(stretch, run)) for stretch in stretches for run in labelled_events(stretch.labels)]
    if not hits:
        return Measure(None, "event recall: no frame is labelled anomalous.")
    return Measure(sum(hits) / len(hits))


def false_events_per_hour(stretches: Sequence[LabelledStretch]) -> Measure:
    """Events found that overlap no anomalous frame, divided by the hours of normal footage."""
    hours = sum(normal_ms(stretch) for stretch in stretches) / _MS_PER_HOUR
    if hours <= 0:
        return Measure(None, "false events per hour: there is no normal footage with rising capture times.")
    wrong = sum(is_false(stretch, event) for stretch in stretches for event in stretch.events)
    seconds = hours * 3600
    note = f"false events per hour: {wrong} in {seconds:.0f} s of normal footage, too short for a rate to be sure."
    return Measure(wrong / hours, note if hours < 1 else "")


def detection_delay_seconds(stretches: Sequence[LabelledStretch]) -> Measure:
    """Median time from a labelled event's first frame to the frame at which its start is told, over events found.

    An event that was already open when the labelled one began counts as told at once.
    """
    delays = [
        max(0, int(stretch.captured_at_ms[found[0].told] - stretch.captured_at_ms[run[0]])) / 1000
        for stretch in stretches
        for run in labelled_events(stretch.labels)
        if (found := overlapping(stretch, run))
    ]
    if not delays:
        return Measure(None, "detection delay: no labelled event was found.")
    return Measure(float(np.median(delays)))


def overlapping(stretch: LabelledStretch, run: tuple[int, int]) -> list[FoundEvent]:
    """Events found that share a frame with a run of frames, in their order.

    Args:
        stretch: Where they were found.
        run: First and last frame.
    """
    return [event for event in stretch.events if event.first <= run[1] and event.last >= run[0]]


def is_false(stretch: LabelledStretch, event: FoundEvent) -> bool:
    """Whether an event found overlaps no anomalous frame."""
    return not stretch.labels[event.first : event.last + 1].any()


def normal_ms(stretch: LabelledStretch) -> float:
    """Time of the normal frames, each as long as the median between two, ms."""
    if len(stretch.labels) < 2:
        return 0.0
    interval_ms = max(0.0, float(np.median(np.diff(stretch.captured_at_ms))))
    return float(np.sum(~stretch.labels)) * interval_ms


def _why_not(labels: BoolVector, scores: FloatVector) -> str:
    if not len(labels):
        return "there is no frame."
    if not np.isfinite(scores).all():
        return "a score is not finite."
    if labels.all() or not labels.any():
        return f"every frame is labelled {'anomalous' if labels[0] else 'normal'}; it needs both."
    return ""


def _share_above(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Share of the counts at or above each level from the highest down, led by 0; shape (levels + 1,)."""
    share = np.concatenate([[0.0], np.cumsum(counts[::-1]) / counts.sum()])
    return np.asarray(np.minimum(share, 1.0), np.float64)
