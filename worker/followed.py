"""One camera's scored frames, followed: what is in force for them, its events, its health, and what they tell."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from contract.alert import Alert, AnyAlert, CameraAlert, HealthState
from contract.drift import DriftRule, DriftTest, make_test
from contract.event import Event, EventRule, EventTracker, Following, Transition
from contract.scene import Scene
from contract.scoring import FloatArray, Severity
from contract.window import frames_before
from worker.camera_health import CameraHealth, Told
from worker.drift import DriftWatch
from worker.frames import IncomingFrame
from worker.health_rule import HealthRule
from worker.profile import BatchScorer, Profile, Terms
from worker.state import CameraState, Place, UnwellCamera, WarmUpState
from worker.tell import EventPlaces, Peak, Where, tell_event, tell_health, tell_model_change
from worker.warm_up import WarmUp
from worker.zones import score_within

NORMAL_SCORE: Final = -100.0
"""What a frame that does not count gives to the rule for events: below every threshold."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What all cameras are followed with.

    Attributes:
        health_rule: When a camera counts as unwell.
        drift_rule: When its world counts as changed for good.
        picture_max_bytes: Size up to which pictures travel in alerts.
        scenes: What cameras usually show, by their bundles' digests.
        drift_tests: What their scores' blocks are compared with, by the same; None where drift is not looked for.
    """

    health_rule: HealthRule
    drift_rule: DriftRule
    picture_max_bytes: int
    scenes: dict[str, Scene | None] = field(default_factory=dict)
    drift_tests: dict[str, DriftTest | None] = field(default_factory=dict)

    def scene(self, detector: BatchScorer) -> Scene | None:
        """What cameras of a detector's bundle usually show."""
        digest = detector.bundle.reference.digest
        if digest not in self.scenes:
            scene = detector.bundle.manifest.scene
            self.scenes[digest] = Scene(scene) if scene is not None else None
        return self.scenes[digest]

    def drift_test(self, detector: BatchScorer) -> DriftTest | None:
        """What scores of cameras of a detector's bundle are compared with."""
        digest = detector.bundle.reference.digest
        if digest not in self.drift_tests:
            reference = detector.bundle.manifest.drift
            self.drift_tests[digest] = make_test(reference, self.drift_rule) if reference is not None else None
        return self.drift_tests[digest]


class Reached(NamedTuple):
    """A scored frame of a pending event.

    Attributes:
        place: Where it stands.
        from_offset: Offset of the earliest frame that its score depends on.
    """

    place: Place
    from_offset: int


class Verdict(NamedTuple):
    """What became of a scored frame.

    Attributes:
        score: Of what counts of the picture.
        threshold: From which it is anomalous.
        is_anomalous: Whether the score reached the threshold and counts.
        counts: Whether it counts for events.
        alerts: What it told.
        is_drifting: Whether the camera is told of as changed for good.
        drift_share: Share of a window of blocks of scores beyond normal ones, where one of them ended; else None.
    """

    score: float
    threshold: float
    is_anomalous: bool
    counts: bool
    alerts: tuple[AnyAlert, ...]
    is_drifting: bool
    drift_share: float | None


