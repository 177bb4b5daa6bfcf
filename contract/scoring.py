"""What a score means: the tail of normal scores, the calibration, the p-value, the severity, the anomalous cells.

The detector's graph gives, for each frame, an ``anomaly_map`` of cells and the ``anomaly_score``, which is the map's
maximum. Both are on one scale: sign(z) ln(1 + |z|), where z counts a cell's spreads over normal footage above that
cell's mean over normal footage. So 0 is typical, and a cell at or above the threshold is an anomalous cell.

Maxima of many weakly dependent values tend to a Gumbel distribution (Coles, An Introduction to Statistical Modeling
of Extreme Values, 2001, section 3.1). It is fitted to z of held-out normal frames, or of blocks of them, by two
quantiles, which a few frames that were not normal after all do not move.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal, Self

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from contract.settings import FrozenModel

FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Severity = Literal["low", "medium", "high", "critical"]

SECONDS_A_DAY: Final = 86_400.0
LEAST_SCALE: Final = 0.5
"""Scale of z over normal frames, at least: a few frames that hardly differ do not show how far others will."""

_MAX_SCORE = 100.0
_ENDS_AT_ONCE = 0.9
_PRIOR_FRAMES = 20
_SPREAD_FLOOR_SHARE = 0.1
_LEAST_SPREAD = 1e-6
_NEIGHBOURHOODS_CELLS = (1.0, 4.0)
_HIGH_SHARE = 0.95
_ASIDE_VALUES = 5
_ASIDE_SHARE = 0.1
_MAX_ASIDE_SHARE = 0.25


class Tail(FrozenModel):
    """Gumbel distribution of z over normal footage, where score = sign(z) ln(1 + |z|)."""

    location: float
    """Mode of z."""

    scale: float = Field(gt=0)
    """Spread of z; far out, the tail falls by a factor e for each scale."""

    def p_value(self, score: float) -> float:
        """Probability that a normal frame scores this high or higher, 0..1."""
        z = float(score_to_z(score))
        return -math.expm1(-math.exp(min(-(z - self.location) / self.scale, 700.0)))

    def score_at(self, p_value: float) -> float:
        """Score that a normal frame reaches with this probability, which is above 0 and below 1."""
        return float(z_to_score(self.location - self.scale * math.log(-math.log1p(-p_value))))

    def release_score(self, gap_frames: int) -> float:
        """Score that nine in ten stretches of normal frames, as long as an event's gap, stay below.

        A lower release threshold would let normal footage hold an event open.
        """
        return self.score_at(1 - _ENDS_AT_ONCE ** (1 / (gap_frames + 1)))


class Calibration(FrozenModel):
    """How threshold, release threshold and minimum duration were set, from held-out normal footage alone."""

    threshold: float
    """Score from which a frame is anomalous."""

    release_threshold: float
    """Score below which an open event begins to end; at most the threshold."""

    min_frames: int = Field(ge=1)
    """Consecutive anomalous frames that the threshold was set for; the event rule asks for as many or more."""

    tail: Tail
    """Distribution of normal frames' scores; it gives p-values."""

    event_tail: Tail
    """Distribution of the highest level that normal scores hold for ``min_frames`` frames within a block."""

    block_seconds: float = Field(gt=0)
    """Length of a block, seconds."""

    blocks: int = Field(ge=1)
    """Blocks of held-out normal footage that the event tail was fitted on, and that were resampled."""

    replicates: int = Field(ge=1)
    """Times that the blocks were resampled."""

    seed: int = Field(ge=0)
    """Seed of the resampling."""

    frames: int = Field(ge=2)
    """Held-out normal frames."""

    frames_per_second: float = Field(gt=0, le=1000)
    """Rate of the footage, frames/s."""

    false_events_per_day: float = Field(gt=0, le=86_400)
    """Budget that the threshold was set for, events a camera and day."""

    false_events_per_day_low: float = Field(ge=0)
    """Lower end of the 95% interval of false events a day at the threshold."""

    false_events_per_day_high: float = Field(ge=0)
    """Upper end of that interval."""

    false_positive_rate: float = Field(ge=0, le=1)
    """Share of normal frames expected at or above the threshold."""

    supported: bool
    """Whether the held-out footage is as long as the budget needs; otherwise the event tail was extrapolated."""

    frames_needed: int = Field(ge=1)
    """Held-out normal frames from which the budget would be supported."""

    highest_normal_score: float
    """Highest score among the held-out normal frames."""

    frames_over_threshold: int = Field(ge=0)
    """Held-out frames at or above the threshold: look whether something was in view."""

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.release_threshold > self.threshold:
            raise ValueError("release_threshold is above threshold")
        if self.false_events_per_day_low > self.false_events_per_day_high:
            raise ValueError("false_events_per_day_low is above false_events_per_day_high")
        return self

    def threshold_for(self, false_events_per_day: float) -> float:
        """Score from which frames are anomalous where another budget is allowed.

        Args:
            false_events_per_day: Events a camera and day, above 0; footage that does not show so few is extrapolated.
        """
        blocks_an_event = SECONDS_A_DAY / (false_events_per_day * self.block_seconds)
        tail = self.event_tail
        return float(event_threshold(tail.location, tail.scale, blocks_an_event, self.release_threshold))

    @property
    def budget_per_frame(self) -> float:
        """False events that the budget allows a frame."""
        return self.false_events_per_day / (self.frames_per_second * SECONDS_A_DAY)


