"""Normal footage, decoded once and split in time into training, validation and calibration frames."""

import hashlib
import logging
import tempfile
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from contract.clip import Clip, require_end
from contract.errors import ConfigError, FootageError, FrameError
from contract.frame import FrameLimits, Preprocessing, decode_frame, read_frame_header
from contract.motion import MotionChannels
from contract.scene import colour_of
from contract.source import FOLDER_FRAMES_PER_SECOND

MIN_FRAMES = 24
"""Fewer frames than this cannot be split into parts that mean anything."""

_MIN_SEGMENT = 10
_MIN_WHOLE_STRETCHES = 8
_MAX_SHARE_OFF = 0.4
_MAX_GUARD_SHARE = 0.05
_LONG_GAP_STEPS = 10
_MAX_BAD_SHARE = 0.01
_FINGERPRINT_FRAMES = 256
_COLOUR_EVERY = 32
_log = logging.getLogger(__name__)

_Spans = tuple[list[tuple[int, int]], list[tuple[int, int]], list[tuple[int, int]]]
"""First and last place, the latter left out, of what is in training, validation and calibration parts."""


@dataclass(frozen=True)
class Segment:
    """An unbroken stretch of one clip, as places in the array of frames.

    Attributes:
        clip: Name of the clip.
        start: Place of its first frame.
        stop: Place after its last frame.
    """

    clip: str
    start: int
    stop: int


@dataclass(frozen=True)
class Part:
    """Frames for one purpose.

    Attributes:
        frames: uint8 of shape (all frames, height, width, input_channels), shared by the parts.
        places: Places of this part's frames in that array, int64 of shape (n,).
        earliest: For each, the earliest place its clip may reach back to, int64 of shape (n,).
    """

    frames: npt.NDArray[np.uint8]
    places: npt.NDArray[np.int64]
    earliest: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    def breaks(self) -> npt.NDArray[np.int64]:
        """Indices at which another unbroken stretch begins, the first left out."""
        return np.flatnonzero(np.diff(self.earliest)) + 1

    def clips(self, which: npt.ArrayLike, clip_frames: int) -> npt.NDArray[np.uint8]:
        """Gather clips that end at the chosen frames; the part's first frame stands in for those before it.

        Args:
            which: Indices into this part, shape (batch,).
            clip_frames: Frames in a clip.

        Returns:
            uint8 of shape (batch, clip_frames, height, width, input_channels).
        """
        return np.asarray(self.frames[self.clip_places(which, clip_frames)])

    def clip_places(self, which: npt.ArrayLike, clip_frames: int) -> npt.NDArray[np.int64]:
        """Name the places of the frames that `clips` gathers, shape (batch, clip_frames)."""
        chosen = np.asarray(which, np.int64)
        back = np.arange(clip_frames - 1, -1, -1)
        return np.asarray(np.maximum(self.places[chosen][:, None] - back, self.earliest[chosen][:, None]), np.int64)


