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

from contract.alert import AnyAlert, CameraAlert, HealthState
from contract.drift import DriftRule
from contract.errors import FrameError
from contract.event import EventRule
from contract.frame import FLOW_FRAMES, FrameHeader, FrameLimits, decode_frame, read_frame_header
from contract.scoring import FloatArray
from contract.window import ClipWindow, ComingClip
from worker.challenger import ChallengerFailure, OwnClip, outcome_of, own_clip
from worker.cores import Crew, Started
from worker.followed import Followed, Means, frames_needed, take_the_same
from worker.frames import IncomingFrame, Outcome
from worker.health_rule import HealthRule
from worker.parts import FailedPart, Part, ScoredPart, parts_of, score_clips, score_part, try_part
from worker.profile import BatchScorer, Challenger, Profile, ProfileOf, Terms, make_profile
from worker.state import CameraState, PartitionState
from worker.state_text import pack, unpack
from worker.tell import Peak, Where

_log = logging.getLogger(__name__)

_DEFAULT_PICTURE_BYTES: Final = 192 * 1024
_DEFAULT_CAMERAS: Final = 4096
_READ_AT_ONCE: Final = 64
_MOST_FRAMES_BEFORE: Final = 64 + FLOW_FRAMES
READ_BACK_FRAMES: Final = 4096
"""Frames of a partition that are read back at the most to fill its cameras' clips; a camera whose last frames lie
before them begins its clip anew. As many are read at the most for the picture of one pending event."""

_READ_BACK_FOR_PEAKS: Final = 8 * READ_BACK_FRAMES
"""The same for all pending events of a partition together."""


@dataclass(slots=True)
class _Camera:
    """What is kept of one camera: a clip for the frames that are prepared, and what follows those that are scored.

    Attributes:
        scorer: Of the last frame prepared.
        window: Its clip.
        followed: Follows its scored frames.
        batch: Number of the batch that held its last frame.
        own: Clip of its challenger; None where that takes the champion's, or there is none.
    """

    scorer: BatchScorer
    window: ClipWindow
    followed: Followed
    batch: int = 0
    own: OwnClip | None = None


class _Picture(NamedTuple):
    """A decoded frame.

    Attributes:
        pixels: uint8 of shape (height, width, channels).
        trailing_bytes: Bytes after the picture's end marker.
        profile: In force for the frame.
        challenger: Scores it too; None where there is none, or it was dropped.
        challenger_pixels: What that takes, where the champion's clip is not it.
    """

    pixels: npt.NDArray[np.uint8]
    trailing_bytes: int
    profile: Profile
    challenger: Challenger | None
    challenger_pixels: npt.NDArray[np.uint8] | None


class _Decoded(NamedTuple):
    """A frame on its way to its score.

    Attributes:
        camera: Whose it is.
        clip: That it ends.
        trailing_bytes: Bytes after the picture's end marker.
        profile: In force for it.
        challenger_clip: That its challenger scores; None where none does.
        own: What that was taken into, where the champion's clip is not it.
    """

    camera: _Camera
    clip: ComingClip
    trailing_bytes: int
    profile: Profile
    challenger_clip: ComingClip | None = None
    own: OwnClip | None = None


Scoring = Started[Part, ScoredPart]
Challenging = Started[Part, ScoredPart | FailedPart]


@dataclass(frozen=True, slots=True)
class Work:
    """A batch of frames that goes through the engine's steps.

    Attributes:
        number: Of the batch.
        loaded: Times that what is in force was loaded anew before it.
        frames: As they came.
        decoded: What each became.
        scoring: Scores and maps of parts of those that could be decoded, begun and not yet asked for.
        scores: Score and map of each that could be decoded, once they are scored.
        dropped: Digests of challengers that failed since what is in force was taken.
        challenging: Scores and maps by challengers, begun and not yet asked for.
        challenger_scores: The same by the place among those that could be decoded, once they are scored.
        failures: Challengers that failed on this batch first.
    """

    number: int
    loaded: int
    frames: Sequence[IncomingFrame]
    decoded: Sequence[_Decoded | FrameError]
    scoring: list[Scoring] = field(default_factory=list)
    scores: list[tuple[float, FloatArray]] = field(default_factory=list)
    dropped: set[str] = field(default_factory=set)
    challenging: list[Challenging] = field(default_factory=list)
    challenger_scores: dict[int, tuple[float, FloatArray]] = field(default_factory=dict)
    failures: list[ChallengerFailure] = field(default_factory=list)


