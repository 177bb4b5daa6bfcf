"""Probe clips: held-out normal footage into which something is put that a model should find, known to the frame.

One second of the footage as it is, then a stretch of a few seconds in which

fast         a copy of something that moves here crosses at 2 to 4 times its pace
recoloured   the same at its own pace, dark where it was light
foreign      a piece of other footage moves at the pace of what moves here
abandoned    a piece of other footage lies there
missing      a piece of the background is gone, painted over from around it
sped up      the footage runs at three times its rate
reversed     the footage runs backwards
covered      the lens is covered

Where the footage holds nothing that moves, the first three cannot be made; nor a missing piece of a bare background.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from contract.clip import Clip, SourceFrame

Picture = npt.NDArray[np.uint8]
"""uint8 of shape (height, width, 3), BGR."""

KINDS: Final = ("fast", "recoloured", "foreign", "abandoned", "missing", "sped up", "reversed", "covered")

_LEAD_SECONDS: Final = 1.0
_PROBE_SECONDS: Final = 2.5
_JPEG_QUALITY: Final = 95
_DIFFERENCE_LEVELS: Final = 22.0
_THING_SHARE: Final = (0.001, 0.05)
_LEAST_SPEED_SHARE: Final = 0.001
_ATTEMPTS: Final = 60
_PLACES_TRIED: Final = 12
_LEAST_CHANGE_LEVELS: Final = 8.0
_BACKGROUND_FRAMES: Final = 60


class Box(NamedTuple):
    """Where something was put, pixels."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Pictures(Clip):
    """A clip held in memory.

    Attributes:
        name: Of the clip.
        pictures: BGR, all of one size.
        frames_per_second: Their rate.
    """

    name: str
    pictures: Sequence[Picture]
    frames_per_second: float

    def frames(self) -> Iterator[SourceFrame]:
        """Encode the pictures as JPEG, one by one."""
        for index, picture in enumerate(self.pictures):
            data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
            yield SourceFrame(index, round(index / self.frames_per_second * 1000), data)


@dataclass(frozen=True)
class Probe:
    """A clip with something in it.

    Attributes:
        kind: What was done.
        clip: The footage.
        first: Index of the first frame in which something is wrong; all after it are.
        boxes: Where, from that frame on; None where it is the whole picture.
    """

    kind: str
    clip: Pictures
    first: int
    boxes: Sequence[Box] | None


@dataclass(frozen=True)
class _Thing:
    """Something that moves: a cut-out with its opacity, where it is, and its pace in pixels a frame."""

    patch: npt.NDArray[np.float32]
    opacity: npt.NDArray[np.float32]
    corner: npt.NDArray[np.float64]
    pace: npt.NDArray[np.float64]


