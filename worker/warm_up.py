"""A camera's own thresholds, from its first frames, where a bundle that was not fitted on it scores them.

As in training, an event's level is the lowest of the last so many scores; its maxima over blocks of frames are fitted
with a Gumbel distribution, and the threshold is where that meets the budget of false events. What is kept of the frames
is small enough to travel with a committed offset: the maxima, and a histogram of the scores.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from contract.scoring import (
    SECONDS_A_DAY,
    event_threshold,
    fit_gumbel,
    fit_tail,
    least_scale_of_maxima,
    score_to_z,
)
from worker.profile import Profile, Terms

BLOCKS: Final = 40
_BINS_A_UNIT: Final = 20
_MOST_BIN: Final = 40 * _BINS_A_UNIT
_MOST_FRAMES_PER_SECOND: Final = 1000.0
_LONGEST_GAP_MS: Final = 60_000


class Seen(NamedTuple):
    """What is kept while it lasts.

    Attributes:
        frames: That were seen.
        first_ms: Capture time of the first, ms since 1970; later by what gaps lasted beyond a minute.
        last_ms: Of the last.
        recent: Last scores, as many as an event needs, without the one that is to come.
        highest: Highest level of the block under way; None before there is one.
        maxima: Those of the blocks that are over.
        histogram: Scores, in twentieths, and how many were there.
    """

    frames: int = 0
    first_ms: int = 0
    last_ms: int = 0
    recent: tuple[float, ...] = ()
    highest: float | None = None
    maxima: tuple[float, ...] = ()
    histogram: tuple[tuple[int, int], ...] = ()


class Thresholds(NamedTuple):
    """A camera's own."""

    threshold: float
    release: float


@dataclass(slots=True)
class WarmUp:
    """Follows one camera's first frames.

    Attributes:
        terms: Of the profile that it is for; under another one it begins anew.
        seen: What is kept so far; empty once it is over.
        thresholds: What came of it; None before it is over.
    """

    terms: Terms
    seen: Seen = field(default_factory=Seen)
    thresholds: Thresholds | None = None
    _histogram: Counter[int] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        """Go on from what was kept."""
        self._histogram.update(dict(self.seen.histogram))

    def profile(self, given: Profile) -> Profile:
        """What is in force for the camera: the profile, with its own thresholds where they are known."""
        return given if self.thresholds is None else given.with_thresholds(*self.thresholds)

    def add(self, score: float, captured_at_ms: int, given: Profile) -> bool:
        """Take the next frame that tells something of the scene; not to be called once it is over.

        Args:
            score: Of the frame.
            captured_at_ms: Its capture time, ms since 1970.
            given: The profile that it is for.

        Returns:
            Whether that was the last, and the thresholds are known.
        """
        seen, needed = self.seen, given.rule.min_frames
        frames = seen.frames + 1
        recent = (*seen.recent, score)[-needed:]
        levels = [one for one in (seen.highest, min(recent) if len(recent) == needed else None) if one is not None]
        maxima = seen.maxima
        if levels and frames % _block_frames(given) == 0:
            levels, maxima = [], (*maxima, max(levels))
        self._histogram[max(-_MOST_BIN, min(round(score * _BINS_A_UNIT), _MOST_BIN))] += 1
        first_ms = _first_ms(seen, captured_at_ms)
        kept = recent[-(needed - 1) :] if needed > 1 else ()
        self.seen = Seen(frames, first_ms, captured_at_ms, kept, max(levels) if levels else None, maxima)
        if frames >= given.warm_up_frames:
            # What others wrote down, or another number of frames, may have left too few blocks: then once more.
            if len(self.seen.maxima) >= BLOCKS // 2:
                self.thresholds = self._measured(given)
            self.seen = Seen()
            self._histogram.clear()
        return self.thresholds is not None

    def kept(self) -> Seen:
        """What another one needs to go on from here."""
        return self.seen._replace(histogram=tuple(sorted(self._histogram.items())))

    def _measured(self, given: Profile) -> Thresholds:
        bins, counts = (np.array(part) for part in zip(*self._histogram.items(), strict=True))
        release = fit_tail(np.repeat(bins / _BINS_A_UNIT, counts)).release_score(given.rule.gap_frames)
        block = _block_frames(given)
        location, scale = fit_gumbel(score_to_z(self.seen.maxima), least_scale_of_maxima(block))
        blocks_a_day = self._frames_per_second(given) * SECONDS_A_DAY / block
        threshold = float(event_threshold(location, scale, blocks_a_day / given.false_events_per_day, release))
        return Thresholds(threshold, min(release, threshold))

    def _frames_per_second(self, given: Profile) -> float:
        seconds = (self.seen.last_ms - self.seen.first_ms) / 1000
        rate = (self.seen.frames - 1) / seconds if seconds > 0 else 0.0
        # Clocks that stand still or jump tell no rate.
        believable = 0 < rate <= _MOST_FRAMES_PER_SECOND
        return rate if believable else given.detector.bundle.manifest.calibration.frames_per_second


def _first_ms(seen: Seen, captured_at_ms: int) -> int:
    if not seen.frames:
        return captured_at_ms
    # A clock that was set, or hours without a frame, would tell a rate that lets a threshold be far too low.
    gap_ms = captured_at_ms - seen.last_ms
    beyond_ms = gap_ms - min(max(gap_ms, -_LONGEST_GAP_MS), _LONGEST_GAP_MS)
    return max(0, min(seen.first_ms + beyond_ms, captured_at_ms))


def _block_frames(given: Profile) -> int:
    return max(1, given.warm_up_frames // BLOCKS)
