"""Follows one camera's scores by blocks and says when its world changed for good; see `contract.drift`."""

from array import array
from typing import Final, Literal, NamedTuple

import numpy as np

from contract.drift import DIRECTIONS, MEASURES, NEARLY_ALL, Direction, DriftTest, Measure, block_values

Mark = tuple[int, int]
"""Offset and capture time, ms since 1970, of a frame."""

FEWEST_FRAMES: Final = 3
"""Frames of a block that count, at the least, or the block does not."""

_MOST_FRAMES: Final = 2**16

_HALF: Final = 0.5


class Drift(NamedTuple):
    """How a window differs.

    Attributes:
        measure: What moved most: the floor or the middle of blocks.
        direction: Where to.
        spreads: How far its median lies from that of normal blocks, in their spreads.
        share: Of its blocks, those beyond the limit, 0..1.
        p_value: Probability that so many of a normal window's blocks lie beyond one limit, 0..1.
        first: First frame of its first block beyond the limit.
    """

    measure: Measure
    direction: Direction
    spreads: float
    share: float
    p_value: float
    first: Mark


class Look(NamedTuple):
    """What a window showed when a block ended.

    Attributes:
        transition: ``started`` or ``ended``; None where neither.
        is_open: Whether the world is told of as changed.
        drift: How the window differs from normal footage on the side that it differs most.
        last: Last frame of the block that ended.
    """

    transition: Literal["started", "ended"] | None
    is_open: bool
    drift: Drift
    last: Mark

    @property
    def lasts(self) -> bool:
        """Whether nearly all of the window lies beyond a limit."""
        return self.drift.share >= NEARLY_ALL


class DriftTracker:
    """Follows one camera's scores by blocks, which begin at whole multiples of their length since 1970.

    Nothing is said before a whole window of blocks has come. The block in which following begins is left out, since
    frames of it may have come before. A drift ends when less than half of the window lies beyond any limit.

    Args:
        test: The limits.
        is_open: Whether the world was told of as changed before.
    """

    def __init__(self, test: DriftTest, *, is_open: bool = False) -> None:
        self._test = test
        self._is_open = is_open
        # A ring of blocks: a camera holds few numbers and no object for each.
        self._values = np.zeros((test.window_blocks, len(MEASURES)))
        self._firsts = np.zeros((test.window_blocks, 2), np.int64)
        self._blocks = 0
        self._number: int | None = None
        self._is_whole = False
        self._scores = array("d")
        self._first: Mark = (0, 0)
        self._last: Mark = (0, 0)

    def update(self, mark: Mark, score: float | None) -> Look | None:
        """Take the next frame.

        Args:
            mark: Where it stands.
            score: Its score; None where that does not count.

        Returns:
            What the window shows, where a block ended before this frame and the window is whole.
        """
        number = mark[1] // self._test.block_ms
        look = None
        if number != self._number:
            look = self._end_block()
            self._is_whole = self._number is not None
            self._number, self._first = number, mark
            del self._scores[:]
        self._last = mark
        # Of a camera whose clock stands still a block never ends.
        if score is not None and number % self._test.every == 0 and len(self._scores) < _MOST_FRAMES:
            self._scores.append(score)
        return look

    def _end_block(self) -> Look | None:
        test = self._test
        if not self._is_whole or len(self._scores) < FEWEST_FRAMES:
            return None
        place = self._blocks % test.window_blocks
        self._values[place] = block_values(self._scores)
        self._firsts[place] = self._first
        self._blocks += 1
        return self._look() if self._blocks >= test.window_blocks else None

    def _look(self) -> Look:
        drift, was_open = self._drift(), self._is_open
        if drift.share >= NEARLY_ALL:
            self._is_open = True
        elif drift.share < _HALF:
            self._is_open = False
        transition: Literal["started", "ended"] | None = None
        if self._is_open != was_open:
            transition = "started" if self._is_open else "ended"
        return Look(transition, self._is_open, drift, self._last)

    def _drift(self) -> Drift:
        test = self._test
        in_order = (np.arange(test.window_blocks) + self._blocks) % test.window_blocks
        values, firsts = self._values[in_order], self._firsts[in_order]
        beyond = np.stack([values > test.high, values < test.low])  # (directions, blocks, measures)
        counts = beyond.sum(1)
        risen = (np.median(values, axis=0) - test.usual) / test.spread
        apart = np.stack([risen, -risen])
        # Of two that lie beyond as often, the one that lies further out.
        side, measure = max(np.ndindex(*counts.shape), key=lambda one: (int(counts[one]), float(apart[one])))
        offset, at_ms = firsts[int(np.argmax(beyond[side, :, measure]))].tolist()
        count = int(counts[side, measure])
        return Drift(
            MEASURES[measure],
            DIRECTIONS[side],
            float(apart[side, measure]),
            count / test.window_blocks,
            test.p_value(count),
            (offset, at_ms),
        )