def say_rate(rate: float) -> str:
    """Say a number of events to two digits, as people write it."""
    if rate < 0.01:
        return "under 0.01"
    if rate < 10:
        return f"{rate:.2g}"
    step = 10 ** (math.floor(math.log10(rate)) - 1)
    return f"{round(rate / step) * step:,}"


def score_to_z(score: npt.ArrayLike) -> Float64Array:
    """Spreads above the mean, from scores; any shape, finite."""
    values = np.asarray(score, np.float64)
    return np.asarray(np.copysign(np.expm1(np.minimum(np.abs(values), _MAX_SCORE)), values))


def z_to_score(z: npt.ArrayLike) -> Float64Array:
    """Scores, from spreads above the mean; any shape, finite."""
    values = np.asarray(z, np.float64)
    return np.asarray(np.copysign(np.log1p(np.abs(values)), values))


def event_threshold(
    location: npt.ArrayLike, scale: npt.ArrayLike, blocks_an_event: float, release_threshold: float
) -> Float64Array:
    """Score that blocks' maxima reach once in so many blocks, at least the release threshold.

    Args:
        location: Mode of the maxima's z, any shape.
        scale: Its spread, same shape.
        blocks_an_event: Blocks in which one event is allowed.
        release_threshold: On the scale of the score.
    """
    z = np.asarray(location) + np.asarray(scale) * math.log(blocks_an_event)
    return np.asarray(np.maximum(z_to_score(z), release_threshold))


def fit_gumbel(z: Float64Array, least_scale: float) -> tuple[Float64Array, Float64Array]:
    """Match Gumbel distributions' median and an upper quantile, beyond which five values or 10% are left aside.

    Args:
        z: Samples along the last axis, shape (..., n).
        least_scale: What the scale is raised to, above 0.

    Returns:
        Locations and scales, shape (...).
    """
    upper = 1 - min(max(_ASIDE_VALUES / z.shape[-1], _ASIDE_SHARE), _MAX_ASIDE_SHARE)
    median, high = np.quantile(z, [0.5, upper], axis=-1)
    reduced_median, reduced_high = (-math.log(-math.log(share)) for share in (0.5, upper))
    scale = np.maximum((high - median) / (reduced_high - reduced_median), least_scale)
    return np.asarray(median - reduced_median * scale), np.asarray(scale)


def least_scale_of_maxima(block_frames: int) -> float:
    """Scale of the maxima of z over blocks of normal frames, at least; see `LEAST_SCALE`."""
    return LEAST_SCALE / math.sqrt(1 + math.log(block_frames))


def fit_tail(scores: npt.ArrayLike) -> Tail:
    """Fit the tail of single frames' scores; up to four frames, and up to one in eleven, may not be normal.

    Args:
        scores: Of normal frames, shape (frames,), finite.
    """
    location, scale = fit_gumbel(score_to_z(scores), LEAST_SCALE)
    return Tail(location=float(location), scale=float(scale))


def cell_statistics(errors: FloatArray, by_place: Sequence[bool]) -> tuple[FloatArray, FloatArray]:
    """Mean and spread of each cell's error over normal frames.

    A cell is expected to vary at least as much as the cells around it do: one that happened to hold still would
    otherwise call the first thing that crosses it an anomaly. Where there are several streams, the spreads of
    all but the first are scaled so that their highest cells of normal frames stand as far out as the first's.

    Args:
        errors: float32 of shape (frames, streams, rows, columns).
        by_place: Of each stream, whether its cells differ by place; otherwise all share one mean and one spread.

    Returns:
        Two float32 arrays of shape (streams, rows, columns), the second above 0.
    """
    by_stream = [
        _statistics_by_place(errors[:, stream]) if apart else _statistics_of_all(errors[:, stream])
        for stream, apart in enumerate(by_place)
    ]
    mean, spread = (np.stack(values) for values in zip(*by_stream, strict=True))
    return align_streams(errors, mean, spread)


def align_streams(errors: FloatArray, mean: Float64Array, spread: Float64Array) -> tuple[FloatArray, FloatArray]:
    """Scale the spreads of all streams but the first until their highest cells stand as far out as the first's.

    Args:
        errors: Of normal frames, float32 of shape (frames, streams, rows, columns).
        mean: Of each stream and cell, shape (streams, rows, columns).
        spread: Above 0, same shape.

    Returns:
        Mean and scaled spread, float32 of the same shape.
    """
    highest = np.quantile(((errors - mean) / spread).max((2, 3)), _HIGH_SHARE, axis=0)  # (streams,)
    raised = np.maximum(highest, 1.0)
    scaled = spread * (raised / raised[0])[:, None, None]
    return mean.astype(np.float32), scaled.astype(np.float32)


def _statistics_of_all(errors: FloatArray) -> tuple[Float64Array, Float64Array]:
    mean, spread = errors.mean(dtype=np.float64), max(errors.std(dtype=np.float64), _LEAST_SPREAD)
    return np.full(errors.shape[1:], mean), np.full(errors.shape[1:], spread)


def _statistics_by_place(errors: FloatArray) -> tuple[Float64Array, Float64Array]:
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
    return mean, np.maximum(spread, max(_SPREAD_FLOOR_SHARE * float(mean.mean()), _LEAST_SPREAD))


def severity(p_value: float, allowed_p_value: float) -> Severity:
    """Grade a score by how many times rarer it is than what the budget allows, on a logarithmic scale.

    Args:
        p_value: Of the score, 0..1.
        allowed_p_value: Of what just passes, 0..1.
    """
    rarity = math.log10(max(p_value, 1e-300)) / math.log10(min(max(allowed_p_value, 1e-300), 0.1))
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
