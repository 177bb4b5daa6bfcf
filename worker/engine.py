"""The per-frame core: frames in, scores and alerts out. It does no I/O; ``run`` and ``score`` share it."""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from contract.alert import (
    Alert,
    AnomalyData,
    AnyAlert,
    BundleReference,
    CameraAlert,
    CameraData,
    FrameReference,
    Picture,
    StretchReference,
    make_alert,
    make_camera_alert,
    make_event_id,
)
from contract.errors import FrameError
from contract.event import Event, EventRule, EventTracker, Following, Transition
from contract.frame import FLOW_FRAMES, FrameLimits, decode_frame, read_frame_header
from contract.scene import Scene
from contract.scoring import FloatArray, Severity, anomalous_area, anomalous_boxes
from contract.window import ClipWindow, ComingClip, frames_before
from worker.camera_health import CameraHealth, Told
from worker.cores import Crew, Started
from worker.health_rule import HealthRule
from worker.pictures import heat_map, snapshot
from worker.profile import BatchScorer, Profile, ProfileOf, Terms, make_profile
from worker.state import CameraState, PartitionState, Place, UnwellCamera, WarmUpState, pack, unpack
from worker.warm_up import WarmUp
from worker.zones import map_within, score_within

_log = logging.getLogger(__name__)

_DEFAULT_PICTURE_BYTES: Final = 192 * 1024
_DEFAULT_CAMERAS: Final = 4096
CLIPS_AT_ONCE: Final = 2
"""Clips of one run on a CPU: what the layers of more of them make does not fit its caches."""

_READ_AT_ONCE: Final = 64
_MOST_FRAMES_BEFORE: Final = 64 + FLOW_FRAMES
NORMAL_SCORE: Final = -100.0
"""What a frame that does not count gives to the rule for events: below every threshold."""

READ_BACK_FRAMES: Final = 4096
"""Frames of a partition that are read back at the most to fill its cameras' clips; a camera whose last frames lie
before them begins its clip anew. As many are read at the most for the picture of one pending event."""

_READ_BACK_FOR_PEAKS: Final = 8 * READ_BACK_FRAMES
"""The same for all pending events of a partition together."""


