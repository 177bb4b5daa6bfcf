"""Score curves of any length in the memory of a picture: of each stretch the lowest and the highest score."""

from array import array
from collections.abc import Iterator
from typing import Final

import numpy as np

from contract.scoring import Float64Array
from worker.recorded_scores import ScoredFrame
from worker.rules import WouldBeEvent

BINS: Final = 1024
"""Stretches of a curve: at least half of them are in use, which is as many as a picture has columns of pixels."""

_HALF: Final = BINS // 2
_SILENCE_MS: Final = 60_000


class ScoreCurve:
    """One camera's scores over time, and when there would have been events.

    It begins with stretches of a millisecond; whenever a frame lies outside of them all, pairs become one.
    """

    def __init__(self) -> None:
        self._begins_ms: int | None = None
        self._width_ms = 1
        self._lows = array("f", [np.inf] * BINS)
        self._highs = array("f", [-np.inf] * BINS)
        self._marks: dict[int, bytearray] = {}

    def add(self, at_ms: int, score: float) -> None:
        """Take a frame's score; times may come in any order."""
        place = self._place(at_ms)
        self._lows[place] = min(score, self._lows[place])
        self._highs[place] = max(score, self._highs[place])

    def mark(self, candidate: int, first_ms: int, last_ms: int) -> None:
        """Take an event of one of the settings tried, from and to frames whose scores were taken."""
        first, last = self._place(first_ms), self._place(last_ms)
        marks = self._marks.setdefault(candidate, bytearray(BINS))
        marks[first : last + 1] = b"\1" * max(0, last + 1 - first)

    def points(self) -> tuple[Float64Array, Float64Array]:
        """Times, ms, and scores to draw: lowest and highest of each stretch, not a number where there is a silence."""
        used = [place for place in range(BINS) if self._highs[place] > -np.inf]
        times: list[float] = []
        scores: list[float] = []
        before = used[0] if used else 0
        for place in used:
            if (place - before) * self._width_ms > max(_SILENCE_MS, 2 * self._width_ms):
                times.append(self._time(place))
                scores.append(np.nan)
            times += [self._time(place)] * 2
            scores += [self._lows[place], self._highs[place]]
            before = place
        return np.array(times), np.array(scores)

    def spans(self, candidate: int) -> Iterator[tuple[float, float]]:
        """Beginnings and lengths, ms, of what was marked, each at least one stretch long."""
        marks = bytes(self._marks.get(candidate, b""))
        end = 0
        while (begin := marks.find(b"\1", end)) >= 0:
            end = marks.find(b"\0", begin)
            end = end if end >= 0 else BINS
            yield self._time(begin), float((end - begin) * self._width_ms)

    def _time(self, place: int) -> float:
        return float((self._begins_ms or 0) + place * self._width_ms)

    def _place(self, at_ms: int) -> int:
        if self._begins_ms is None:
            self._begins_ms = at_ms
        while at_ms >= self._begins_ms + BINS * self._width_ms:
            self._widen(_HALF, 0)
        while at_ms < self._begins_ms:
            self._begins_ms -= BINS * self._width_ms
            self._widen(0, _HALF)
        return (at_ms - self._begins_ms) // self._width_ms

    def _widen(self, free_after: int, free_before: int) -> None:
        """Make one of each pair of stretches, and room for as many after or before them."""
        self._width_ms *= 2
        none = np.full(BINS, np.inf, np.float32)
        lows = np.frombuffer(self._lows, np.float32).reshape(-1, 2).min(1)
        highs = np.frombuffer(self._highs, np.float32).reshape(-1, 2).max(1)
        self._lows = array("f", np.concatenate([none[:free_before], lows, none[:free_after]]).tobytes())
        self._highs = array("f", np.concatenate([-none[:free_before], highs, -none[:free_after]]).tobytes())
        for candidate, marks in self._marks.items():
            pairs = np.frombuffer(marks, np.uint8).reshape(-1, 2).max(1).tobytes()
            self._marks[candidate] = bytearray(bytes(free_before) + pairs + bytes(free_after))


class Curves:
    """A curve for each camera and partition, by camera, topic and partition.

    Attributes:
        held: The curves.
    """

    def __init__(self) -> None:
        self.held: dict[tuple[str, str, int], ScoreCurve] = {}

    def add(self, frame: ScoredFrame, score: float) -> None:
        """Take a frame that was replayed, and its score."""
        key = frame.camera_id, frame.topic, frame.partition
        curve = self.held.get(key)
        if curve is None:
            curve = self.held[key] = ScoreCurve()
        curve.add(frame.captured_at_ms, score)

    def mark(self, event: WouldBeEvent) -> None:
        """Take an event of a camera whose frames were taken."""
        curve = self.held[event.camera_id, event.topic, event.partition]
        curve.mark(event.candidate, event.first.captured_at_ms, event.last.captured_at_ms)
