"""Parts of a batch: clips that one call of one detector scores."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from contract.scoring import FloatArray
from contract.window import ComingClip
from worker.profile import BatchScorer

CLIPS_AT_ONCE: Final = 2
"""Clips of one run on a CPU: what the layers of more of them make does not fit its caches."""


class Part(NamedTuple):
    """Clips that are scored by one call.

    Attributes:
        detector: That scores them.
        places: Of each among the clips of its batch.
        clips: The clips.
    """

    detector: BatchScorer
    places: Sequence[int]
    clips: Sequence[ComingClip]


class ScoredPart(NamedTuple):
    """What came of it.

    Attributes:
        detector: That scored them.
        places: Of each among the clips of its batch.
        scores: float32 of shape (clips,).
        maps: float32 of shape (clips, rows, columns).
    """

    detector: BatchScorer
    places: Sequence[int]
    scores: FloatArray
    maps: FloatArray

    def by_place(self) -> dict[int, tuple[float, FloatArray]]:
        """Score and map of each clip."""
        return dict(zip(self.places, zip(self.scores.tolist(), self.maps, strict=True), strict=True))


class FailedPart(NamedTuple):
    """What came of it where that may fail.

    Attributes:
        detector: That was to score them.
        cause: What it raised.
    """

    detector: BatchScorer
    cause: Exception


def parts_of(asked: Sequence[tuple[BatchScorer, int, ComingClip]]) -> list[Part]:
    """Divide clips among calls.

    Args:
        asked: Of each clip its detector, its place in the batch, and the clip.
    """
    by_detector: dict[int, list[tuple[BatchScorer, int, ComingClip]]] = {}
    for one in asked:
        by_detector.setdefault(id(one[0]), []).append(one)
    parts = []
    for ones in by_detector.values():
        detector = ones[0][0]
        size = len(ones) if detector.scores_whole_batches else CLIPS_AT_ONCE
        for start in range(0, len(ones), size):
            some = ones[start : start + size]
            parts.append(Part(detector, [place for _, place, _ in some], [clip for _, _, clip in some]))
    return parts


def score_part(part: Part) -> ScoredPart:
    """Score a part.

    Raises:
        BundleError: The model gives scores that are not finite.
        FramewatchError: The model failed while running.
    """
    return ScoredPart(part.detector, part.places, *score_clips(part.detector, part.clips))


def try_part(part: Part) -> ScoredPart | FailedPart:
    """Score a part of which nothing depends that it can be."""
    try:
        return score_part(part)
    except Exception as error:  # noqa: BLE001 - whatever it is, others' scores come all the same
        return FailedPart(part.detector, error)


def score_clips(detector: BatchScorer, clips: Sequence[ComingClip]) -> tuple[FloatArray, FloatArray]:
    """Score clips of one detector by one call.

    Returns:
        Scores, float32 of shape (clips,), and maps, float32 of shape (clips, rows, columns).
    """
    first = clips[0].frames
    batch = np.empty((len(clips), len(first), *first[0].shape), np.uint8)
    for held, clip in zip(batch, clips, strict=True):
        for place, frame in zip(held, clip.frames, strict=True):
            place[...] = frame
    return detector.score(batch)