@dataclass(frozen=True, slots=True)
class IncomingFrame:
    """One encoded frame and where it stands.

    Attributes:
        camera_id: Who sent it.
        topic: Topic, or the clip's name.
        partition: Partition.
        offset: Offset, or the frame's index in the clip.
        captured_at_ms: Capture time, ms since 1970 (since the clip's start for files).
        data: JPEG or PNG; None where the record had no value.
    """

    camera_id: str
    topic: str
    partition: int
    offset: int
    captured_at_ms: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one frame: a score, or the reason why there is none.

    Attributes:
        frame: The frame.
        anomaly_score: None where the frame was rejected.
        threshold: Score from which it is anomalous; None where the frame was rejected.
        is_anomalous: Whether the score reached the threshold and counts.
        counts: Whether it counts for events; not where its camera was unwell or warms up.
        error: Why the frame was rejected.
        alerts: What this frame told about events.
        trailing_bytes: Bytes after the picture's end marker; they were ignored.
        anomaly_map: A copy of the whole map, float32 of shape (rows, columns); None where maps are not kept.
    """

    frame: IncomingFrame
    anomaly_score: float | None = None
    threshold: float | None = None
    is_anomalous: bool = False
    counts: bool = True
    error: FrameError | None = None
    alerts: tuple[AnyAlert, ...] = ()
    trailing_bytes: int = 0
    anomaly_map: FloatArray | None = field(default=None, compare=False)


@dataclass(slots=True)
class _Peak:
    """The frame of an event's highest score.

    Attributes:
        data: As it came; empty where it was large.
        small: Picture of a large one.
        anomaly_map: Its map.
    """

    data: bytes
    small: Picture | None
    anomaly_map: FloatArray

    def snapshot(self, max_bytes: int) -> Picture | None:
        """A small picture of the frame; None where there is none."""
        return snapshot(self.data, max_bytes) if self.data else self.small


class _Reached(NamedTuple):
    """A scored frame of a pending event.

    Attributes:
        place: Where it stands.
        from_offset: Offset of the earliest frame that its score depends on.
    """

    place: Place
    from_offset: int


@dataclass(slots=True)
class _Camera:
    """What is kept of one camera between frames: a clip, a few numbers, and the peak frame of an open event."""

    camera_id: str
    # Of the frames that are prepared.
    scorer: BatchScorer
    window: ClipWindow
    health: CameraHealth
    # Of the frames that are followed: what was given for them, what of it is in force, and under what is told.
    given: Profile | None = None
    profile: Profile | None = None
    terms: Terms | None = None
    tracker: EventTracker | None = None
    # Of an event that goes on from what another engine kept.
    resumed: CameraState | None = None
    # Its last frame, and when that was followed, monotonic seconds.
    last: Place | None = None
    heard_at: float = 0.0
    warm_up: WarmUp | None = None
    # Number of the batch that held the camera's last frame.
    batch: int = 0
    scored: int = 0
    # Offsets of the last frames, as many as the next one's score depends on.
    recent: deque[int] = field(default_factory=deque)
    # Frames of the pending event, by their positions among those scored.
    reached: dict[int, _Reached] = field(default_factory=dict)
    peak: _Peak | None = None


class _Picture(NamedTuple):
    """A decoded frame.

    Attributes:
        pixels: uint8 of shape (height, width, channels).
        trailing_bytes: Bytes after the picture's end marker.
        profile: In force for the frame.
    """

    pixels: npt.NDArray[np.uint8]
    trailing_bytes: int
    profile: Profile


class _Decoded(NamedTuple):
    """A frame on its way to its score.

    Attributes:
        camera: Whose it is.
        clip: That it ends.
        trailing_bytes: Bytes after the picture's end marker.
        profile: In force for it.
    """

    camera: _Camera
    clip: ComingClip
    trailing_bytes: int
    profile: Profile


class _Part(NamedTuple):
    """Clips that are scored by one call.

    Attributes:
        detector: That scores them.
        places: Of each among the clips of its batch.
        clips: The clips.
    """

    detector: BatchScorer
    places: Sequence[int]
    clips: Sequence[ComingClip]


Scoring = Started[_Part, tuple[Sequence[int], FloatArray, FloatArray]]


@dataclass(frozen=True, slots=True)
class Work:
    """A batch of frames that goes through the engine's steps.

    Attributes:
        number: Of the batch.
        frames: As they came.
        decoded: What each became.
        scoring: Scores and maps of parts of those that could be decoded, begun and not yet asked for.
        scores: Score and map of each that could be decoded, once they are scored.
    """

    number: int
    frames: Sequence[IncomingFrame]
    decoded: Sequence[_Decoded | FrameError]
    scoring: list[Scoring] = field(default_factory=list)
    scores: list[tuple[float, FloatArray]] = field(default_factory=list)


class Engine:
    """Scores frames of many cameras in batches and follows each camera's events.

    A batch is prepared (decoded, its motion measured), scored and followed. Each step may run on a thread of its own,
    so that one batch is prepared while another is scored and a third is followed, as long as every step takes the
    batches in their order.

    Args:
        detector: Scores clips of frames, of all cameras unless `use` says otherwise.
        threshold: In place of the bundle's.
        event_rule: In place of the bundle's.
        limits: What a frame may declare.
        picture_max_bytes: Size up to which pictures travel in alerts.
        health_rule: When a camera counts as unwell.
        max_cameras: Cameras kept at once. Beyond it the one idle longest without an event pending is forgotten, or else
            the one idle longest whose event has not started yet; where there is none, the new camera's frames are
            rejected with reason ``too_many_cameras``.
        crew: Decodes, measures motion and scores; the caller's thread where not given.
        clock: Monotonic seconds.
        keep_maps: Whether each outcome holds its frame's anomaly map.
        on_stage: Told the name of each stage and how long it took, seconds: ``decode``, ``motion``, ``infer`` and
            ``events``.
    """

    def __init__(
        self,
        detector: BatchScorer,
        *,
        threshold: float | None = None,
        event_rule: EventRule | None = None,
        limits: FrameLimits | None = None,
        picture_max_bytes: int = _DEFAULT_PICTURE_BYTES,
        health_rule: HealthRule | None = None,
        max_cameras: int = _DEFAULT_CAMERAS,
        crew: Crew | None = None,
        clock: Callable[[], float] = time.monotonic,
        keep_maps: bool = False,
        on_stage: Callable[[str, float], None] | None = None,
    ) -> None:
        only = make_profile(detector, threshold=threshold, event_rule=event_rule)
        self._profile_of: ProfileOf = lambda _camera_id, _captured_at_ms: only
        self._limits = limits or FrameLimits()
        self._picture_max_bytes = picture_max_bytes
        self._health_rule = health_rule or HealthRule()
        self._scenes: dict[str, Scene | None] = {}
        self._max_cameras = max_cameras
        self._crew = crew or Crew()
        self._clock = clock
        self._keep_maps = keep_maps
        self._on_stage = on_stage or (lambda _stage, _seconds: None)
        # In the order of their last frames, the longest idle first.
        self._cameras: dict[tuple[str, int, str], _Camera] = {}
        # The same by partition.
        self._at: dict[tuple[str, int], dict[str, _Camera]] = {}
        self._cameras_lock = threading.Lock()
        self._prepared = self._followed = 0

    def use(self, profile_of: ProfileOf) -> None:
        """Take what is in force from here on, from the next batch that is prepared; to be called as `prepare` is.

        An event whose terms do not hold for the next frame of its camera ends with the frame before.

        Args:
            profile_of: Says what is in force for a frame.
        """
        self._profile_of = profile_of

    def process(self, frames: Sequence[IncomingFrame]) -> list[Outcome]:
        """Score frames and say what they tell, in the order given; a camera's frames must come in theirs.

        A frame that cannot be decoded is an outcome with an error, and the camera goes on without it.

        Raises:
            BundleError: The model gives scores that are not finite.
            FramewatchError: The model failed while running; no camera's state has changed for good: stop.
        """
        return self.follow(self.score(self.prepare(frames)))

    def prepare(self, frames: Sequence[IncomingFrame]) -> Work:
        """Decode frames, measure what moves in them, find their cameras, and begin to score them."""
        self._prepared += 1
        with self._timed("decode"):
            pictures = self._crew.map(self._decode, frames, urgent=True)
            decoded = [self._admit(frame, picture) for frame, picture in zip(frames, pictures, strict=True)]
        with self._timed("motion"):
            admitted = [one for one in decoded if not isinstance(one, FrameError)]
            self._crew.map(lambda one: one.clip.measure(), admitted, urgent=True)
        work = Work(self._prepared, frames, decoded)
        # Begun here, so that the crew has something to do whatever the next step's thread waits for.
        work.scoring.append(self._begin_scoring(work))
        return work

    def score(self, work: Work) -> Work:
        """Wait for the scores of what was prepared; scores it anew where that failed, when called again.

        Raises:
            BundleError: The model gives scores that are not finite.
            FramewatchError: The model failed while running.
        """
        with self._timed("infer"):
            scored = (work.scoring.pop() if work.scoring else self._begin_scoring(work)).results()
            by_place = {
                place: one
                for places, scores, maps in scored
                for place, one in zip(places, zip(scores.tolist(), maps, strict=True), strict=True)
            }
            work.scores[:] = [by_place[place] for place in range(len(by_place))]
        return work

    def _begin_scoring(self, work: Work) -> Scoring:
        by_detector: dict[int, list[tuple[int, _Decoded]]] = {}
        for place, one in enumerate(one for one in work.decoded if not isinstance(one, FrameError)):
            by_detector.setdefault(id(one.profile.detector), []).append((place, one))
        parts = []
        for ones in by_detector.values():
            detector = ones[0][1].profile.detector
            size = len(ones) if detector.scores_whole_batches else CLIPS_AT_ONCE
            for start in range(0, len(ones), size):
                some = ones[start : start + size]
                parts.append(_Part(detector, [place for place, _ in some], [one.clip for _, one in some]))
        return self._crew.start(_score_part, parts)

    def follow(self, work: Work, is_wanted: Callable[[IncomingFrame], bool] = lambda _frame: True) -> list[Outcome]:
        """Say what scores tell.

        Args:
            work: That was scored.
            is_wanted: Whether a frame still counts; others are left out, and change no camera's state.

        Returns:
            An outcome a frame that counts, in the order in which they came.
        """
        with self._timed("events"):
            scores = iter(work.scores)
            outcomes = []
            for frame, one in zip(work.frames, work.decoded, strict=True):
                if isinstance(one, FrameError):
                    outcome = Outcome(frame, error=one) if is_wanted(frame) else None
                else:
                    scored = next(scores)
                    outcome = self._outcome(one, frame, *scored) if is_wanted(frame) else None
                if outcome is not None:
                    outcomes.append(outcome)
        self._followed = work.number
        return outcomes

    def find_silent(self, topic: str, partition: int, listening_since: float) -> list[CameraAlert]:
        """Say which cameras of a partition sent nothing for `HealthRule.silent_seconds`; to be called as `follow` is.

        Args:
            topic: Topic.
            partition: Partition.
            listening_since: Since when whatever comes to it is followed at once, monotonic seconds.
        """
        alerts: list[CameraAlert] = []
        patience = self._health_rule.silent_seconds
        if not patience:
            return alerts
        with self._cameras_lock:
            here = tuple(self._at.get((topic, partition), {}).values())
        now = self._clock()
        for camera in here:
            last = camera.last
            if last is None or now - max(camera.heard_at, listening_since) < patience:
                continue
            told = camera.health.fall_silent(last)
            if told is not None:
                # Where it was only read back, nothing was followed yet.
                camera.terms = camera.terms or self._profile_of(camera.camera_id, last.captured_at_ms).terms
                at_ms = last.captured_at_ms + round(patience * 1000)
                where = topic, partition, camera.camera_id
                alerts.append(self._camera_alert(where, told, at_ms, camera.terms.bundle))
        return alerts

    def close_events(self) -> list[AnyAlert]:
        """End every open event because the footage ends; for files, never live."""
        alerts: list[AnyAlert] = []
        for (topic, partition, camera_id), camera in self._cameras.items():
            where = topic, partition, camera_id
            alerts += [*self._close_health(where, camera), *self._close_event(where, camera)]
        self._cameras.clear()
        self._at.clear()
        return alerts

    def state(
        self, topic: str, partition: int, next_offset: int, max_bytes: int, ahead: frozenset[int] = frozenset()
    ) -> tuple[str, int]:
        """Write down what is kept of a partition's cameras after the last batch that was followed.

        Args:
            topic: Topic.
            partition: Partition.
            next_offset: All frames before it were followed.
            max_bytes: Size that the text may have.
            ahead: Offsets from ``next_offset`` on of frames that were followed too.

        Returns:
            Text for `restore`, and for how many cameras with an event pending it has no room.
        """
        horizon = next_offset - READ_BACK_FRAMES
        with self._cameras_lock:
            here = tuple(self._at.get((topic, partition), {}).values())
        reaching = (camera.recent[0] for camera in here if camera.recent)
        read_from = min((offset for offset in reaching if horizon <= offset < next_offset), default=next_offset)
        pending = tuple(state for camera in here if (state := _state_of(camera)) is not None)
        health = (camera.health.state(camera.camera_id, camera.scored, camera.terms) for camera in here if camera.terms)
        unwell = tuple(one for one in health if one is not None)
        warm_ups = tuple(
            WarmUpState(camera.camera_id, one.terms, one.kept(), one.thresholds)
            for camera in here
            if (one := camera.warm_up) is not None
        )
        kept = PartitionState(read_from, pending, unwell, warm_ups, ahead)
        return pack(kept, next_offset, max_bytes)

    def restore(
        self, topic: str, partition: int, text: str, next_offset: int,
        read: Callable[[int, int], Iterable[IncomingFrame]],
    ) -> int:  # fmt: skip
        """Go on from what another engine, or this one, wrote down with `state`; to be called as `prepare` is.

        An event whose terms no longer hold ends with the next frame of its camera.

        Args:
            topic: Topic.
            partition: Partition.
            text: What was written.
            next_offset: Offset with which it was committed.
            read: Reads the partition's frames from one offset to before another, in their order, as far as they are
                still there.

        Returns:
            The number of events that go on.
        """
        saved = unpack(text, next_offset)
        if saved is None:
            return 0
        begins_at = max(0, saved.read_from, next_offset - READ_BACK_FRAMES)
        followed = read(begins_at, max(saved.ahead, default=next_offset - 1) + 1)
        self._fill_windows(one for one in followed if one.offset < next_offset or one.offset in saved.ahead)
        for warm_up in saved.warm_ups:
            self._resume_warm_up(topic, partition, warm_up)
        for unwell in saved.unwell:
            self._resume_health(topic, partition, unwell)
        left, resumed = _READ_BACK_FOR_PEAKS, 0
        for state in saved.cameras:
            # Beyond what honest states need, an event goes on without its picture.
            frames = state.peak.offset + 1 - state.peak_from
            is_read = frames <= min(left, READ_BACK_FRAMES)
            left -= frames if is_read else 0
            resumed += self._resume(topic, partition, state, read if is_read else _read_nothing)
        return resumed

    def _resume(
        self, topic: str, partition: int, state: CameraState, read: Callable[[int, int], Iterable[IncomingFrame]]
    ) -> bool:
        camera = self._resumed(topic, partition, state.camera_id, state.last.captured_at_ms)
        if camera is None:
            return False
        event = state.following.event
        camera.terms, camera.resumed = state.terms, state
        camera.tracker = _resumed_tracker(EventRule(), state.terms.threshold, state.terms.threshold, state.following)
        # What a frame's score depends on matters for the peak alone.
        camera.reached = {
            event.first: _Reached(state.first, state.first.offset),
            event.last: _Reached(state.last, state.last.offset),
            event.peak: _Reached(state.peak, state.peak_from),
        }
        frames = (one for one in read(state.peak_from, state.peak.offset + 1) if one.camera_id == state.camera_id)
        camera.peak = self._peak(deque(frames, maxlen=_MOST_FRAMES_BEFORE + 1), state.terms)
        return True

    def _resume_health(self, topic: str, partition: int, state: UnwellCamera) -> None:
        at_ms = max((one.last.captured_at_ms for one in state.conditions), default=0)
        camera = self._resumed(topic, partition, state.camera_id, at_ms)
        if camera is not None:
            camera.terms = state.terms
            camera.health.resume(state)

    def _resume_warm_up(self, topic: str, partition: int, state: WarmUpState) -> None:
        camera = self._resumed(topic, partition, state.camera_id, state.seen.last_ms)
        if camera is not None:
            camera.warm_up = WarmUp(state.terms, state.seen, state.thresholds)

    def _resumed(self, topic: str, partition: int, camera_id: str, captured_at_ms: int) -> _Camera | None:
        known = self._cameras.get((topic, partition, camera_id))
        if known is not None:
            return known
        try:
            return self._camera(topic, partition, camera_id, self._profile_of(camera_id, captured_at_ms))
        except FrameError as error:
            _log.warning("a camera's events do not go on", extra={"camera": camera_id, "cause": str(error)})
            return None

    def _fill_windows(self, frames: Iterator[IncomingFrame]) -> None:
        # In the order of their last frames, as they are kept live.
        last: dict[str, deque[tuple[IncomingFrame, _Picture]]] = {}
        while chunk := list(itertools.islice(frames, _READ_AT_ONCE)):
            for frame, picture in zip(chunk, self._crew.map(self._decode, chunk), strict=True):
                if not isinstance(picture, FrameError):
                    kept = last.pop(frame.camera_id, None)
                    if kept is None or not _take_the_same(kept[-1][1].profile.detector, picture.profile.detector):
                        kept = deque(maxlen=_frames_before(picture.profile.detector))
                    kept.append((replace(frame, data=None), picture))
                    last[frame.camera_id] = kept
            while len(last) > self._max_cameras:
                del last[next(iter(last))]
        clips = []
        for frame, picture in itertools.chain.from_iterable(last.values()):
            admitted = self._admit(frame, picture)
            if not isinstance(admitted, FrameError):
                admitted.camera.recent.append(frame.offset)
                admitted.camera.last = Place(frame.offset, frame.captured_at_ms)
                admitted.camera.heard_at = self._clock()
                admitted.camera.health.see(picture.pixels)
                clips.append(admitted.clip)
        self._crew.map(lambda clip: clip.measure(), clips)

    def _peak(self, frames: deque[IncomingFrame], terms: Terms) -> _Peak | None:
        """Decode and score a peak's frame, the last, anew; None where its bundle is not in use any more."""
        window: ClipWindow | None = None
        clip, profile = None, None
        for frame in frames:
            picture = self._decode(frame)
            if isinstance(picture, FrameError):
                continue
            if profile is None or not _take_the_same(profile.detector, picture.profile.detector):
                window = _window(picture.profile.detector)
            profile = picture.profile
            assert window is not None  # noqa: S101 - made with the first picture
            clip = window.take(picture.pixels)
            clip.measure()
        if clip is None or profile is None or profile.terms.bundle != terms.bundle:
            return None
        return self._kept_peak(frames[-1], _score_clips(profile.detector, [clip])[1][0], profile)

    def _kept_peak(self, frame: IncomingFrame, anomaly_map: FloatArray, profile: Profile) -> _Peak:
        """What is kept of a peak: the map, a copy, for it is a view that would keep its whole batch's, and the picture.

        A large frame is made small at once, since each camera may have a peak pending.
        """
        data = frame.data or b""
        counting = map_within(anomaly_map, profile.region).copy()
        if len(data) <= self._picture_max_bytes:
            return _Peak(data, None, counting)
        return _Peak(b"", snapshot(data, self._picture_max_bytes), counting)

    def forget(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Drop what is kept of the cameras of partitions that another worker now has."""
        with self._cameras_lock:
            for topic, partition in partitions:
                for camera_id in self._at.pop((topic, partition), {}):
                    del self._cameras[topic, partition, camera_id]

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._on_stage(stage, time.perf_counter() - began)

    def _decode(self, frame: IncomingFrame) -> _Picture | FrameError:
        data = frame.data or b""
        try:
            profile = self._profile_of(frame.camera_id, frame.captured_at_ms)
            header = read_frame_header(data, self._limits)
            preprocessing = profile.detector.bundle.manifest.preprocessing
            pixels = decode_frame(data, preprocessing, self._limits, header=header)
        except FrameError as error:
            return error
        return _Picture(pixels, header.trailing_bytes, profile)

    def _admit(self, frame: IncomingFrame, picture: _Picture | FrameError) -> _Decoded | FrameError:
        if isinstance(picture, FrameError):
            return picture
        try:
            camera = self._camera(frame.topic, frame.partition, frame.camera_id, picture.profile)
        except FrameError as error:
            return error
        return _Decoded(camera, camera.window.take(picture.pixels), picture.trailing_bytes, picture.profile)

    def _outcome(self, one: _Decoded, frame: IncomingFrame, score: float, anomaly_map: FloatArray) -> Outcome:
        camera, position = one.camera, one.camera.scored
        camera.last, camera.heard_at = Place(frame.offset, frame.captured_at_ms), self._clock()
        where = frame.topic, frame.partition, frame.camera_id
        alerts = self._take_profile(where, camera, one.profile, frame.captured_at_ms)
        profile = camera.profile
        assert profile is not None  # noqa: S101 - just taken
        told, counts = camera.health.judge(
            position,
            camera.last,
            one.clip.frames[-1][..., : profile.detector.bundle.manifest.preprocessing.channels],
            frame.data or b"",
            is_suspect=score >= profile.release,
        )
        alerts += [
            self._camera_alert(where, state, frame.captured_at_ms, profile.terms.bundle, frame.data) for state in told
        ]
        if profile.region is not None:
            score = score_within(anomaly_map, profile.region)
        if profile.warm_up_frames:
            counts = counts and not self._warm_up(camera, frame, score, profile, counts=counts)
        alerts += self._follow(camera, profile, frame, score if counts else NORMAL_SCORE, anomaly_map)
        is_anomalous = counts and score >= profile.threshold
        # A copy: the map is a view that would keep its whole batch's.
        kept_map = anomaly_map.copy() if self._keep_maps else None
        return Outcome(
            frame, score, profile.threshold, is_anomalous, counts, alerts=tuple(alerts),
            trailing_bytes=one.trailing_bytes, anomaly_map=kept_map,
        )  # fmt: skip

    def _take_profile(self, where: tuple[str, int, str], camera: _Camera, given: Profile, at_ms: int) -> list[AnyAlert]:
        """Have a camera followed under a profile from here on; what was followed under other terms ends."""
        if given is camera.given:
            return []
        own = given
        if not given.warm_up_frames:
            camera.warm_up = None
        elif camera.warm_up is None or camera.warm_up.terms != given.terms:
            camera.warm_up = WarmUp(given.terms)
        else:
            own = camera.warm_up.profile(given)
        alerts: list[AnyAlert] = []
        if camera.terms is not None and camera.terms.bundle != own.terms.bundle:
            alerts += self._close_health(where, camera, at_ms)
        following = camera.tracker.following if camera.tracker is not None else None
        if camera.terms is not None and camera.terms != own.terms:
            alerts += self._close_event(where, camera, at_ms)
            following = None
            camera.reached.clear()
            camera.peak = None
        camera.tracker = _resumed_tracker(own.rule, own.threshold, own.release, following)
        self._look_at(camera, own.detector)
        camera.given, camera.profile, camera.terms, camera.resumed = given, own, own.terms, None
        return alerts

    def _look_at(self, camera: _Camera, detector: BatchScorer) -> None:
        """Have a camera's frames that are followed compared as a detector's bundle says."""
        before = camera.profile.detector if camera.profile is not None else None
        if before is detector:
            return
        camera.health.scene = self._scene(detector)
        camera.health.frames_before = _frames_before(detector)
        if before is not None and not _take_the_same(before, detector):
            camera.recent = deque(maxlen=_frames_before(detector))

    def _warm_up(self, camera: _Camera, frame: IncomingFrame, score: float, profile: Profile, *, counts: bool) -> bool:
        """Have a frame set the camera's thresholds; says whether it does so."""
        warm_up = camera.warm_up
        if warm_up is None or warm_up.thresholds is not None:
            return False
        if counts and warm_up.add(score, frame.captured_at_ms, profile):
            own = warm_up.profile(profile)
            camera.profile, camera.terms = own, own.terms
            camera.tracker = EventTracker(own.rule, own.threshold, own.release)
            said = {"camera": frame.camera_id, "threshold": round(own.threshold, 3), "frames": profile.warm_up_frames}
            _log.info("camera has warmed up", extra=said)
        return True

    def _camera(self, topic: str, partition: int, camera_id: str, profile: Profile) -> _Camera:
        key = topic, partition, camera_id
        camera = self._cameras.get(key)
        detector = profile.detector
        with self._cameras_lock:
            if camera is None:
                self._make_room()
                health = CameraHealth(self._health_rule, self._scene(detector), _frames_before(detector))
                recent: deque[int] = deque(maxlen=_frames_before(detector))
                camera = _Camera(camera_id, detector, _window(detector), health, recent=recent)
                self._at.setdefault((topic, partition), {})[camera_id] = camera
            elif camera.scorer is not detector:
                if not _take_the_same(camera.scorer, detector):
                    camera.window = _window(detector)
                camera.scorer = detector
            camera.batch = self._prepared
            self._cameras.pop(key, None)
            self._cameras[key] = camera
        return camera

    def _scene(self, detector: BatchScorer) -> Scene | None:
        bundle = detector.bundle
        digest = bundle.reference.digest
        if digest not in self._scenes:
            scene = bundle.manifest.scene
            self._scenes[digest] = Scene(scene) if scene is not None else None
        return self._scenes[digest]

    def _make_room(self) -> None:
        if len(self._cameras) < self._max_cameras:
            return
        maybe: tuple[str, int, str] | None = None
        for key, camera in self._cameras.items():
            if camera.batch > self._followed:
                # Its scores are not told yet, and may begin an event; so may those of all after it.
                break
            following = camera.tracker.following if camera.tracker is not None else None
            if camera.health.is_pending:
                continue
            if following is None:
                maybe = key
                break
            if maybe is None and not following.is_open:
                # A few anomalous frames of a camera that is silent since must not hold its place for ever.
                maybe = key
        if maybe is None:
            raise FrameError(
                "too_many_cameras", f"{len(self._cameras)} cameras are followed already, max_cameras allows no more"
            )
        topic, partition, camera_id = maybe
        del self._cameras[maybe], self._at[topic, partition][camera_id]

    def _follow(
        self, camera: _Camera, profile: Profile, frame: IncomingFrame, score: float, anomaly_map: FloatArray
    ) -> tuple[Alert, ...]:
        assert camera.tracker is not None  # noqa: S101 - made with the profile
        position, camera.scored = camera.scored, camera.scored + 1
        from_offset = camera.recent[0] if camera.recent else frame.offset
        camera.recent.append(frame.offset)
        told = camera.tracker.update(position, score)
        event = told[1] if told is not None else camera.tracker.pending
        if event is None:
            camera.reached.clear()
            camera.peak = None
            return ()
        camera.reached[position] = _Reached(Place(frame.offset, frame.captured_at_ms), from_offset)
        if event.peak == position:
            camera.peak = self._kept_peak(frame, anomaly_map, profile)
        kept = {event.first, event.peak, event.last}
        camera.reached = {place: reached for place, reached in camera.reached.items() if place in kept}
        if told is None:
            return ()
        where = frame.topic, frame.partition, frame.camera_id
        return (self._alert(where, camera, *told, at_ms=frame.captured_at_ms),)

    def _close_event(self, where: tuple[str, int, str], camera: _Camera, at_ms: int | None = None) -> Iterator[Alert]:
        """End a camera's open event; ``at_ms`` is the capture time of the frame at which that is said, if any."""
        told = camera.tracker.close() if camera.tracker is not None else None
        if told is not None:
            yield self._alert(where, camera, *told, at_ms=at_ms)

    def _close_health(
        self, where: tuple[str, int, str], camera: _Camera, at_ms: int | None = None
    ) -> Iterator[CameraAlert]:
        for one in camera.health.close():
            assert camera.terms is not None  # noqa: S101 - something was followed
            said_at_ms = one.last.captured_at_ms if at_ms is None else at_ms
            yield self._camera_alert(where, one, said_at_ms, camera.terms.bundle)

    def _camera_alert(
        self, where: tuple[str, int, str], told: Told, at_ms: int, bundle: BundleReference, data: bytes | None = None
    ) -> CameraAlert:
        topic, partition, camera_id = where
        rule = self._health_rule.version(told.state)
        first = told.first
        name = make_event_id(topic, partition, first.offset, camera_id, bundle.digest, rule)
        is_over = told.transition == "ended"
        said = CameraData(
            event_id=name,
            camera_id=camera_id,
            state=told.state,
            started_at_ms=first.captured_at_ms,
            ended_at_ms=told.last.captured_at_ms if is_over else None,
            snapshot=snapshot(data, self._picture_max_bytes) if data and not is_over else None,
            frames=StretchReference(
                topic=topic, partition=partition, first_offset=first.offset, last_offset=told.last.offset
            ),
            bundle=bundle,
            rule_version=rule,
        )
        return make_camera_alert(at_ms, said)

    def _alert(
        self, where: tuple[str, int, str], camera: _Camera, transition: Transition, event: Event, at_ms: int | None
    ) -> Alert:
        topic, partition, camera_id = where
        (first, first_ms), (peak, peak_ms), (last, last_ms) = (
            camera.reached[place].place for place in (event.first, event.peak, event.last)
        )
        terms = camera.terms
        assert terms is not None  # noqa: S101 - an event was followed
        p_value, how_severe = _rarity(camera, event)
        picture = camera.peak
        data = AnomalyData(
            event_id=make_event_id(topic, partition, first, camera_id, terms.bundle.digest, terms.rule_version),
            camera_id=camera_id,
            started_at_ms=first_ms,
            peak_at_ms=peak_ms,
            ended_at_ms=last_ms if transition == "ended" else None,
            peak_score=event.peak_score,
            threshold=terms.threshold,
            p_value=p_value,
            severity=how_severe,
            anomalous_area_percent=anomalous_area(picture.anomaly_map, terms.threshold) if picture else 0.0,
            boxes=tuple(anomalous_boxes(picture.anomaly_map, terms.threshold)) if picture else (),
            heat_map=heat_map(picture.anomaly_map, terms.threshold, self._picture_max_bytes) if picture else None,
            snapshot=picture.snapshot(self._picture_max_bytes) if picture else None,
            frames=FrameReference(
                topic=topic, partition=partition, first_offset=first, peak_offset=peak, last_offset=last
            ),
            bundle=terms.bundle,
            rule_version=terms.rule_version,
        )
        return make_alert(transition, event.updates, last_ms if at_ms is None else at_ms, data)


def _window(detector: BatchScorer) -> ClipWindow:
    manifest = detector.bundle.manifest
    return ClipWindow(manifest.shape.clip_frames, manifest.preprocessing)


def _frames_before(detector: BatchScorer) -> int:
    manifest = detector.bundle.manifest
    # At least one: a frame is compared with the one before it.
    return max(1, frames_before(manifest.shape.clip_frames, manifest.preprocessing))


def _take_the_same(one: BatchScorer, other: BatchScorer) -> bool:
    """Whether two detectors take the same clips of the same frames."""
    if one is other:
        return True
    mine, its = one.bundle.manifest, other.bundle.manifest
    return mine.preprocessing == its.preprocessing and mine.shape.clip_frames == its.shape.clip_frames


def _score_part(part: _Part) -> tuple[Sequence[int], FloatArray, FloatArray]:
    return part.places, *_score_clips(part.detector, part.clips)


def _score_clips(detector: BatchScorer, clips: Sequence[ComingClip]) -> tuple[FloatArray, FloatArray]:
    first = clips[0].frames
    batch = np.empty((len(clips), len(first), *first[0].shape), np.uint8)
    for held, clip in zip(batch, clips, strict=True):
        for place, frame in zip(held, clip.frames, strict=True):
            place[...] = frame
    return detector.score(batch)


def _resumed_tracker(rule: EventRule, threshold: float, release: float, following: Following | None) -> EventTracker:
    tracker = EventTracker(rule, threshold, release)
    if following is not None:
        tracker.resume(following)
    return tracker


def _rarity(camera: _Camera, event: Event) -> tuple[float, Severity]:
    """How rare an event's peak is, by the profile that it is followed under, or as it was told before."""
    if camera.profile is not None:
        return camera.profile.rarity(event.peak_score)
    assert camera.resumed is not None  # noqa: S101 - an event without a profile is one that goes on
    return camera.resumed.p_value, camera.resumed.severity


def _read_nothing(_first: int, _end: int) -> Iterator[IncomingFrame]:
    return iter(())


def _state_of(camera: _Camera) -> CameraState | None:
    following = camera.tracker.following if camera.tracker is not None else None
    if following is None or camera.terms is None:
        return None
    event, following = following.event, following.before(camera.scored)
    first, peak, last = (camera.reached[position] for position in (event.first, event.peak, event.last))
    return CameraState(
        camera.camera_id, following, first.place, peak.place, last.place, peak.from_offset, camera.terms,
        *_rarity(camera, event),
    )  # fmt: skip