@dataclass(frozen=True)
class Footage:
    """All frames of a source at the model's input size.

    Attributes:
        frames: uint8 of shape (frames, height, width, input_channels), backed by a file where it is large.
        segments: Unbroken stretches, in order.
        frames_per_second: Mean rate by the capture times, long pauses left out.
        skipped: Clips and frames that could not be read, with the reason.
        least_colour: That frames show at the least, see `contract.scene.colour_of`.
    """

    frames: npt.NDArray[np.uint8]
    segments: Sequence[Segment]
    frames_per_second: float
    skipped: Sequence[str]
    least_colour: float = 0.0

    def fingerprint(self) -> str:
        """Digest that tells other footage from this, from frames taken evenly and from where the stretches lie."""
        places = np.unique(np.linspace(0, len(self.frames) - 1, _FINGERPRINT_FRAMES).round().astype(np.int64))
        digest = hashlib.sha256(repr([(s.clip, s.start, s.stop) for s in self.segments]).encode())
        digest.update(np.ascontiguousarray(self.frames[places]).tobytes())
        return digest.hexdigest()

    def split(self, validation_share: float, calibration_share: float, guard_seconds: float) -> tuple[Part, Part, Part]:
        """Split into training, validation and calibration parts.

        Where there are eight stretches or more, whole ones are held out, evenly over the footage: what a stretch shows
        at its end was there before, and redrawn better than what comes another day. Otherwise every stretch is split in
        time: training, guard, validation, guard, calibration. Stretches of fewer than ten frames train only.

        Args:
            validation_share: Of the frames, above 0; together with the next at most 0.8.
            calibration_share: Of the frames, above 0.
            guard_seconds: Footage left out between parts, seconds; at most a twentieth of the stretch each time.

        Returns:
            Training, validation and calibration parts; no frame and no clip is in two.

        Raises:
            FootageError: The footage is too short to give each part frames.
        """
        spans = self._split_by_stretch(validation_share, calibration_share) or self._split_in_time(
            validation_share, calibration_share, guard_seconds
        )
        parts = tuple(self._part(span) for span in spans)
        if min(len(part) for part in parts) < 2:
            raise FootageError(
                f"{len(self.frames)} frames are too few to train, validate and calibrate on; "
                f"give one unbroken stretch of {MIN_FRAMES} frames or more"
            )
        return parts[0], parts[1], parts[2]

    def _split_by_stretch(self, validation_share: float, calibration_share: float) -> _Spans | None:
        """Give each stretch to the part that is furthest behind its share; None where that leaves one far from it."""
        spans: _Spans = ([], [], [])
        shares = np.array([1 - validation_share - calibration_share, validation_share, calibration_share])
        long = [segment for segment in self.segments if segment.stop - segment.start >= _MIN_SEGMENT]
        if len(long) < _MIN_WHOLE_STRETCHES:
            return None
        owed = np.zeros(3)
        for segment in self.segments:
            length = segment.stop - segment.start
            owed += shares * length
            part = int(np.argmax(owed)) if length >= _MIN_SEGMENT else 0
            owed[part] -= length
            spans[part].append((segment.start, segment.stop))
        far = np.abs(owed) > _MAX_SHARE_OFF * shares * len(self.frames)
        return None if far.any() else spans

    def _split_in_time(self, validation_share: float, calibration_share: float, guard_seconds: float) -> _Spans:
        spans: _Spans = ([], [], [])
        for segment in self.segments:
            length = segment.stop - segment.start
            if length < _MIN_SEGMENT:
                spans[0].append((segment.start, segment.stop))
                continue
            guard = min(round(guard_seconds * self.frames_per_second), round(_MAX_GUARD_SHARE * length))
            calibration = segment.stop - max(1, round(calibration_share * length))
            validation = calibration - guard - max(1, round(validation_share * length))
            spans[0].append((segment.start, max(validation - guard, segment.start + 1)))
            spans[1].append((validation, calibration - guard))
            spans[2].append((calibration, segment.stop))
        return spans

    def _part(self, spans: Sequence[tuple[int, int]]) -> Part:
        places = [np.arange(start, stop) for start, stop in spans]
        earliest = [np.full(stop - start, start) for start, stop in spans]
        empty = np.empty(0, np.int64)
        return Part(self.frames, np.concatenate([empty, *places]), np.concatenate([empty, *earliest]))


