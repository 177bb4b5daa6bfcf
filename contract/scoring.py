"""What a score means: the tail of normal scores, the threshold, the p-value, the severity, the anomalous cells.

The detector's graph gives, for each frame, an ``anomaly_map`` of cells and the ``anomaly_score``, which is the map's
maximum. Both are on one scale: sign(z) ln(1 + |z|), where z counts a cell's spreads over normal footage above that
cell's mean over normal footage. So 0 is typical, and a cell at or above the threshold is an anomalous cell.

Maxima of many weakly dependent values tend to a Gumbel distribution (Coles, An Introduction to Statistical Modeling
of Extreme Values, 2001, section 3.1). It is fitted to z of held-out normal frames by two quantiles, which a few frames
that were not normal after all do not move.
"""

import math
from typing import Literal, Self

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from contract.errors import TrainingError
from contract.settings import FrozenModel

FloatArray = npt.NDArray[np.float32]
Severity = Literal["low", "medium", "high", "critical"]

_SECONDS_A_DAY = 86_400.0
_RELEASE_P_VALUE = 1e-3
_MIN_TAIL_SCALE = 0.5
_PRIOR_FRAMES = 20
_SPREAD_FLOOR_SHARE = 0.1
_NEIGHBOURHOODS_CELLS = (1.0, 4.0)
_HIGH_SHARE = 0.95
_MOTION_WEIGHT = 1 / 0.6
_ASIDE_FRAMES = 5
_ASIDE_SHARE = 0.05


class Tail(FrozenModel):
    """Gumbel distribution of z over normal frames, where score = sign(z) ln(1 + |z|)."""

    location: float
    """Mode of z."""

    scale: float = Field(gt=0)
    """Spread of z; far out, the tail falls by a factor e for each scale."""

    def p_value(self, score: float) -> float:
        """Probability that a normal frame scores this high or higher, 0..1."""
        z = math.copysign(math.expm1(min(abs(score), 700.0)), score)
        return -math.expm1(-math.exp(min(-(z - self.location) / self.scale, 700.0)))

    def score_at(self, p_value: float) -> float:
        """Score that a normal frame reaches with this probability, which is above 0 and below 1."""
        z = self.location - self.scale * math.log(-math.log1p(-p_value))
        return math.copysign(math.log1p(abs(z)), z)


class Calibration(FrozenModel):
    """How the threshold was set, from held-out normal footage alone."""

    threshold: float
    """Score from which a frame is anomalous."""

    release_threshold: float
    """Score below which an open event begins to end; at most the threshold."""

    tail: Tail
    """Distribution of normal scores; it gives p-values."""

    frames: int = Field(ge=2)
    """Held-out normal frames it was fitted on."""

    frames_per_second: float = Field(gt=0, le=1000)
    """Rate of the footage it was fitted on, frames/s."""

    false_events_per_day: float = Field(gt=0, le=86_400)
    """Budget it was set for, events a camera and day."""

    false_positive_rate: float = Field(gt=0, lt=1)
    """Share of normal frames expected at or above the threshold."""

    supported: bool
    """Whether the held-out footage is as long as the budget needs; otherwise the tail was extrapolated."""

    frames_needed: int = Field(ge=1)
    """Held-out normal frames from which the budget would be supported."""

    highest_normal_score: float
    """Highest score among the held-out normal frames."""

    frames_over_threshold: int = Field(ge=0)
    """Held-out frames at or above the threshold: look whether something was in view."""

    @model_validator(mode="after")
    def _thresholds_are_ordered(self) -> Self:
        if self.release_threshold > self.threshold:
            raise ValueError("release_threshold is above threshold")
        return self


def calibrate(normal_scores: npt.ArrayLike, *, frames_per_second: float, false_events_per_day: float) -> Calibration:
    """Set the threshold from the scores of held-out normal frames and a budget of false events.

    The tail beyond the footage is extrapolated; ``supported`` says whether the budget is within what was seen. Up to
    four frames, and up to one in twenty, may have something in view without moving the threshold.

    Args:
        normal_scores: Scores of frames in the order of capture, shape (frames,).
        frames_per_second: Rate of that footage, frames/s.
        false_events_per_day: Events a camera and day that may be false.

    Raises:
        TrainingError: Fewer than two scores, or a score that is not finite.
    """
    scores = np.asarray(normal_scores, np.float64)
    if scores.ndim != 1 or len(scores) < 2 or not np.isfinite(scores).all():
        raise TrainingError(
            "calibration needs two or more held-out normal frames with finite scores; give more footage"
        )
    p_value = min(false_events_per_day / (frames_per_second * _SECONDS_A_DAY), 0.5)
    tail = _fit_tail(np.copysign(np.expm1(np.abs(scores)), scores))
    threshold = tail.score_at(p_value)
    # With no event in n frames, 3/n bounds the rate at 95% (the rule of three).
    needed = math.ceil(3 / p_value)
    return Calibration(
        threshold=threshold,
        release_threshold=min(tail.score_at(_RELEASE_P_VALUE), threshold),
        tail=tail,
        frames=len(scores),
        frames_per_second=frames_per_second,
        false_events_per_day=false_events_per_day,
        false_positive_rate=p_value,
        supported=len(scores) >= needed,
        frames_needed=needed,
        highest_normal_score=float(scores.max()),
        frames_over_threshold=int(np.sum(scores >= threshold)),
    )


