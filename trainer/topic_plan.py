"""Which stretches of a time range are read: spread evenly over the time of day, and within it over the days.

Pure: no clock, no chance, no client. What is read next follows from the range and from what was given before.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from contract.errors import ConfigError
from contract.event_spans import EventSpan, bounds

DAY_MS: Final = 24 * 3_600_000
BINS: Final = 24
"""Equal parts of the day; which zone its hours are of does not matter."""

_EMPTY_AS_ONE: Final = 4
_MAX_STRETCHES: Final = 4_000_000
_GOLDEN: Final = (5**0.5 - 1) / 2
_PLASTIC: Final = 0.5698402909980532

Interval = tuple[int, int]
"""First moment, and the moment after the last, ms since 1970."""


def join_intervals(intervals: Sequence[Interval]) -> list[Interval]:
    """Sort intervals and join those that touch."""
    joined: list[Interval] = []
    for first, end in sorted(intervals):
        if joined and first <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((first, end))
    return joined


def seconds_within(intervals: Sequence[Interval], from_ms: int, to_ms: int) -> float:
    """Seconds of a range that joined intervals cover."""
    return sum(max(0, min(end, to_ms) - max(first, from_ms)) for first, end in intervals) / 1000


def short_digest(what: Any) -> str:  # noqa: ANN401 - what JSON holds
    """Name what JSON can hold by sixteen hexadecimal digits."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """What decides, beside the settings, which frames are taken.

    Attributes:
        from_ms: Beginning of the range, record timestamp, ms since 1970.
        to_ms: End of the range, which is left out.
        spans: The camera's events in it with their verdicts, in the order of their starts.
    """

    from_ms: int
    to_ms: int
    spans: tuple[EventSpan, ...]

    @classmethod
    def of_facts(cls, facts: dict[str, Any]) -> "Plan":
        """The plan that gave these facts."""
        return cls(facts["from_ms"], facts["to_ms"], tuple(EventSpan(**span) for span in facts["spans"]))

    def facts(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return asdict(self)

    def left_out(self, margin_seconds: float) -> list[Interval]:
        """What is left out of the range, joined: events with a margin, but not those called false alarms."""
        margin_ms = round(margin_seconds * 1000)
        return join_intervals([
            (first - margin_ms, last + margin_ms + 1)
            for span, (first, last) in zip(self.spans, bounds(self.spans, self.to_ms), strict=True)
            if span.verdict != "false_alarm"
        ])  # fmt: skip


class Grid:
    """The stretches of a range, numbered since 1970, so that two ranges cut the same time at the same places.

    Args:
        from_ms: Beginning of the range, ms since 1970.
        to_ms: End of the range, which is left out.
        stretch_ms: Length of a stretch.

    Raises:
        ConfigError: There are too many.
    """

    def __init__(self, from_ms: int, to_ms: int, stretch_ms: int) -> None:
        self._from_ms = from_ms
        self._to_ms = to_ms
        self._stretch_ms = stretch_ms
        count = -(-to_ms // stretch_ms) - from_ms // stretch_ms
        if count > _MAX_STRETCHES:
            raise ConfigError(
                f"SOURCE: the range has {(to_ms - from_ms) / DAY_MS:,.0f} days, {count:,} stretches of "
                f"{stretch_ms / 1000:g} s; give from= and to=, or a longer topic.stretch_seconds"
            )

    def interval(self, number: int) -> Interval:
        """The time of a stretch; the first and the last are cut at the range's ends."""
        start = number * self._stretch_ms
        return max(start, self._from_ms), min(start + self._stretch_ms, self._to_ms)

    def numbers(self, left_out: Sequence[Interval]) -> npt.NDArray[np.int64]:
        """Numbers of the stretches, int64 of shape (n,), rising; those wholly within joined intervals are not there."""
        numbers = np.arange(self._from_ms // self._stretch_ms, -(-self._to_ms // self._stretch_ms), dtype=np.int64)
        if not left_out:
            return numbers
        firsts, ends = np.array(left_out, np.int64).T
        starts = np.maximum(numbers * self._stretch_ms, self._from_ms)
        stops = np.minimum((numbers + 1) * self._stretch_ms, self._to_ms)
        before = np.searchsorted(firsts, starts, "right") - 1
        within = (before >= 0) & (stops <= ends[np.maximum(before, 0)])
        return np.asarray(numbers[~within], np.int64)

    def bins_of(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Parts of the day in which stretches begin."""
        return numbers * self._stretch_ms % DAY_MS * BINS // DAY_MS


class Draw:
    """Says which stretch comes next, part of the day by part of the day.

    It is the next of the part that has given least so far. Each that gave nothing since the part's last that did, as
    when the camera was off or an event went on, counts as a quarter of one: so a part with gaps still gets its share,
    and one without footage is not searched to its end. What it cannot give the others give, until nothing is left.

    Within a part stretches are taken at the fractions of multiples of the golden ratio, any first few of which lie
    evenly over the days (the three-gap theorem). Each part begins elsewhere: those of the first turn lie evenly too.

    Args:
        grid: The stretches.
        left_out: What is not wanted of the range, joined.
    """

    def __init__(self, grid: Grid, left_out: Sequence[Interval]) -> None:
        numbers = grid.numbers(left_out)
        bins = grid.bins_of(numbers)
        self._grid = grid
        self._order = np.argsort(np.arange(BINS) * _GOLDEN % 1, kind="stable").tolist()
        self._stretches = [_spread(numbers[bins == part], self._order.index(part) * _PLASTIC) for part in range(BINS)]
        self._asked = [0] * BINS
        self._frames = [0] * BINS
        self._empty = [0] * BINS
        self._most = 1

    def next(self) -> int | None:
        """Number of the stretch to read; None where nothing is left.

        Say what it gave before asking again, unless there was nothing to read: then it does not count.
        """
        parts = [part for part in self._order if self._asked[part] < len(self._stretches[part])]
        if not parts:
            return None
        part = min(parts, key=lambda part: self._frames[part] / self._most + self._empty[part] / _EMPTY_AS_ONE)
        self._asked[part] += 1
        return int(self._stretches[part][self._asked[part] - 1])

    def gave(self, number: int, frames: int) -> None:
        """Count what a stretch gave."""
        part = int(self._grid.bins_of(np.array([number]))[0])
        self._frames[part] += frames
        self._empty[part] = 0 if frames else self._empty[part] + 1
        self._most = max(self._most, frames)


def _spread(numbers: npt.NDArray[np.int64], begin: float) -> npt.NDArray[np.int64]:
    """Order numbers so that any first few lie evenly among all, the first one at a share of them."""
    places = (begin + np.arange(len(numbers)) * _GOLDEN) % 1
    return numbers[np.argsort(np.argsort(places, kind="stable"), kind="stable")]


def around_the_day(start_ms: int) -> float:
    """Sort key by time of day, so that whoever takes each fifth of the sorted has some of every part of the day.

    Each is shifted by up to an hour, as if by chance: else each fifth of five days' would be the same day's.
    """
    return start_ms % DAY_MS + start_ms // 1000 * _GOLDEN % 1 * DAY_MS / BINS
