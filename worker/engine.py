"""The per-frame core: frames in, scores and alerts out. It does no I/O; ``run`` and ``score`` share it."""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from contract.alert import (
    Alert,
    AnomalyData,
    AnyAlert,
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
from contract.event import Event, EventRule, EventTracker, Transition, rule_version
from contract.frame import FrameLimits, decode_frame, read_frame_header
from contract.manifest import Bundle
from contract.scene import Scene
from contract.scoring import FloatArray, anomalous_area, anomalous_boxes, severity
from contract.window import ClipWindow, ComingClip, frames_before
from worker.camera_health import CameraHealth, Told
from worker.cores import Crew, Started
from worker.health_rule import HealthRule
from worker.pictures import heat_map, snapshot
from worker.state import CameraState, PartitionState, Place, UnwellCamera, pack, unpack

_log = logging.getLogger(__name__)

_DEFAULT_PICTURE_BYTES: Final = 192 * 1024
_DEFAULT_CAMERAS: Final = 4096
CLIPS_AT_ONCE: Final = 2
"""Clips of one run on a CPU: what the layers of more of them make does not fit its caches."""

_READ_AT_ONCE: Final = 64
NORMAL_SCORE: Final = -100.0
"""What a frame that does not count gives to the rule for events: below every threshold."""

READ_BACK_FRAMES: Final = 4096
"""Frames of a partition that are read back at the most to fill its cameras' clips; a camera whose last frames lie
before them begins its clip anew. As many are read at the most for the picture of one pending event."""

_READ_BACK_FOR_PEAKS: Final = 8 * READ_BACK_FRAMES
"""The same for all pending events of a partition together."""


class BatchScorer(Protocol):
    """What the engine needs of a detector."""

    bundle: Bundle

    @property
    def scores_whole_batches(self) -> bool:
        """Whether one call for a batch is better than several at once."""

    def score(self, frames: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        """Score clips, uint8 (batch, clip_frames, height, width, channels): scores (batch,), maps (batch, r, c)."""


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
        is_anomalous: Whether the score reached the threshold and counts.
        counts: Whether it counts for events; not where its camera was unwell.
        error: Why the frame was rejected.
        alerts: What this frame told about events.
        trailing_bytes: Bytes after the picture's end marker; they were ignored.
        anomaly_map: A copy of the whole map, float32 of shape (rows, columns); None where maps are not kept.
    """

    frame: IncomingFrame
    anomaly_score: float | None = None
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
    window: ClipWindow
    tracker: EventTracker
    health: CameraHealth
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
    """

    pixels: npt.NDArray[np.uint8]
    trailing_bytes: int


class _Decoded(NamedTuple):
    """A frame on its way to its score.

    Attributes:
        camera: Whose it is.
        clip: That it ends.
        trailing_bytes: Bytes after the picture's end marker.
    """

    camera: _Camera
    clip: ComingClip
    trailing_bytes: int


Scoring = Started[Sequence[ComingClip], tuple[FloatArray, FloatArray]]


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
        detector: Scores clips of frames.
        threshold: In place of the bundle's.
        event_rule: In place of the bundle's.
        limits: What a frame may declare.
        picture_max_bytes: Size up to which pictures travel in alerts.
        health_rule: When a camera counts as unwell.
        max_cameras: Cameras kept at once. Beyond it the one idle longest without an event pending is forgotten, or else
            the one idle longest whose event has not started yet; where there is none, the new camera's frames are
            rejected with reason ``too_many_cameras``.
        crew: Decodes, measures motion and scores; the caller's thread where not given.
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
        keep_maps: bool = False,
        on_stage: Callable[[str, float], None] | None = None,
    ) -> None:
        manifest = detector.bundle.manifest
        self._detector = detector
        self._manifest = manifest
        self._bundle = detector.bundle.reference
        self.threshold = manifest.calibration.threshold if threshold is None else threshold
        self._release = min(manifest.calibration.release_threshold, self.threshold)
        self._rule = event_rule or manifest.event_rule
        self._limits = limits or FrameLimits()
        self._digest_half = self._bundle.digest.removeprefix("sha256:")[:32]
        self._rule_version = rule_version(self._rule, self.threshold, self._release)
        self._picture_max_bytes = picture_max_bytes
        self._health_rule = health_rule or HealthRule()
        self._scene = Scene(manifest.scene) if manifest.scene is not None else None
        self._channels = manifest.preprocessing.channels
        self._max_cameras = max_cameras
        self._crew = crew or Crew()
        self._keep_maps = keep_maps
        self._on_stage = on_stage or (lambda _stage, _seconds: None)
        # In the order of their last frames, the longest idle first.
        self._cameras: dict[tuple[str, int, str], _Camera] = {}
        # The same by partition.
        self._at: dict[tuple[str, int], dict[str, _Camera]] = {}
        self._cameras_lock = threading.Lock()
        self._prepared = self._followed = 0
        # At least one: a frame is compared with the one before it.
        self._frames_before = max(1, frames_before(manifest.shape.clip_frames, manifest.preprocessing))

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
            work.scores[:] = [one for scores, maps in scored for one in zip(scores.tolist(), maps, strict=True)]
        return work

    def _begin_scoring(self, work: Work) -> Scoring:
        clips = [one.clip for one in work.decoded if not isinstance(one, FrameError)]
        size = len(clips) if self._detector.scores_whole_batches else CLIPS_AT_ONCE
        parts = [clips[start : start + size] for start in range(0, len(clips), size or 1)]
        return self._crew.start(self._score_clips, parts)

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

    def close_events(self) -> list[AnyAlert]:
        """End every open event because the footage ends; for files, never live."""
        alerts: list[AnyAlert] = []
        for (topic, partition, camera_id), camera in self._cameras.items():
            alerts += [
                self._camera_alert(topic, partition, camera_id, one, one.last.captured_at_ms)
                for one in camera.health.close()
            ]
            told = camera.tracker.close()
            if told is not None:
                alerts.append(self._alert(topic, partition, camera_id, camera, *told))
        self._cameras.clear()
        self._at.clear()
        return alerts

    def state(self, topic: str, partition: int, next_offset: int, max_bytes: int) -> tuple[str, int]:
        """Write down what is kept of a partition's cameras after the last batch that was followed.

        Args:
            topic: Topic.
            partition: Partition.
            next_offset: Offset after the last frame that was followed.
            max_bytes: Size that the text may have.

        Returns:
            Text for `restore`, and for how many cameras with an event pending it has no room.
        """
        horizon = next_offset - READ_BACK_FRAMES
        with self._cameras_lock:
            here = tuple(self._at.get((topic, partition), {}).values())
        reaching = (camera.recent[0] for camera in here if camera.recent)
        read_from = min((offset for offset in reaching if offset >= horizon), default=next_offset)
        pending = tuple(state for camera in here if (state := _state_of(camera)) is not None)
        health = (camera.health.state(camera.camera_id, camera.scored) for camera in here)
        unwell = tuple(one for one in health if one is not None)
        kept = PartitionState(self._digest_half, self._rule_version, read_from, pending, unwell)
        return pack(kept, next_offset, max_bytes)

    def restore(
        self, topic: str, partition: int, text: str, next_offset: int,
        read: Callable[[int, int], Iterable[IncomingFrame]],
    ) -> int:  # fmt: skip
        """Go on from what another engine, or this one, wrote down with `state`; to be called as `prepare` is.

        Where the text is of another bundle or rule, only the clips are filled.

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
        self._fill_windows(iter(read(begins_at, next_offset)))
        if (saved.bundle, saved.rule_version) != (self._digest_half, self._rule_version):
            return 0
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
        try:
            camera = self._camera(topic, partition, state.camera_id)
        except FrameError as error:
            _log.warning("an event does not go on", extra={"camera": state.camera_id, "cause": str(error)})
            return False
        event = state.following.event
        camera.tracker.resume(state.following)
        # What a frame's score depends on matters for the peak alone.
        camera.reached = {
            event.first: _Reached(state.first, state.first.offset),
            event.last: _Reached(state.last, state.last.offset),
            event.peak: _Reached(state.peak, state.peak_from),
        }
        frames = (one for one in read(state.peak_from, state.peak.offset + 1) if one.camera_id == state.camera_id)
        camera.peak = self._peak(deque(frames, maxlen=self._frames_before + 1))
        return True

    def _resume_health(self, topic: str, partition: int, state: UnwellCamera) -> None:
        try:
            self._camera(topic, partition, state.camera_id).health.resume(state)
        except FrameError as error:
            _log.warning("a camera's health is not followed on", extra={"camera": state.camera_id, "cause": str(error)})

    def _fill_windows(self, frames: Iterator[IncomingFrame]) -> None:
        # In the order of their last frames, as they are kept live.
        last: dict[str, deque[tuple[IncomingFrame, _Picture]]] = {}
        while chunk := list(itertools.islice(frames, _READ_AT_ONCE)):
            for frame, picture in zip(chunk, self._crew.map(self._decode, chunk), strict=True):
                if not isinstance(picture, FrameError):
                    kept = last.pop(frame.camera_id, None) or deque(maxlen=self._frames_before)
                    kept.append((replace(frame, data=None), picture))
                    last[frame.camera_id] = kept
            while len(last) > self._max_cameras:
                del last[next(iter(last))]
        clips = []
        for frame, picture in itertools.chain.from_iterable(last.values()):
            admitted = self._admit(frame, picture)
            if not isinstance(admitted, FrameError):
                admitted.camera.recent.append(frame.offset)
                admitted.camera.health.see(picture.pixels)
                clips.append(admitted.clip)
        self._crew.map(lambda clip: clip.measure(), clips)

    def _peak(self, frames: deque[IncomingFrame]) -> _Peak | None:
        """Decode and score a peak's frame, the last, anew."""
        window = self._window()
        clip = None
        for frame in frames:
            picture = self._decode(frame)
            if not isinstance(picture, FrameError):
                clip = window.take(picture.pixels)
                clip.measure()
        if clip is None:
            return None
        return self._kept_peak(frames[-1], self._score_clips([clip])[1][0])

    def _kept_peak(self, frame: IncomingFrame, anomaly_map: FloatArray) -> _Peak:
        """What is kept of a peak: the map, a copy, for it is a view that would keep its whole batch's, and the picture.

        A large frame is made small at once, since each camera may have a peak pending.
        """
        data = frame.data or b""
        if len(data) <= self._picture_max_bytes:
            return _Peak(data, None, anomaly_map.copy())
        return _Peak(b"", snapshot(data, self._picture_max_bytes), anomaly_map.copy())

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
            header = read_frame_header(data, self._limits)
            pixels = decode_frame(data, self._manifest.preprocessing, self._limits, header=header)
        except FrameError as error:
            return error
        return _Picture(pixels, header.trailing_bytes)

    def _admit(self, frame: IncomingFrame, picture: _Picture | FrameError) -> _Decoded | FrameError:
        if isinstance(picture, FrameError):
            return picture
        try:
            camera = self._camera(frame.topic, frame.partition, frame.camera_id)
        except FrameError as error:
            return error
        return _Decoded(camera, camera.window.take(picture.pixels), picture.trailing_bytes)

    def _score_clips(self, clips: Sequence[ComingClip]) -> tuple[FloatArray, FloatArray]:
        first = clips[0].frames
        batch = np.empty((len(clips), len(first), *first[0].shape), np.uint8)
        for held, clip in zip(batch, clips, strict=True):
            for place, frame in zip(held, clip.frames, strict=True):
                place[...] = frame
        return self._detector.score(batch)

    def _outcome(self, one: _Decoded, frame: IncomingFrame, score: float, anomaly_map: FloatArray) -> Outcome:
        camera, position = one.camera, one.camera.scored
        told, counts = camera.health.judge(
            position,
            Place(frame.offset, frame.captured_at_ms),
            one.clip.frames[-1][..., : self._channels],
            is_suspect=score >= self._release,
        )
        alerts: list[AnyAlert] = [
            self._camera_alert(frame.topic, frame.partition, frame.camera_id, state, frame.captured_at_ms, frame.data)
            for state in told
        ]
        alerts += self._follow(camera, frame, score if counts else NORMAL_SCORE, anomaly_map)
        is_anomalous = counts and score >= self.threshold
        # A copy: the map is a view that would keep its whole batch's.
        kept_map = anomaly_map.copy() if self._keep_maps else None
        return Outcome(
            frame, score, is_anomalous, counts, alerts=tuple(alerts), trailing_bytes=one.trailing_bytes,
            anomaly_map=kept_map,
        )  # fmt: skip

    def _camera(self, topic: str, partition: int, camera_id: str) -> _Camera:
        key = topic, partition, camera_id
        camera = self._cameras.get(key)
        with self._cameras_lock:
            if camera is None:
                self._make_room()
                tracker = EventTracker(self._rule, self.threshold, self._release)
                health = CameraHealth(self._health_rule, self._scene, self._frames_before)
                recent: deque[int] = deque(maxlen=self._frames_before)
                camera = _Camera(camera_id, self._window(), tracker, health, recent=recent)
                self._at.setdefault((topic, partition), {})[camera_id] = camera
            camera.batch = self._prepared
            self._cameras.pop(key, None)
            self._cameras[key] = camera
        return camera

    def _window(self) -> ClipWindow:
        return ClipWindow(self._manifest.shape.clip_frames, self._manifest.preprocessing)

    def _make_room(self) -> None:
        if len(self._cameras) < self._max_cameras:
            return
        maybe: tuple[str, int, str] | None = None
        for key, camera in self._cameras.items():
            if camera.batch > self._followed:
                # Its scores are not told yet, and may begin an event; so may those of all after it.
                break
            following = camera.tracker.following
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
        self, camera: _Camera, frame: IncomingFrame, score: float, anomaly_map: FloatArray
    ) -> tuple[Alert, ...]:
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
            camera.peak = self._kept_peak(frame, anomaly_map)
        kept = {event.first, event.peak, event.last}
        camera.reached = {place: reached for place, reached in camera.reached.items() if place in kept}
        if told is None:
            return ()
        at_ms = frame.captured_at_ms
        return (self._alert(frame.topic, frame.partition, frame.camera_id, camera, *told, at_ms=at_ms),)

    def _camera_alert(
        self, topic: str, partition: int, camera_id: str, told: Told, at_ms: int, data: bytes | None = None
    ) -> CameraAlert:
        rule = rule_version(self._health_rule.of(told.state), self._health_rule.look_every, 0.0)
        first = told.first
        name = make_event_id(
            topic, partition, first.offset, camera_id, self._bundle.digest, f"{rule}-{told.state}"
        )  # fmt: skip
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
            bundle=self._bundle,
            rule_version=rule,
        )
        return make_camera_alert(at_ms, said)

    def _alert(
        self, topic: str, partition: int, camera_id: str, camera: _Camera, transition: Transition, event: Event,
        at_ms: int | None = None,
    ) -> Alert:  # fmt: skip
        (first, first_ms), (peak, peak_ms), (last, last_ms) = (
            camera.reached[place].place for place in (event.first, event.peak, event.last)
        )
        calibration = self._manifest.calibration
        p_value = calibration.tail.p_value(event.peak_score)
        # A threshold set for a long duration is one that single frames often reach.
        rare = min(calibration.tail.p_value(self.threshold), calibration.budget_per_frame)
        picture = camera.peak
        data = AnomalyData(
            event_id=make_event_id(topic, partition, first, camera_id, self._bundle.digest, self._rule_version),
            camera_id=camera_id,
            started_at_ms=first_ms,
            peak_at_ms=peak_ms,
            ended_at_ms=last_ms if transition == "ended" else None,
            peak_score=event.peak_score,
            threshold=self.threshold,
            p_value=p_value,
            severity=severity(p_value, rare),
            anomalous_area_percent=anomalous_area(picture.anomaly_map, self.threshold) if picture else 0.0,
            boxes=tuple(anomalous_boxes(picture.anomaly_map, self.threshold)) if picture else (),
            heat_map=heat_map(picture.anomaly_map, self.threshold, self._picture_max_bytes) if picture else None,
            snapshot=picture.snapshot(self._picture_max_bytes) if picture else None,
            frames=FrameReference(
                topic=topic, partition=partition, first_offset=first, peak_offset=peak, last_offset=last
            ),
            bundle=self._bundle,
            rule_version=self._rule_version,
        )
        return make_alert(transition, event.updates, last_ms if at_ms is None else at_ms, data)


def _read_nothing(_first: int, _end: int) -> Iterator[IncomingFrame]:
    return iter(())


def _state_of(camera: _Camera) -> CameraState | None:
    following = camera.tracker.following
    if following is None:
        return None
    event, following = following.event, following.before(camera.scored)
    first, peak, last = (camera.reached[position] for position in (event.first, event.peak, event.last))
    return CameraState(camera.camera_id, following, first.place, peak.place, last.place, peak.from_offset)