class Engine:
    """Scores frames of many cameras in batches and follows each camera's events.

    A batch is prepared (decoded, its motion measured), scored and followed. Each step may run on a thread of its own,
    so that one batch is prepared while another is scored and a third is followed, as long as every step takes the
    batches in their order.

    Where a profile names a challenger, that scores the frame too, after the champion. One that fails is dropped, from
    that batch on and until `use` is called: its frames then have no score of it, and all else is as if it had none.

    Args:
        detector: Scores clips of frames, of all cameras unless `use` says otherwise.
        threshold: In place of the bundle's.
        event_rule: In place of the bundle's.
        limits: What a frame may declare.
        picture_max_bytes: Size up to which pictures travel in alerts.
        health_rule: When a camera counts as unwell.
        drift_rule: When its world counts as changed for good.
        max_cameras: Cameras kept at once. Beyond it the one idle longest without an event pending is forgotten, or else
            the one idle longest whose event has not started yet; where there is none, the new camera's frames are
            rejected with reason ``too_many_cameras``.
        crew: Decodes, measures motion and scores; the caller's thread where not given.
        clock: Monotonic seconds.
        keep_maps: Whether each outcome holds its frame's anomaly map.
        on_stage: Told the name of each stage and how long it took, seconds: ``decode``, ``motion``, ``infer``,
            ``challenge`` (how much longer challengers took, where there are any) and ``events``.
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
        drift_rule: DriftRule | None = None,
        max_cameras: int = _DEFAULT_CAMERAS,
        crew: Crew | None = None,
        clock: Callable[[], float] = time.monotonic,
        keep_maps: bool = False,
        on_stage: Callable[[str, float], None] | None = None,
    ) -> None:
        only = make_profile(detector, threshold=threshold, event_rule=event_rule)
        self._profile_of: ProfileOf = lambda _camera_id, _captured_at_ms: only
        self._limits = limits or FrameLimits()
        self._means = Means(health_rule or HealthRule(), drift_rule or DriftRule(), picture_max_bytes)
        self._max_cameras = max_cameras
        self._crew = crew or Crew()
        self._clock = clock
        self._keep_maps = keep_maps
        self._on_stage = on_stage or (lambda _stage, _seconds: None)
        # In the order of their last frames, the longest idle first.
        self._cameras: dict[Where, _Camera] = {}
        # The same by partition.
        self._at: dict[tuple[str, int], dict[str, _Camera]] = {}
        self._cameras_lock = threading.Lock()
        self._prepared = self._followed = self._loaded = 0
        # Digests of challengers that failed; those of batches before `use` have a set of their own.
        self._dropped: set[str] = set()

    def use(self, profile_of: ProfileOf) -> None:
        """Take what is in force from here on, from the next batch that is prepared; to be called as `prepare` is.

        An event whose terms do not hold for the next frame of its camera ends with the frame before. Where another
        bundle scores that frame, it is told. Challengers that were dropped are tried again.

        Args:
            profile_of: Says what is in force for a frame.
        """
        self._profile_of = profile_of
        self._loaded += 1
        self._dropped = set()

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
            clips = [one.clip for one in admitted]
            clips += [one.challenger_clip for one in admitted if one.own and one.challenger_clip]
            self._crew.map(lambda clip: clip.measure(), clips, urgent=True)
        work = Work(self._prepared, self._loaded, frames, decoded, dropped=self._dropped)
        # Begun here, so that the crew has something to do whatever the next step's thread waits for.
        work.scoring.append(self._begin_scoring(work))
        challenged = [
            (one.profile.challenger.detector, place, one.challenger_clip)
            for place, one in enumerate(admitted)
            if one.profile.challenger is not None and one.challenger_clip is not None
        ]
        if challenged:
            work.challenging.append(self._crew.start(try_part, parts_of(challenged)))
        return work

    def score(self, work: Work) -> Work:
        """Wait for the scores of what was prepared; scores it anew where that failed, when called again.

        Raises:
            BundleError: The model gives scores that are not finite.
            FramewatchError: The model failed while running.
        """
        with self._timed("infer"):
            scored = (work.scoring.pop() if work.scoring else self._begin_scoring(work)).results()
            by_place = {place: one for part in scored for place, one in part.by_place().items()}
            work.scores[:] = [by_place[place] for place in range(len(by_place))]
        if work.challenging:
            with self._timed("challenge"):
                self._take_challenge(work, work.challenging.pop())
        return work

    def _begin_scoring(self, work: Work) -> Scoring:
        admitted = enumerate(one for one in work.decoded if not isinstance(one, FrameError))
        return self._crew.start(
            score_part, parts_of([(one.profile.detector, place, one.clip) for place, one in admitted])
        )

    def _take_challenge(self, work: Work, challenging: Challenging) -> None:
        results = challenging.results()
        for failed in (one for one in results if isinstance(one, FailedPart)):
            bundle = failed.detector.bundle.reference
            if bundle.digest not in work.dropped:
                work.dropped.add(bundle.digest)
                work.failures.append(ChallengerFailure(bundle, failed.cause))
        for one in results:
            # Of a batch on which it failed none is taken: what it told would depend on how the batch was divided.
            if isinstance(one, ScoredPart) and one.detector.bundle.reference.digest not in work.dropped:
                work.challenger_scores.update(one.by_place())

    def follow(self, work: Work, is_wanted: Callable[[IncomingFrame], bool] = lambda _frame: True) -> list[Outcome]:
        """Say what scores tell.

        Args:
            work: That was scored.
            is_wanted: Whether a frame still counts; others are left out, and change no camera's state.

        Returns:
            An outcome a frame that counts, in the order in which they came.
        """
        with self._timed("events"):
            scores = enumerate(work.scores)
            outcomes = []
            for frame, one in zip(work.frames, work.decoded, strict=True):
                if isinstance(one, FrameError):
                    outcome = Outcome(frame, error=one) if is_wanted(frame) else None
                    self.note_heard(frame)
                else:
                    place, scored = next(scores)
                    challenge = work.challenger_scores.get(place)
                    outcome = self._outcome(one, frame, scored, challenge, work.loaded) if is_wanted(frame) else None
                if outcome is not None:
                    outcomes.append(outcome)
        self._followed = work.number
        return outcomes

    def note_heard(self, frame: IncomingFrame) -> None:
        """Note that a frame came, though it is not scored, for `find_silent`; to be called as `follow` is."""
        with self._cameras_lock:
            camera = self._cameras.get(Where(frame.topic, frame.partition, frame.camera_id))
        if camera is not None:
            camera.followed.heard_at = self._clock()

    def find_silent(self, topic: str, partition: int, since: float, until: float) -> list[CameraAlert]:
        """Say which cameras of a partition sent nothing for `HealthRule.silent_seconds`; to be called as `follow` is.

        Args:
            topic: Topic.
            partition: Partition.
            since: Since when whatever comes to it is followed at once, monotonic seconds.
            until: Up to when all that came was followed before this is called.
        """
        alerts: list[CameraAlert] = []
        patience = self._means.health_rule.silent_seconds
        if not patience:
            return alerts
        for followed in self._followed_at(topic, partition):
            last = followed.last
            if last is None or until - max(followed.heard_at, since) < patience:
                continue
            try:
                terms = self._profile_of(followed.where.camera_id, last.captured_at_ms).terms
            except FrameError:
                # Its frames are turned away since settings were loaded anew: it may well send some.
                continue
            alert = followed.fall_silent(terms)
            alerts += [alert] if alert is not None else []
        return alerts

    def close_events(self) -> list[AnyAlert]:
        """End every open event because the footage ends; for files, never live."""
        alerts = [alert for camera in self._cameras.values() for alert in camera.followed.close()]
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
        here = self._followed_at(topic, partition)
        recents = (recent for followed in here for recent in (followed.recent, followed.challenger_recent))
        reaching = (recent[0] for recent in recents if recent)
        read_from = min((offset for offset in reaching if horizon <= offset < next_offset), default=next_offset)
        states = [followed.state() for followed in here]
        kept = PartitionState(
            read_from,
            tuple(event for event, _, _ in states if event is not None),
            tuple(health for _, health, _ in states if health is not None),
            tuple(warm_up for _, _, warm_up in states if warm_up is not None),
            ahead,
        )
        return pack(kept, next_offset, max_bytes)

    def find_open(self) -> tuple[int, set[tuple[str, HealthState]]]:
        """Number of events, and cameras with their conditions, that are told of and not ended."""
        with self._cameras_lock:
            followed = [camera.followed for camera in self._cameras.values()]
        following = [one.following for one in followed]
        events = sum(one is not None and one.is_open for one in following)
        return events, {(one.where.camera_id, state) for one in followed for state in one.open_conditions}

    def _followed_at(self, topic: str, partition: int) -> list[Followed]:
        with self._cameras_lock:
            return [camera.followed for camera in self._at.get((topic, partition), {}).values()]

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
        done = read(begins_at, max(saved.ahead, default=next_offset - 1) + 1)
        self._fill_windows(one for one in done if one.offset < next_offset or one.offset in saved.ahead)
        for warm_up in saved.warm_ups:
            followed = self._resumed(Where(topic, partition, warm_up.camera_id), warm_up.seen.last_ms)
            if followed is not None:
                followed.resume_warm_up(warm_up)
        for unwell in saved.unwell:
            at_ms = max((one.last.captured_at_ms for one in unwell.conditions), default=0)
            followed = self._resumed(Where(topic, partition, unwell.camera_id), at_ms)
            if followed is not None:
                followed.resume_health(unwell)
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
        followed = self._resumed(Where(topic, partition, state.camera_id), state.last.captured_at_ms)
        if followed is None:
            return False
        followed.resume_event(state)
        frames = (one for one in read(state.peak_from, state.peak.offset + 1) if one.camera_id == state.camera_id)
        followed.peak = self._peak(deque(frames, maxlen=_MOST_FRAMES_BEFORE + 1), state.terms)
        return True

    def _resumed(self, where: Where, captured_at_ms: int) -> Followed | None:
        known = self._cameras.get(where)
        if known is not None:
            return known.followed
        try:
            return self._camera(where, self._profile_of(where.camera_id, captured_at_ms)).followed
        except FrameError as error:
            said = {"camera": where.camera_id, "partition": where.partition, "cause": str(error)}
            _log.warning("a camera's events do not go on", extra=said)
            return None

    def _fill_windows(self, frames: Iterator[IncomingFrame]) -> None:
        # In the order of their last frames, as they are kept live; of each those of the champion and its challenger's.
        last: dict[str, tuple[_Kept | None, _Kept | None]] = {}
        while chunk := list(itertools.islice(frames, _READ_AT_ONCE)):
            for frame, picture in zip(chunk, self._crew.map(self._decode, chunk), strict=True):
                if not isinstance(picture, FrameError):
                    mine, its = last.pop(frame.camera_id, (None, None))
                    seen = replace(frame, data=None), picture
                    last[frame.camera_id] = _keep(mine, seen, _champion), _keep(its, seen, _own_challenger)
            while len(last) > self._max_cameras:
                del last[next(iter(last))]
        clips = []
        for frame, picture in itertools.chain.from_iterable(mine or () for mine, _ in last.values()):
            admitted = self._admit_alone(frame, picture)
            if not isinstance(admitted, FrameError):
                admitted.camera.followed.see(frame, picture.pixels, self._clock())
                clips.append(admitted.clip)
        for frame, picture in itertools.chain.from_iterable(its or () for _, its in last.values()):
            camera = self._cameras.get(Where(frame.topic, frame.partition, frame.camera_id))
            own, clip = _take_own(camera, picture) if camera is not None else (None, None)
            if camera is not None and own is not None and clip is not None:
                own.recent.append(frame.offset)
                camera.followed.challenger_recent = own.recent
                clips.append(clip)
        self._crew.map(lambda clip: clip.measure(), clips)

    def _peak(self, frames: deque[IncomingFrame], terms: Terms) -> Peak | None:
        """Decode and score a peak's frame, the last, anew; None where its bundle is not in use any more."""
        window: ClipWindow | None = None
        clip, profile = None, None
        for frame in frames:
            picture = self._decode(frame)
            if isinstance(picture, FrameError):
                continue
            if profile is None or not take_the_same(profile.detector, picture.profile.detector):
                window = _window(picture.profile.detector)
            profile = picture.profile
            assert window is not None  # noqa: S101 - made with the first picture
            clip = window.take(picture.pixels)
            clip.measure()
        if clip is None or profile is None or profile.terms.bundle != terms.bundle:
            return None
        anomaly_map = score_clips(profile.detector, [clip])[1][0]
        return Peak.of(frames[-1].data or b"", anomaly_map, profile.region, self._means.picture_max_bytes)

    def forget(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Drop what is kept of the cameras of partitions that another worker now has."""
        with self._cameras_lock:
            for topic, partition in partitions:
                for camera_id in self._at.pop((topic, partition), {}):
                    del self._cameras[Where(topic, partition, camera_id)]

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
        challenger = profile.challenger
        if challenger is not None and challenger.bundle.digest in self._dropped:
            challenger = None
        its = None
        if challenger is not None and not challenger.shares_clip:
            its = pixels if challenger.shares_picture else self._decode_again(data, header, challenger)
        return _Picture(pixels, header.trailing_bytes, profile, challenger, its)

    def _decode_again(self, data: bytes, header: FrameHeader, challenger: Challenger) -> npt.NDArray[np.uint8] | None:
        preprocessing = challenger.detector.bundle.manifest.preprocessing
        try:
            return decode_frame(data, preprocessing, self._limits, header=header)
        except FrameError:
            # A frame is rejected where the champion cannot take it, and only there.
            return None

    def _admit(self, frame: IncomingFrame, picture: _Picture | FrameError) -> _Decoded | FrameError:
        if isinstance(picture, FrameError):
            return picture
        admitted = self._admit_alone(frame, picture)
        if isinstance(admitted, FrameError):
            return admitted
        own, clip = _take_own(admitted.camera, picture)
        if picture.challenger is not None and picture.challenger.shares_clip:
            clip = admitted.clip
        return admitted._replace(challenger_clip=clip, own=own)

    def _admit_alone(self, frame: IncomingFrame, picture: _Picture) -> _Decoded | FrameError:
        """Take a picture into its camera's clip, and not into its challenger's own."""
        try:
            camera = self._camera(Where(frame.topic, frame.partition, frame.camera_id), picture.profile)
        except FrameError as error:
            return error
        return _Decoded(camera, camera.window.take(picture.pixels), picture.trailing_bytes, picture.profile)

    def _outcome(
        self, one: _Decoded, frame: IncomingFrame, scored: tuple[float, FloatArray],
        challenge: tuple[float, FloatArray] | None, loaded: int,
    ) -> Outcome:  # fmt: skip
        (score, anomaly_map), challenger, followed = scored, one.profile.challenger, one.camera.followed
        picture = one.clip.frames[-1]
        verdict = followed.take(frame, one.profile, picture, score, anomaly_map, self._clock(), loaded)
        followed.challenger_recent = one.own.recent if one.own is not None else ()
        if one.own is not None:
            one.own.recent.append(frame.offset)
        return Outcome(
            frame, verdict.score, verdict.threshold, verdict.is_anomalous, verdict.counts, alerts=verdict.alerts,
            trailing_bytes=one.trailing_bytes, is_drifting=verdict.is_drifting, drift_share=verdict.drift_share,
            # A copy: the map is a view that would keep its whole batch's.
            anomaly_map=anomaly_map.copy() if self._keep_maps else None,
            bundle=one.profile.terms.bundle,
            challenger=outcome_of(challenger, frame, challenge, counts=verdict.counts, keeps_map=self._keep_maps)
            if challenger is not None else None,
        )  # fmt: skip

    def _camera(self, where: Where, profile: Profile) -> _Camera:
        camera = self._cameras.get(where)
        detector = profile.detector
        with self._cameras_lock:
            if camera is None:
                self._make_room()
                camera = _Camera(detector, _window(detector), Followed(where, detector, self._means))
                self._at.setdefault((where.topic, where.partition), {})[where.camera_id] = camera
            elif camera.scorer is not detector:
                if not take_the_same(camera.scorer, detector):
                    camera.window = _window(detector)
                camera.scorer = detector
            camera.batch = self._prepared
            self._cameras.pop(where, None)
            self._cameras[where] = camera
        return camera

    def _make_room(self) -> None:
        if len(self._cameras) < self._max_cameras:
            return
        maybe: Where | None = None
        for where, camera in self._cameras.items():
            if camera.batch > self._followed:
                # Its scores are not told yet, and may begin an event; so may those of all after it.
                break
            if camera.followed.is_unwell:
                continue
            following = camera.followed.following
            if following is None:
                maybe = where
                break
            if maybe is None and not following.is_open:
                # A few anomalous frames of a camera that is silent since must not hold its place for ever.
                maybe = where
        if maybe is None:
            raise FrameError(
                "too_many_cameras", f"{len(self._cameras)} cameras are followed already, max_cameras allows no more"
            )
        del self._cameras[maybe], self._at[maybe.topic, maybe.partition][maybe.camera_id]


def _window(detector: BatchScorer) -> ClipWindow:
    manifest = detector.bundle.manifest
    return ClipWindow(manifest.shape.clip_frames, manifest.preprocessing)


_Kept = deque[tuple[IncomingFrame, _Picture]]


def _champion(picture: _Picture) -> BatchScorer | None:
    return picture.profile.detector


def _own_challenger(picture: _Picture) -> BatchScorer | None:
    """Who takes a picture into a clip that is not the champion's."""
    challenger = picture.challenger
    return challenger.detector if challenger is not None and not challenger.shares_clip else None


def _keep(
    kept: _Kept | None, seen: tuple[IncomingFrame, _Picture], taker: Callable[[_Picture], BatchScorer | None]
) -> _Kept | None:
    """Keep a camera's last pictures, as many as a clip needs; those before another clip began are left out."""
    detector = taker(seen[1])
    if detector is None:
        return None
    before = taker(kept[-1][1]) if kept else None
    if kept is None or before is None or not take_the_same(before, detector):
        kept = deque(maxlen=frames_needed(detector))
    kept.append(seen)
    return kept


def _take_own(camera: _Camera, picture: _Picture) -> tuple[OwnClip | None, ComingClip | None]:
    """Take a picture into the clip that a camera's challenger has for itself, if it has one."""
    camera.own = own_clip(camera.own, picture.challenger)
    if camera.own is None or picture.challenger_pixels is None:
        return camera.own, None
    return camera.own, camera.own.window.take(picture.challenger_pixels)


def _read_nothing(_first: int, _end: int) -> Iterator[IncomingFrame]:
    return iter(())