class ProbeMaker:
    """Makes probes of one camera's held-out footage.

    Args:
        footage: Held-out normal pictures of one unbroken stretch, at least 5 seconds.
        others: Pictures of other footage, from which foreign pieces are cut.
        seed: Of every choice.
    """

    def __init__(self, footage: Pictures, others: Sequence[Picture], seed: int) -> None:
        self._footage = footage
        self._others = others
        self._random = np.random.default_rng(seed)
        pictures = footage.pictures
        self._lead = round(_LEAD_SECONDS * footage.frames_per_second)
        self._length = round(_PROBE_SECONDS * footage.frames_per_second)
        some = [pictures[index] for index in np.linspace(0, len(pictures) - 1, _BACKGROUND_FRAMES).astype(int)]
        self._background = np.median(np.stack(some), axis=0).astype(np.uint8)
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        makers = (
            self._fast, self._recoloured, self._foreign, self._abandoned, self._missing, self._sped_up, self._reversed,
            self._covered,
        )  # fmt: skip
        self._makers = dict(zip(KINDS, makers, strict=True))

    def make(self, kind: str) -> Probe | None:
        """Make a probe at a place and time taken by chance.

        Args:
            kind: One of `KINDS`.

        Returns:
            The probe; None where the footage holds nothing to make it of.
        """
        last = len(self._footage.pictures) - self._lead - self._length
        return self._makers[kind](int(self._random.integers(0, last + 1)))

    def _fast(self, start: int) -> Probe | None:
        thing = self._find_thing()
        factor = self._random.uniform(2, 4)
        return None if thing is None else self._moving("fast", start, replace(thing, pace=thing.pace * factor))

    def _recoloured(self, start: int) -> Probe | None:
        thing = self._find_thing()
        if thing is None:
            return None
        return self._moving("recoloured", start, replace(thing, patch=255 - thing.patch))

    def _foreign(self, start: int) -> Probe | None:
        thing = self._find_thing()
        if thing is None:
            return None
        rows, columns = thing.opacity.shape
        patch, opacity = self._piece(rows, columns, thing.corner)
        return self._moving("foreign", start, replace(thing, patch=patch, opacity=opacity))

    def _abandoned(self, start: int) -> Probe:
        corner, rows, columns = self._place()
        patch, opacity = self._piece(rows, columns, corner)
        return self._moving("abandoned", start, _Thing(patch, opacity, corner, np.zeros(2)))

    def _missing(self, start: int) -> Probe | None:
        """Paint over that of several places where it changes most."""
        tried = [(place, self._painted_over(*place)) for place in (self._place() for _ in range(_PLACES_TRIED))]
        (corner, rows, columns), change = max(tried, key=lambda each: float(np.abs(each[1]).mean()))
        if np.abs(change).mean() < _LEAST_CHANGE_LEVELS:
            return None
        left, top = (int(side) for side in corner)

        def without(picture: Picture) -> Picture:
            changed = picture.copy()
            region = changed[top : top + rows, left : left + columns]
            region[...] = np.clip(region + change, 0, 255).astype(np.uint8)
            return changed

        box = Box(float(left), float(top), float(left + columns), float(top + rows))
        return self._changed("missing", start, without, [box] * self._length)

    def _painted_over(self, corner: npt.NDArray[np.float64], rows: int, columns: int) -> npt.NDArray[np.float32]:
        """Change of a place's levels that makes it look like what is around it, shape (rows, columns, 3)."""
        hole = np.zeros(self._background.shape[:2], np.uint8)
        _cut(hole, corner, rows, columns)[...] = 255
        painted = np.asarray(cv2.inpaint(self._background, hole, 3, cv2.INPAINT_TELEA), np.float32)
        return np.asarray(_cut(painted - self._background, corner, rows, columns), np.float32)

    def _sped_up(self, start: int) -> Probe | None:
        pictures = self._footage.pictures
        start = min(start, len(pictures) - self._lead - 3 * self._length)
        if start < 0:
            return None
        first = start + self._lead
        return self._probe("sped up", start, pictures[first : first + 3 * self._length : 3], None)

    def _reversed(self, start: int) -> Probe:
        return self._probe("reversed", start, self._after_lead(start)[::-1], None)

    def _covered(self, start: int) -> Probe:
        def dark(picture: Picture) -> Picture:
            noise = self._random.normal(0, 2, picture.shape)
            return np.asarray(np.clip(0.05 * picture + 8 + noise, 0, 255), np.uint8)

        return self._changed("covered", start, dark, None)

    def _moving(self, kind: str, start: int, thing: _Thing) -> Probe:
        """Lay a thing over the footage, entering where it was found and staying within the picture."""
        height, width = self._background.shape[:2]
        rows, columns = thing.opacity.shape
        room = np.array([width - columns, height - rows], np.float64)
        ends = thing.corner + thing.pace * (self._length - 1)
        corner = thing.corner - np.clip(ends - room, 0, None) + np.clip(-ends, 0, None)
        corners = [corner + thing.pace * step for step in range(self._length)]
        pictures = [
            _laid_over(picture, thing.patch, thing.opacity, at)
            for picture, at in zip(self._after_lead(start), corners, strict=True)
        ]
        boxes = [Box(at[0], at[1], at[0] + columns, at[1] + rows) for at in corners]
        return self._probe(kind, start, pictures, boxes)

    def _changed(
        self, kind: str, start: int, change: Callable[[Picture], Picture], boxes: Sequence[Box] | None
    ) -> Probe:
        return self._probe(kind, start, [change(picture) for picture in self._after_lead(start)], boxes)

    def _after_lead(self, start: int) -> Sequence[Picture]:
        """Pictures that a probe changes."""
        first = start + self._lead
        return self._footage.pictures[first : first + self._length]

    def _probe(self, kind: str, start: int, pictures: Sequence[Picture], boxes: Sequence[Box] | None) -> Probe:
        lead = self._footage.pictures[start : start + self._lead]
        clip = Pictures(f"{kind} at {start}", [*lead, *pictures], self._footage.frames_per_second)
        return Probe(kind, clip, self._lead, boxes)

    def _find_thing(self) -> _Thing | None:
        """Cut out something that stands out from the background and moves."""
        pictures = self._footage.pictures
        height, width = self._background.shape[:2]
        for _ in range(_ATTEMPTS):
            index = int(self._random.integers(1, len(pictures) - 1))
            difference = cv2.absdiff(pictures[index], self._background).max(2)
            stands_out = (cv2.GaussianBlur(difference, (0, 0), 1.5) > _DIFFERENCE_LEVELS).astype(np.uint8)
            closed = cv2.morphologyEx(stands_out, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
            count, labels, stats, _ = cv2.connectedComponentsWithStats(closed)
            low, high = (share * height * width for share in _THING_SHARE)
            fitting = [one for one in range(1, count) if low < stats[one, cv2.CC_STAT_AREA] < high]
            if not fitting:
                continue
            one = int(self._random.choice(fitting))
            before, after = (cv2.cvtColor(pictures[index + step], cv2.COLOR_BGR2GRAY) for step in (-1, 1))
            flow = np.asarray(self._flow.calc(before, after, np.zeros((height, width, 2), np.float32))) / 2
            pace = np.median(flow[labels == one], axis=0).astype(np.float64)
            if np.hypot(*pace) < _LEAST_SPEED_SHARE * width:
                continue
            left, top, columns, rows = (int(value) for value in stats[one, :4])
            opacity = cv2.GaussianBlur((labels == one).astype(np.float32), (0, 0), 1.2)
            corner = np.array([left, top], np.float64)
            patch = _cut(pictures[index], corner, rows, columns).astype(np.float32)
            return _Thing(patch, _cut(opacity, corner, rows, columns), corner, pace)
        return None

    def _place(self) -> tuple[npt.NDArray[np.float64], int, int]:
        """Corner, rows and columns of a place about as large as things are, clear of the picture's edges."""
        height, width = self._background.shape[:2]
        rows = int(height * self._random.uniform(0.08, 0.2))
        columns = int(rows * self._random.uniform(0.6, 1.6))
        corner = [self._random.integers(4, width - columns - 4), self._random.integers(4, height - rows - 4)]
        return np.array(corner, np.float64), rows, columns

    def _piece(
        self, rows: int, columns: int, corner: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Cut a piece of other footage, an ellipse or a rectangle, lighter or darker than where it is put."""
        other = self._others[int(self._random.integers(len(self._others)))]
        times = min(self._random.uniform(1.5, 4), (other.shape[0] - 1) / rows, (other.shape[1] - 1) / columns)
        tall, wide = max(1, int(rows * times)), max(1, int(columns * times))
        top, left = (
            int(self._random.integers(0, side - cut + 1)) for side, cut in zip(other.shape, (tall, wide), strict=False)
        )
        piece = cv2.resize(other[top : top + tall, left : left + wide], (columns, rows), interpolation=cv2.INTER_AREA)
        there = _cut(self._background, corner, rows, columns).astype(np.float32).mean((0, 1))
        shade = self._random.choice([-1, 1]) * self._random.uniform(25, 70)
        patch = (piece.astype(np.float32) - piece.mean((0, 1))) * self._random.uniform(1, 1.5) + there + shade
        opacity = np.zeros((rows, columns), np.float32)
        if self._random.random() < 0.5:
            cv2.ellipse(opacity, (columns // 2, rows // 2), (columns // 2 - 1, rows // 2 - 1), 0, 0, 360, 1, -1)
        else:
            opacity[1:-1, 1:-1] = 1
        return np.clip(patch, 0, 255).astype(np.float32), np.asarray(cv2.GaussianBlur(opacity, (0, 0), 0.8), np.float32)


def _cut(values: npt.NDArray[Any], corner: npt.NDArray[np.float64], rows: int, columns: int) -> npt.NDArray[Any]:
    left, top = corner.astype(int)
    return values[top : top + rows, left : left + columns]


def _laid_over(
    picture: Picture, patch: npt.NDArray[np.float32], opacity: npt.NDArray[np.float32], at: npt.NDArray[np.float64]
) -> Picture:
    height, width = picture.shape[:2]
    move = np.array([[1, 0, at[0]], [0, 1, at[1]]], np.float32)
    laid = cv2.warpAffine(patch, move, (width, height))
    share = cv2.warpAffine(opacity, move, (width, height))[..., None]
    return np.asarray(np.clip(picture * (1 - share) + laid * share, 0, 255), np.uint8)