class Followed:
    """Follows one camera: a few numbers, and the peak frame of a pending event.

    Args:
        where: Whose frames, from where.
        detector: Of its first frame.
        means: What all cameras are followed with.

    Attributes:
        where: The same.
        recent: Offsets of the last frames, as many as the next one's score depends on.
        challenger_recent: The same for its challenger's score, where that takes clips of its own.
        last: Its last frame; None before there was one.
        heard_at: When that was followed, monotonic seconds.
        peak: Of the pending event.
    """

    def __init__(self, where: Where, detector: BatchScorer, means: Means) -> None:
        self.where = where
        self.recent: deque[int] = deque(maxlen=frames_needed(detector))
        self.challenger_recent: Sequence[int] = ()
        self.last: Place | None = None
        self.heard_at = 0.0
        self.peak: Peak | None = None
        self._means = means
        self._health = CameraHealth(means.health_rule, means.scene(detector), frames_needed(detector))
        self._drift = DriftWatch(means.drift_test(detector))
        # What was given for its frames, what of that is in force, and under what is told.
        self._given: Profile | None = None
        self._profile: Profile | None = None
        self._terms: Terms | None = None
        self._tracker: EventTracker | None = None
        # Of an event that goes on from what another engine kept.
        self._resumed: CameraState | None = None
        self._warm_up: WarmUp | None = None
        self._loaded = self._scored = 0
        # Frames of the pending event, by their positions among those scored.
        self._reached: dict[int, Reached] = {}

    @property
    def is_unwell(self) -> bool:
        """Whether a condition that frames show, or a drift, is told of and not ended."""
        return self._health.is_pending or self._drift.is_open

    @property
    def open_conditions(self) -> list[HealthState]:
        """Conditions of the camera that are told of and not ended."""
        return self._health.open_states()

    @property
    def following(self) -> Following | None:
        """What is kept while an event is pending; None where none is."""
        return self._tracker.following if self._tracker is not None else None

    def see(self, frame: IncomingFrame, picture: npt.NDArray[np.uint8], now: float) -> None:
        """Take a frame that was followed before, by this engine or another one.

        Args:
            frame: The frame.
            picture: Its pixels, uint8 (height, width, channels).
            now: Monotonic seconds.
        """
        self.recent.append(frame.offset)
        self.last, self.heard_at = Place(frame.offset, frame.captured_at_ms), now
        self._health.see(picture)

    def take(
        self, frame: IncomingFrame, given: Profile, picture: npt.NDArray[np.uint8], score: float,
        anomaly_map: FloatArray, now: float, loaded: int = 0,
    ) -> Verdict:  # fmt: skip
        """Follow the next scored frame.

        Args:
            frame: The frame.
            given: In force for it.
            picture: Its pixels and what moved, uint8 (height, width, input_channels).
            score: Of the whole picture.
            anomaly_map: float32 of shape (rows, columns).
            now: Monotonic seconds.
            loaded: Times that what is in force was loaded anew before it.
        """
        place = Place(frame.offset, frame.captured_at_ms)
        self.last, self.heard_at = place, now
        alerts = self._take_profile(given, place, loaded)
        profile = self._in_force
        channels = profile.detector.bundle.manifest.preprocessing.channels
        told, counts = self._health.judge(
            self._scored, place, picture[..., :channels], frame.data or b"", is_suspect=score >= profile.release
        )
        # A camera with thresholds of its own is not compared with what the bundle was calibrated on.
        if self._warm_up is None:
            share, drifted = self._drift.take(place, score if counts else None)
        else:
            share, drifted = None, self._drift.close()
        told += [drifted] if drifted is not None else []
        alerts += [self._tell_health(one, frame.captured_at_ms, frame.data) for one in told]
        if profile.region is not None:
            score = score_within(anomaly_map, profile.region)
        if profile.warm_up_frames:
            counts = counts and not self._warms_up(frame, score, profile)
        alerts += self._follow(frame, score if counts else NORMAL_SCORE, anomaly_map)
        is_anomalous = counts and score >= profile.threshold
        return Verdict(score, profile.threshold, is_anomalous, counts, tuple(alerts), self._drift.is_open, share)

    def fall_silent(self, terms: Terms) -> CameraAlert | None:
        """Say that no frame came for a while; None where that is told already, or no frame ever came.

        Args:
            terms: In force for it; under those it is told of where nothing was followed yet.
        """
        told = self._health.fall_silent(self.last) if self.last is not None else None
        if told is None:
            return None
        self._terms = self._terms or terms
        patience_ms = round(self._means.health_rule.silent_seconds * 1000)
        return self._tell_health(told, told.last.captured_at_ms + patience_ms, None)

    def close(self) -> Iterator[AnyAlert]:
        """End what is told of, because the footage ends."""
        yield from self._close_health()
        yield from self._close_event()

    def state(self) -> tuple[CameraState | None, UnwellCamera | None, WarmUpState | None]:
        """What another engine needs to go on: its event, its health, its thresholds; None where that is nothing."""
        if self._terms is None:
            return None, None, self._warm_up_state()
        return self._event_state(self._terms), self._health_state(self._terms), self._warm_up_state()

    def resume_event(self, state: CameraState) -> None:
        """Go on with an event that another engine followed; to be called before the first frame."""
        event = state.following.event
        self._terms, self._resumed = state.terms, state
        # What a frame's score depends on matters for the peak alone.
        self._reached = {
            event.first: Reached(state.first, state.first.offset),
            event.last: Reached(state.last, state.last.offset),
            event.peak: Reached(state.peak, state.peak_from),
        }
        # After what goes with it: `state` may be under way for a batch from before the partition was lost.
        self._tracker = _tracker(EventRule(), state.terms.threshold, state.terms.threshold, state.following)

    def resume_health(self, state: UnwellCamera) -> None:
        """Go on with its health, and with its drift."""
        for one in state.conditions:
            if one.state == "drift":
                self._drift.resume(one)
        self._health.resume(state)
        # From here on `state` looks at its health.
        self._terms = state.terms

    def resume_warm_up(self, state: WarmUpState) -> None:
        """Go on with its warm-up, or with the thresholds that came of it."""
        self._warm_up = WarmUp(state.terms, state.seen, state.thresholds)

    @property
    def _in_force(self) -> Profile:
        assert self._profile is not None  # noqa: S101 - taken with the frame
        return self._profile

    def _take_profile(self, given: Profile, place: Place, loaded: int) -> list[AnyAlert]:
        """Go on under a profile; what was followed under other terms ends, and an event too where a warm-up begins."""
        before, self._loaded = self._loaded, loaded
        if given is self._given:
            return []
        own = given
        if not given.warm_up_frames:
            self._warm_up = None
        elif self._warm_up is None or self._warm_up.terms != given.terms:
            self._warm_up = WarmUp(given.terms)
        else:
            own = self._warm_up.profile(given)
        alerts: list[AnyAlert] = []
        at_ms, changed = place.captured_at_ms, None
        if self._terms is not None and self._terms.bundle != own.terms.bundle:
            alerts += self._close_health(at_ms)
            # A schedule's changes are no news, and another engine's were told by it or by none.
            if self._profile is not None and loaded != before:
                changed = tell_model_change(self.where, place, self._terms.bundle, own.terms.bundle)
        following = self.following
        if self._terms is not None and (self._terms != own.terms or own.warm_up_frames):
            alerts += self._close_event(at_ms)
            following = None
            self._reached.clear()
            self.peak = None
        alerts += [changed] if changed is not None else []
        self._tracker = _tracker(own.rule, own.threshold, own.release, following)
        self._look_with(own.detector)
        self._given, self._profile, self._terms, self._resumed = given, own, own.terms, None
        return alerts

    def _look_with(self, detector: BatchScorer) -> None:
        """Compare frames as a detector's bundle says."""
        before = self._profile.detector if self._profile is not None else None
        if before is detector:
            return
        self._health.scene = self._means.scene(detector)
        test = self._means.drift_test(detector)
        if self._drift.test is not test:
            # What was read back may be of another bundle, whose limits hold no more.
            self._drift = DriftWatch(test)
        most = self._health.frames_before = frames_needed(detector)
        # What was read back may be of a bundle that no frame was followed under yet.
        if self.recent.maxlen != most or (before is not None and not take_the_same(before, detector)):
            self.recent = deque(maxlen=most)

    def _warms_up(self, frame: IncomingFrame, score: float, profile: Profile) -> bool:
        """Have a frame that counts set the camera's thresholds; says whether it does so."""
        warm_up = self._warm_up
        if warm_up is None or warm_up.thresholds is not None:
            return False
        if warm_up.add(score, frame.captured_at_ms, profile):
            own = warm_up.profile(profile)
            self._profile, self._terms = own, own.terms
            self._tracker = EventTracker(own.rule, own.threshold, own.release)
            where = {"camera": frame.camera_id, "partition": frame.partition, "offset": frame.offset}
            said = {**where, "threshold": round(own.threshold, 3), "frames": profile.warm_up_frames}
            _log.info("camera has warmed up", extra=said)
        return True

    def _follow(self, frame: IncomingFrame, score: float, anomaly_map: FloatArray) -> Iterator[Alert]:
        assert self._tracker is not None  # noqa: S101 - made with the profile
        position, self._scored = self._scored, self._scored + 1
        from_offset = self.recent[0] if self.recent else frame.offset
        self.recent.append(frame.offset)
        told = self._tracker.update(position, score)
        event = told[1] if told is not None else self._tracker.pending
        if event is None:
            self._reached.clear()
            self.peak = None
            return
        self._reached[position] = Reached(Place(frame.offset, frame.captured_at_ms), from_offset)
        if event.peak == position:
            region, most = self._in_force.region, self._means.picture_max_bytes
            self.peak = Peak.of(frame.data or b"", anomaly_map, region, most)
        kept = {event.first, event.peak, event.last}
        self._reached = {place: reached for place, reached in self._reached.items() if place in kept}
        if told is not None:
            yield self._tell_event(*told, at_ms=frame.captured_at_ms)

    def _close_event(self, at_ms: int | None = None) -> Iterator[Alert]:
        """End an open event; ``at_ms`` is the capture time of the frame at which that is said, if any."""
        told = self._tracker.close() if self._tracker is not None else None
        if told is not None:
            yield self._tell_event(*told, at_ms=at_ms)

    def _close_health(self, at_ms: int | None = None) -> Iterator[CameraAlert]:
        drifted = self._drift.close()
        for one in (*self._health.close(), *([drifted] if drifted is not None else [])):
            yield self._tell_health(one, one.last.captured_at_ms if at_ms is None else at_ms, None)

    def _tell_event(self, transition: Transition, event: Event, at_ms: int | None) -> Alert:
        assert self._terms is not None  # noqa: S101 - an event was followed
        places = EventPlaces(*(self._reached[one].place for one in (event.first, event.peak, event.last)))
        return tell_event(
            self.where, transition, event, places, self._terms, self._rarity(event), self.peak,
            places.last.captured_at_ms if at_ms is None else at_ms, self._means.picture_max_bytes,
        )  # fmt: skip

    def _tell_health(self, told: Told, at_ms: int, data: bytes | None) -> CameraAlert:
        assert self._terms is not None  # noqa: S101 - something was followed
        means = self._means
        rule_version = means.drift_rule.version if told.state == "drift" else means.health_rule.version(told.state)
        most = means.picture_max_bytes
        return tell_health(self.where, told, at_ms, self._terms.bundle, rule_version, data, most)

    def _rarity(self, event: Event) -> tuple[float, Severity]:
        """How rare an event's peak is, by the profile that it is followed under, or as it was told before."""
        if self._profile is not None:
            return self._profile.rarity(event.peak_score)
        assert self._resumed is not None  # noqa: S101 - an event without a profile is one that goes on
        return self._resumed.p_value, self._resumed.severity

    def _event_state(self, terms: Terms) -> CameraState | None:
        following = self.following
        if following is None:
            return None
        event, following = following.event, following.before(self._scored)
        first, peak, last = (self._reached[position] for position in (event.first, event.peak, event.last))
        return CameraState(
            self.where.camera_id, following, first.place, peak.place, last.place, peak.from_offset, terms,
            *self._rarity(event),
        )  # fmt: skip

    def _health_state(self, terms: Terms) -> UnwellCamera | None:
        state, drift = self._health.state(self.where.camera_id, self._scored, terms), self._drift.condition()
        if drift is None:
            return state
        frames_unwell, conditions = (state.frames_unwell, state.conditions) if state is not None else (0, ())
        return UnwellCamera(self.where.camera_id, frames_unwell, (*conditions, drift), terms)

    def _warm_up_state(self) -> WarmUpState | None:
        one = self._warm_up
        return WarmUpState(self.where.camera_id, one.terms, one.kept(), one.thresholds) if one is not None else None


def frames_needed(detector: BatchScorer) -> int:
    """Frames of a camera before the next one that are kept: those that its score depends on, and one at the least.

    A frame is compared with the one before it.
    """
    manifest = detector.bundle.manifest
    return max(1, frames_before(manifest.shape.clip_frames, manifest.preprocessing))


def take_the_same(one: BatchScorer, other: BatchScorer) -> bool:
    """Whether two detectors take the same clips of the same frames."""
    if one is other:
        return True
    mine, its = one.bundle.manifest, other.bundle.manifest
    return mine.preprocessing == its.preprocessing and mine.shape.clip_frames == its.shape.clip_frames


def _tracker(rule: EventRule, threshold: float, release: float, following: Following | None) -> EventTracker:
    tracker = EventTracker(rule, threshold, release)
    if following is not None:
        tracker.resume(following)
    return tracker