def _fit_tail(z: npt.NDArray[np.float64]) -> Tail:
    """Match a Gumbel distribution's median and an upper quantile, beyond which five frames or 5% are left aside."""
    upper = 1 - min(max(_ASIDE_FRAMES / len(z), _ASIDE_SHARE), 0.25)
    median, high = np.quantile(z, [0.5, upper])
    reduced_median, reduced_high = (-math.log(-math.log(share)) for share in (0.5, upper))
    scale = max(float(high - median) / (reduced_high - reduced_median), _MIN_TAIL_SCALE)
    return Tail(location=float(median) - reduced_median * scale, scale=scale)


def cell_statistics(
    errors: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Mean and spread of each cell's error over normal frames.

    A cell is expected to vary at least as much as the cells around it do: one that happened to hold still would
    otherwise call the first thing that crosses it an anomaly. Where there are two streams, the second's spreads are
    scaled so that its highest cells of normal frames stand somewhat above the first's: motion tells more.

    Args:
        errors: float32 of shape (frames, streams, rows, columns).

    Returns:
        Two float32 arrays of shape (streams, rows, columns), the second above 0.
    """
    by_stream = [_stream_statistics(errors[:, stream]) for stream in range(errors.shape[1])]
    mean, spread = (np.stack(values) for values in zip(*by_stream, strict=True))
    highest = np.quantile(((errors - mean) / spread).max((2, 3)), _HIGH_SHARE, axis=0)  # (streams,)
    for stream in range(1, len(spread)):
        spread[stream] *= max(float(highest[stream]), 1.0) / max(float(highest[0]), 1.0) / _MOTION_WEIGHT
    return mean.astype(np.float32), spread.astype(np.float32)


def _stream_statistics(errors: FloatArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    frames = len(errors)
    means, spreads = [], []
    for sigma in _NEIGHBOURHOODS_CELLS:
        mean, square = (
            cv2.GaussianBlur(values, (0, 0), sigma)
            for values in (errors.mean(0, np.float64), np.square(errors, dtype=np.float64).mean(0))
        )
        variance = np.maximum(square - np.square(mean), 0)
        means.append(mean)
        spreads.append(np.sqrt((frames * variance + _PRIOR_FRAMES * variance.mean()) / (frames + _PRIOR_FRAMES)))
    mean, spread = np.max(means, 0), np.max(spreads, 0)
    return mean, np.maximum(spread, max(_SPREAD_FLOOR_SHARE * float(mean.mean()), 1e-6))


def severity(p_value: float, threshold_p_value: float) -> Severity:
    """Grade a score by how many times rarer than the threshold it is, on a logarithmic scale.

    Args:
        p_value: Of the score, 0..1.
        threshold_p_value: Of the threshold, 0..1.
    """
    rarity = math.log10(max(p_value, 1e-300)) / math.log10(min(max(threshold_p_value, 1e-300), 0.1))
    if rarity < 1.25:
        return "low"
    if rarity < 1.75:
        return "medium"
    return "high" if rarity < 2.5 else "critical"


class Box(FrozenModel):
    """A rectangle within the picture, in shares of its width and height, 0..1 from the top left."""

    x: float = Field(ge=0, le=1)
    """Left edge."""

    y: float = Field(ge=0, le=1)
    """Top edge."""

    width: float = Field(gt=0, le=1)
    """Share of the picture's width."""

    height: float = Field(gt=0, le=1)
    """Share of the picture's height."""


def anomalous_area(anomaly_map: FloatArray, threshold: float) -> float:
    """Share of a map's cells at or above the threshold, in percent.

    Args:
        anomaly_map: float32 of shape (rows, columns).
        threshold: On the scale of the score.
    """
    return float(np.mean(anomaly_map >= threshold) * 100) if anomaly_map.size else 0.0


def anomalous_boxes(anomaly_map: FloatArray, threshold: float, most: int = 8) -> list[Box]:
    """Bounding boxes of connected anomalous cells, largest first.

    Args:
        anomaly_map: float32 of shape (rows, columns).
        threshold: On the scale of the score.
        most: Boxes returned at the most.
    """
    if not anomaly_map.size:
        return []
    rows, columns = anomaly_map.shape
    _, _, stats, _ = cv2.connectedComponentsWithStats((anomaly_map >= threshold).astype(np.uint8), connectivity=8)
    found = sorted((row.tolist() for row in stats[1:]), key=lambda row: (-row[cv2.CC_STAT_AREA], row))
    return [
        Box(x=x / columns, y=y / rows, width=width / columns, height=height / rows)
        for x, y, width, height, _ in found[:most]
    ]


def frames_to_images(frames: npt.NDArray[np.uint8]) -> FloatArray:
    """Turn clips of frames into the autoencoder's input.

    Args:
        frames: uint8 of shape (batch, clip_frames, height, width, channels).

    Returns:
        float32 of shape (batch, clip_frames * channels, height, width), 0..1.
    """
    batch, clip_frames, height, width, channels = frames.shape
    images = frames.transpose(0, 1, 4, 2, 3).reshape(batch, clip_frames * channels, height, width)
    return images.astype(np.float32) / np.float32(255)
