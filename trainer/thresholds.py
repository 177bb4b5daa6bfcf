"""Threshold, release threshold and minimum duration of events, from normal scores and a budget of false events.

An event starts after m consecutive frames at or above the threshold, that is, where the lowest of the last m scores is
there. The footage is cut into blocks so long that one hardly knows of the next. Their maxima of this trailing minimum
tend to a Gumbel distribution F, and -ln F(threshold) is the number of events in a block (Coles, An Introduction to
Statistical Modeling of Extreme Values, 2001, sections 3.1 and 5.3); the threshold is where that meets the budget.
Blocks drawn with replacement say how far chance moves it (block bootstrap: Künsch, Annals of Statistics 17, 1989;
percentile interval: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from contract.errors import TrainingError
from contract.event import EventRule
from contract.scoring import (
    SECONDS_A_DAY,
    Calibration,
    Float64Array,
    Tail,
    event_threshold,
    fit_gumbel,
    fit_tail,
    least_scale_of_maxima,
    score_to_z,
    z_to_score,
)
from trainer.budget import MIN_BLOCKS, frames_needed

REPLICATES: Final = 1000

_BLOCKS, _MAX_BLOCKS = 60, 2000
_EVENTS_A_BLOCK = 0.05
_LONGEST_SECONDS = 1.0
_SHARE_SHOWN = 0.5
_CORRELATION_LEFT = 0.05
_MATERIAL_FALL = 0.1
_CONFIDENCE = 0.95
# The middle 95% of the replicates of two quantiles held the true rate of simulated footage in 88 of 100 trials, these
# in 95: docs/decisions, 21.
_MIDDLE_SHARE = 0.98


@dataclass(frozen=True)
class _Level:
    min_frames: int
    threshold: float
    tail: Tail
    events_a_block: tuple[float, float]


def calibrate(
    stretches: Sequence[npt.ArrayLike],
    *,
    frames_per_second: float,
    false_events_per_day: float,
    min_frames: int | None = None,
    gap_frames: int = EventRule().gap_frames,
    seed: int = 0,
) -> Calibration:
    """Set thresholds and minimum duration from the scores of held-out normal frames and a budget of false events.

    Of the durations of 1, 2, 4, ... frames up to a second, the shortest is taken that no longer one betters: whose
    threshold no longer one lowers by over a tenth in 95% of the replicates. Up to four blocks, and up to one in eleven,
    may have something in view without moving the threshold. What the footage cannot show is extrapolated; ``supported``
    says whether that was so.

    Args:
        stretches: Scores of consecutive frames, shape (frames,) each; nothing is joined across two of them.
        frames_per_second: Rate of that footage, frames/s.
        false_events_per_day: Events a camera and day that may be false.
        min_frames: Duration to take in place of one chosen; where the stretches are too short to show it, the
            threshold is that of the longest they show, which is higher.
        gap_frames: Frames below the release threshold that an event outlasts.
        seed: Of the resampling.

    Raises:
        TrainingError: There are fewer than two scores, or one is not finite.
    """
    z = _checked(stretches)
    together = z_to_score(np.concatenate(z))
    tail = fit_tail(together)
    release = tail.release_score(gap_frames)
    durations = _durations([len(stretch) for stretch in z], frames_per_second, min_frames)
    memory = math.ceil(max(2 * correlation_frames(z), durations[-1] + gap_frames + 1))
    frames_an_event = frames_per_second * SECONDS_A_DAY / false_events_per_day
    maxima, length = _block_maxima(z, durations, memory, frames_an_event)
    level = _choose(maxima, durations, length, frames_an_event, release, seed)
    # Two events start at least so far apart.
    most = length / (level.min_frames + gap_frames + 1)
    low, high = (min(events, most) * frames_per_second * SECONDS_A_DAY / length for events in level.events_a_block)
    needed = frames_needed(frames_per_second, false_events_per_day, memory)
    return Calibration(
        threshold=level.threshold,
        release_threshold=min(release, level.threshold),
        min_frames=level.min_frames,
        tail=tail,
        event_tail=level.tail,
        block_seconds=length / frames_per_second,
        blocks=maxima.shape[1],
        replicates=REPLICATES,
        seed=seed,
        frames=len(together),
        frames_per_second=frames_per_second,
        false_events_per_day=false_events_per_day,
        false_events_per_day_low=low,
        false_events_per_day_high=high,
        false_positive_rate=tail.p_value(level.threshold),
        supported=len(together) >= needed,
        frames_needed=needed,
        highest_normal_score=float(together.max()),
        frames_over_threshold=int(np.sum(together >= level.threshold)),
    )


def _checked(stretches: Sequence[npt.ArrayLike]) -> list[Float64Array]:
    """Turn scores into z; empty stretches are left out."""
    scores = [np.asarray(stretch, np.float64) for stretch in stretches if np.size(stretch)]
    usable = all(stretch.ndim == 1 and np.isfinite(stretch).all() for stretch in scores)
    if not usable or sum(map(len, scores)) < 2:
        raise TrainingError(
            "calibration needs two or more held-out normal frames with finite scores; give more footage"
        )
    return [score_to_z(stretch) for stretch in scores]


def trailing_minimum(values: Float64Array, frames: int) -> Float64Array:
    """Lowest of the last so many values, shape (n - frames + 1,): empty where there are fewer."""
    width = 1
    while width < frames:
        step = min(width, frames - width)
        values = np.minimum(values[step:], values[:-step])
        width += step
    return values


def correlation_frames(z: Sequence[Float64Array]) -> float:
    """Integrated autocorrelation time, frames: 1 where each frame is independent of the last.

    The autocorrelation is summed until it first falls below a twentieth. The highest values, those that the tail's fit
    leaves aside, are brought down to the rest beforehand.

    Args:
        z: Unbroken stretches.
    """
    together = np.concatenate(z)
    lags = min(max(map(len, z)), max(len(together) // MIN_BLOCKS, 1)) - 1
    middle, most = np.quantile(together, [0.5, _CONFIDENCE])
    sums, pairs = np.zeros(lags + 1), np.zeros(lags + 1)
    for stretch in z:
        size = 2 ** math.ceil(math.log2(2 * len(stretch)))
        spectrum = np.fft.rfft(np.minimum(stretch, most) - middle, size)
        some = min(lags + 1, len(stretch))
        sums[:some] += np.fft.irfft(np.abs(spectrum) ** 2, size)[:some]
        pairs[:some] += len(stretch) - np.arange(some)
    if sums[0] <= 0:
        return 1.0
    correlation = sums / np.maximum(pairs, 1) * (pairs[0] / sums[0])
    below = np.flatnonzero(correlation < _CORRELATION_LEFT)
    return float(1 + 2 * correlation[1 : below[0] if len(below) else None].sum())


def _durations(lengths: Sequence[int], frames_per_second: float, asked: int | None) -> list[int]:
    """Durations to try, in frames, rising: those whose whole windows end at half of the frames or more."""
    longest = asked or max(1, math.floor(_LONGEST_SECONDS * frames_per_second))
    tried = [1 << power for power in range(longest.bit_length())]
    if asked is not None:
        tried.append(asked)
    shown = [
        frames
        for frames in tried
        if frames == 1 or sum(max(n - frames + 1, 0) for n in lengths) >= max(2, _SHARE_SHOWN * sum(lengths))
    ]
    return shown if asked is None else [max(shown)]


def _block_maxima(
    z: Sequence[Float64Array], durations: Sequence[int], memory: int, frames_an_event: float
) -> tuple[Float64Array, int]:
    """Highest trailing minimum of each block, for each duration.

    A block is a sixtieth of the footage, or as much shorter as it then still holds a twentieth of an event of the
    budget: the further out the maxima lie, the less the tail's shape matters. It is as long as the memory, but shorter
    where there would not be twenty blocks.

    Args:
        z: Unbroken stretches; what is left at the end of each is not used.
        durations: In frames, rising.
        memory: Frames after which the footage has forgotten, and the event rule too.
        frames_an_event: Frames in which the budget allows one event.

    Returns:
        Maxima, shape (durations, blocks), and the frames in a block.
    """
    longest = durations[-1]
    windows = [len(stretch) - longest + 1 for stretch in z if len(stretch) >= longest]
    total = sum(windows)
    length = max(min(total // _BLOCKS, math.ceil(_EVENTS_A_BLOCK * frames_an_event)), memory, total // _MAX_BLOCKS)
    length = max(1, min(length, total // MIN_BLOCKS))
    while length > 1 and sum(count // length for count in windows) < MIN_BLOCKS:
        length -= 1
    rows = []
    for frames in durations:
        levels = [trailing_minimum(stretch, frames)[longest - frames :] for stretch in z if len(stretch) >= longest]
        cut = [level[: len(level) // length * length].reshape(-1, length).max(axis=1) for level in levels]
        rows.append(np.concatenate(cut))
    return np.stack(rows), length


def _choose(
    maxima: Float64Array, durations: Sequence[int], length: int, frames_an_event: float, release: float, seed: int
) -> _Level:
    """Fit the threshold of each duration to the blocks as they are and as they are drawn, and choose one."""
    drawn = np.random.default_rng(seed).integers(0, maxima.shape[1], (REPLICATES, maxima.shape[1]))
    least_scale = least_scale_of_maxima(length)

    def thresholds(of: Float64Array) -> Float64Array:
        location, scale = fit_gumbel(of, least_scale)
        return event_threshold(location, scale, frames_an_event / length, release)

    chosen = _shortest_enough(np.stack([thresholds(row[drawn]) for row in maxima], axis=-1))
    location, scale = fit_gumbel(maxima[chosen], least_scale)
    threshold = float(thresholds(maxima[chosen]))
    events_a_block = _interval(maxima[chosen][drawn], float(score_to_z(threshold)))
    return _Level(durations[chosen], threshold, Tail(location=float(location), scale=float(scale)), events_a_block)


def _shortest_enough(thresholds: Float64Array) -> int:
    """First duration whose threshold no longer one lowers materially.

    Args:
        thresholds: By replicate and duration, rising, shape (replicates, durations).
    """
    last = int(thresholds.shape[1]) - 1
    for one in range(last):
        fall = thresholds[:, one, None] - thresholds[:, one + 1 :]
        material = fall > _MATERIAL_FALL * np.abs(thresholds[:, one, None])
        if not (material.mean(axis=0) >= _CONFIDENCE).any():
            return one
    return last


def _interval(replicates: Float64Array, z: float) -> tuple[float, float]:
    """95% interval of the number of events in a block at a level.

    Args:
        replicates: Block maxima, resampled, shape (replicates, blocks).
        z: The level.
    """
    # Unlike the threshold's, this scale is free to be as small as what was seen.
    location, scale = fit_gumbel(replicates, 1e-6)
    events = np.exp(np.clip(-(z - location) / scale, -700, 500))
    low, high = np.quantile(events, [(1 - _MIDDLE_SHARE) / 2, (1 + _MIDDLE_SHARE) / 2])
    return float(low), float(high)