class FootageReader:
    """Decodes the clips of a source into one array, which lives in an unnamed file within a folder.

    Args:
        preprocessing: The model's input.
        limits: What a frame may declare.
        folder: Where the file is made; it vanishes with the process.
        on_frame: Called with the number of frames so far.
    """

    def __init__(
        self, preprocessing: Preprocessing, limits: FrameLimits, folder: Path, on_frame: Callable[[int], None]
    ) -> None:
        self._preprocessing = preprocessing
        self._limits = limits
        self._folder = folder
        self._on_frame = on_frame
        self._count = 0
        self._segments: list[Segment] = []
        self._captured_at_ms = array("q")
        self._skipped: list[str] = []
        self._colours: list[float] = []

    def read(self, clips: Sequence[Clip]) -> Footage:
        """Decode every clip, in order, and leave out with a warning what cannot be read.

        That is the rest of a camera's recording that broke off, what is bad in one clip among several, and in a single
        clip frames that the worker would dead-letter, as long as they are at most one in a hundred.

        Raises:
            ConfigError: A clip is live and has no end, or frames of one clip differ in size.
            FootageError: No clip can be read, too many frames cannot, there are too few, or all are identical.
        """
        require_end(clips)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            for clip in clips:
                try:
                    self._read_clip(clip, file)
                except FootageError as error:
                    if len(clips) == 1 and not clip.live:
                        raise
                    self._leave_out(f"{error}; what could be read of {clip.name} is kept")
            file.flush()
            if self._count < MIN_FRAMES:
                reason = f" ({self._skipped[0]})" if self._skipped else ""
                raise FootageError(f"the source gives {self._count} frames, at least {MIN_FRAMES} are needed{reason}")
            p = self._preprocessing
            frames = np.memmap(file, np.uint8, "r", shape=(self._count, p.height, p.width, p.input_channels))
        if all(np.array_equal(frames[0], frame) for frame in frames[1:]):
            raise FootageError(f"all {self._count} frames are identical; is the camera frozen?")
        segments, rate = _without_long_gaps(self._segments, np.array(self._captured_at_ms))
        return Footage(frames, segments, rate, self._skipped, min(self._colours, default=0.0))

    def _read_clip(self, clip: Clip, file: IO[bytes]) -> None:
        before: int | None = None
        size: tuple[int, int] | None = None
        motion = MotionChannels(self._preprocessing)
        good = bad = 0
        first_bad: FrameError | None = None
        for frame in clip.frames():
            try:
                header = read_frame_header(frame.data, self._limits)
                pixels = decode_frame(frame.data, self._preprocessing, self._limits)
            except FrameError as error:
                bad += 1
                first_bad = first_bad or FrameError(error.reason, f"frame {frame.index}: {error}")
                continue
            if size is not None and size != (header.height, header.width):
                raise MixedSizesError(
                    f"{clip.name} frame {frame.index} is {header.width}x{header.height}, those before it are "
                    f"{size[1]}x{size[0]}; give each size as a clip of its own"
                )
            size = header.height, header.width
            if good % _COLOUR_EVERY == 0:
                self._colours.append(colour_of(frame.data))
            good += 1
            starts = before is None or frame.index != before + 1
            if starts:
                motion = MotionChannels(self._preprocessing)
            file.write(motion.push(pixels).tobytes())
            self._extend(clip.name, frame.captured_at_ms, starts=starts)
            before = frame.index
            self._on_frame(self._count)
        if first_bad is not None:
            said = f"{clip.name}: {bad} of {good + bad} frames cannot be decoded, the first is {first_bad}"
            if bad > _MAX_BAD_SHARE * (good + bad):
                raise FootageError(said) from first_bad
            self._leave_out(said)

    def _extend(self, clip: str, captured_at_ms: int, *, starts: bool) -> None:
        self._count += 1
        self._captured_at_ms.append(captured_at_ms)
        if starts:
            self._segments.append(Segment(clip, self._count - 1, self._count))
        else:
            self._segments[-1] = Segment(clip, self._segments[-1].start, self._count)

    def _leave_out(self, reason: str) -> None:
        _log.warning("left out: %s", reason)
        self._skipped.append(reason)


def _without_long_gaps(
    segments: Sequence[Segment], captured_at_ms: npt.NDArray[np.int64]
) -> tuple[list[Segment], float]:
    """Break segments where the camera paused, and measure the rate at which it gives frames otherwise."""
    steps = [np.diff(captured_at_ms[segment.start : segment.stop]) for segment in segments]
    rising = np.concatenate([step[step > 0] for step in steps])
    if not len(rising):
        return list(segments), FOLDER_FRAMES_PER_SECOND
    long_ms = _LONG_GAP_STEPS * float(np.median(rising))
    broken: list[Segment] = []
    for segment, step in zip(segments, steps, strict=True):
        edges = [segment.start, *(segment.start + 1 + np.flatnonzero(step > long_ms)).tolist(), segment.stop]
        broken += [Segment(segment.clip, start, stop) for start, stop in pairwise(edges)]
    # The mean, since capture times in whole milliseconds round 1/30 s up and down.
    return broken, round(1000 / float(np.mean(rising[rising <= long_ms])), 3)


class MixedSizesError(ConfigError):
    """Frames of one clip differ in size."""
