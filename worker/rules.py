"""Which events other thresholds, rules and zones would have made of recorded scores, by the rule that makes them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from contract.alert import make_event_id
from contract.event import Event, EventRule, EventTracker, rule_version
from contract.scoring import SECONDS_A_DAY, FloatArray
from worker.followed import NORMAL_SCORE
from worker.recorded_scores import ScoredFrame
from worker.state import Place
from worker.zones import Region, Zones, score_within

MAX_STREAMS: Final = 4096
"""Cameras that are followed at the most, one that sends to two partitions counted twice."""

_MAX_SHAPES: Final = 64
_SILENCE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings that are tried.

    Attributes:
        name: What they are called.
        threshold: Score from which a frame is anomalous; None for the one that each frame was recorded with.
        rule: The rule.
        release_threshold: Score below which an open event begins to end; the threshold where that is lower, or None.
        in_zones: Whether scores are those within the zones that are tried.
    """

    name: str
    threshold: float | None
    rule: EventRule
    release_threshold: float | None = None
    in_zones: bool = False

    def tracker(self, recorded_threshold: float) -> EventTracker:
        """What follows one camera's scores, as the engine would."""
        threshold = recorded_threshold if self.threshold is None else self.threshold
        release = threshold if self.release_threshold is None else min(self.release_threshold, threshold)
        return EventTracker(self.rule, threshold, release)


class WouldBeEvent(NamedTuple):
    """An event as it would have been told.

    Attributes:
        candidate: Place of its settings among those tried.
        event_id: Its id; None where the bundle is not known.
        camera_id: Whose.
        topic: Topic of frames, or the clip's name.
        partition: Partition.
        threshold: Score from which a frame was anomalous.
        first: Its first frame.
        peak: The frame of the highest score.
        last: Its last frame at or above the release threshold.
        peak_score: That score.
        is_open: Whether the scores ended, or began anew, before it did.
    """

    candidate: int
    event_id: str | None
    camera_id: str
    topic: str
    partition: int
    threshold: float
    first: Place
    peak: Place
    last: Place
    peak_score: float
    is_open: bool


@dataclass(slots=True)
class Tally:
    """What one candidate made of one camera.

    Attributes:
        threshold: Score from which a frame was anomalous, the latest.
        events: Events, those still open included.
        open_events: Those still open.
        longest_seconds: From the first to the last frame of the longest event.
        highest_peak: Highest peak of an event; None where there is none.
    """

    threshold: float
    events: int = 0
    open_events: int = 0
    longest_seconds: float = 0.0
    highest_peak: float | None = None

    def add(self, event: WouldBeEvent) -> None:
        """Count an event."""
        self.events += 1
        self.open_events += event.is_open
        seconds = (event.last.captured_at_ms - event.first.captured_at_ms) / 1000
        self.longest_seconds = max(self.longest_seconds, seconds)
        is_higher = self.highest_peak is None or event.peak_score > self.highest_peak
        self.highest_peak = event.peak_score if is_higher else self.highest_peak


@dataclass(slots=True)
class CameraTally:
    """What became of one camera.

    Attributes:
        frames: Frames that were replayed.
        watched_ms: Time between them, each silence counted as a minute at the most.
        tallies: One a candidate.
    """

    frames: int
    watched_ms: int
    tallies: list[Tally]

    def events_a_day(self, tally: Tally) -> float | None:
        """Events a day; None where there is no time between frames."""
        return tally.events * SECONDS_A_DAY * 1000 / self.watched_ms if self.watched_ms else None


@dataclass(slots=True)
class _Follower:
    """Follows one camera by one candidate, and where its pending event's frames stand."""

    tracker: EventTracker
    reached: dict[int, Place] = field(default_factory=dict)

    def take(self, position: int, place: Place, score: float) -> Event | None:
        """The event that ended, if one did; otherwise its frames are kept."""
        told = self.tracker.update(position, score)
        if told is not None and told[0] == "ended":
            return told[1]
        event = self.tracker.pending
        if event is None:
            self.reached.clear()
            return None
        self.reached[position] = place
        kept = {event.first, event.peak, event.last}
        self.reached = {one: at for one, at in self.reached.items() if one in kept}
        return None


@dataclass(slots=True)
class _Stream:
    """One camera's frames on one partition."""

    camera_id: str
    topic: str
    partition: int
    camera: CameraTally
    followers: list[_Follower]
    recorded_threshold: float
    lowest_threshold: float
    offset: int = -1
    latest_ms: int = -1
    position: int = 0
    is_pending: bool = False
    region: Region | None = None


class Replay:
    """Feeds recorded scores, a camera's in their order, to the rule under several settings at once.

    As the engine does, it follows each camera on each partition for itself, counts positions by scored frames, and
    takes a frame that does not count for a normal one. It keeps a few numbers a camera and candidate, and no score.

    Args:
        candidates: What is tried.
        zones: Where anomalies count for candidates that ask for it; frames then need their maps.
        bundle_digest: Of the bundle that scored, for the events' ids.
        on_score: Told each frame that counts in, and its score, within the zones where there are any.

    Attributes:
        cameras: What became of each camera, by its id.
        passed_over: Frames that were not replayed, by a short reason.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        *,
        zones: Zones | None = None,
        bundle_digest: str | None = None,
        on_score: Callable[[ScoredFrame, float], None] | None = None,
    ) -> None:
        self.candidates = tuple(candidates)
        self.cameras: dict[str, CameraTally] = {}
        self.passed_over: Counter[str] = Counter()
        self._zones = zones
        self._digest = bundle_digest
        self._on_score = on_score
        self._streams: dict[tuple[str, str, int], _Stream] = {}
        self._regions: dict[tuple[int, ...], Region | None] = {}

    def take(self, frame: ScoredFrame) -> list[WouldBeEvent]:
        """Take the next frame, and say which events ended with it.

        A frame that was recorded again, as after a crash, is passed over. One that comes later from an earlier offset
        is of a topic that was made anew; then, as at a gap in a file, what was open ends there.
        """
        score = frame.score if self._zones is None else self._score_in_zones(frame)
        stream = self._stream(frame) if score is not None else None
        if score is None or stream is None:
            return []
        ended: list[WouldBeEvent] = []
        if frame.begins_anew or (frame.offset <= stream.offset and frame.captured_at_ms > stream.latest_ms):
            ended += self._end(stream)
        elif frame.offset <= stream.offset:
            self.passed_over["recorded again"] += 1
            return []
        else:
            stream.camera.watched_ms += _between_ms(stream.latest_ms, frame.captured_at_ms)
        stream.offset, stream.latest_ms = frame.offset, max(stream.latest_ms, frame.captured_at_ms)
        if frame.threshold != stream.recorded_threshold:
            ended += self._change_threshold(stream, frame)
        stream.camera.frames += 1
        if self._zones is not None and frame.anomaly_map is not None:
            stream.region = self._region(frame.anomaly_map)
        if self._on_score is not None:
            self._on_score(frame, score)
        recorded, tried = (frame.score, score) if frame.counts else (NORMAL_SCORE, NORMAL_SCORE)
        return ended + self._follow(stream, frame, recorded, tried)

    def close(self) -> list[WouldBeEvent]:
        """Say which events are open at the end."""
        return [event for stream in self._streams.values() for event in self._end(stream)]

    def _stream(self, frame: ScoredFrame) -> _Stream | None:
        key = frame.camera_id, frame.topic, frame.partition
        stream = self._streams.get(key)
        if stream is None:
            if len(self._streams) >= MAX_STREAMS:
                self.passed_over[f"of cameras after the first {MAX_STREAMS}"] += 1
                return None
            trackers = [one.tracker(frame.threshold) for one in self.candidates]
            camera = self.cameras.setdefault(
                frame.camera_id, CameraTally(0, 0, [Tally(one.threshold) for one in trackers])
            )
            lowest = min(one.threshold for one in trackers)
            stream = _Stream(*key, camera, [_Follower(one) for one in trackers], frame.threshold, lowest)
            self._streams[key] = stream
        return stream

    def _follow(self, stream: _Stream, frame: ScoredFrame, recorded: float, tried: float) -> list[WouldBeEvent]:
        position, stream.position = stream.position, stream.position + 1
        # While nothing is pending, a score below every threshold changes no tracker: so it is with most frames.
        if not stream.is_pending and recorded < stream.lowest_threshold and tried < stream.lowest_threshold:
            return []
        place = Place(frame.offset, frame.captured_at_ms)
        ended = []
        for number, (candidate, follower) in enumerate(zip(self.candidates, stream.followers, strict=True)):
            event = follower.take(position, place, tried if candidate.in_zones else recorded)
            if event is not None:
                ended.append(self._told(stream, number, event, is_open=False))
        stream.is_pending = any(one.tracker.pending is not None for one in stream.followers)
        return ended

    def _end(self, stream: _Stream) -> list[WouldBeEvent]:
        """End what is open and follow the stream's next frames as a new camera's."""
        ended = [event for number in range(len(self.candidates)) for event in self._end_one(stream, number)]
        stream.latest_ms, stream.is_pending = -1, False
        return ended

    def _end_one(self, stream: _Stream, number: int) -> list[WouldBeEvent]:
        follower = stream.followers[number]
        told = follower.tracker.close()
        ended = [self._told(stream, number, told[1], is_open=True)] if told is not None else []
        follower.reached.clear()
        return ended

    def _change_threshold(self, stream: _Stream, frame: ScoredFrame) -> list[WouldBeEvent]:
        """Begin anew what follows the recorded threshold: a worker with another one begins its events anew."""
        ended = []
        for number, candidate in enumerate(self.candidates):
            if candidate.threshold is None:
                ended += self._end_one(stream, number)
                stream.followers[number] = _Follower(candidate.tracker(frame.threshold))
                stream.camera.tallies[number].threshold = frame.threshold
        stream.recorded_threshold = frame.threshold
        stream.lowest_threshold = min(one.tracker.threshold for one in stream.followers)
        return ended

    def _told(self, stream: _Stream, number: int, event: Event, *, is_open: bool) -> WouldBeEvent:
        follower = stream.followers[number]
        tracker = follower.tracker
        first, peak, last = (follower.reached[one] for one in (event.first, event.peak, event.last))
        event_id = None
        if self._digest is not None:
            region = stream.region.tobytes() if self.candidates[number].in_zones and stream.region is not None else b""
            version = rule_version(tracker.rule, tracker.threshold, tracker.release_threshold, region)
            event_id = make_event_id(
                stream.topic, stream.partition, first.offset, stream.camera_id, self._digest, version
            )  # fmt: skip
        told = WouldBeEvent(
            number, event_id, stream.camera_id, stream.topic, stream.partition, tracker.threshold, first, peak, last,
            event.peak_score, is_open,
        )  # fmt: skip
        stream.camera.tallies[number].add(told)
        return told

    def _score_in_zones(self, frame: ScoredFrame) -> float | None:
        """The score within the zones; None where there is no map, or no place in it that counts."""
        if frame.anomaly_map is None:
            self.passed_over["without a map"] += 1
            return None
        try:
            region = self._region(frame.anomaly_map)
        except ValueError:
            self.passed_over["with a map in which the zones leave no place"] += 1
            return None
        highest = float(frame.anomaly_map.max()) if region is None else score_within(frame.anomaly_map, region)
        # The map is rounded, the recorded score is not: where they are of the same place, it counts.
        return frame.score if np.float16(frame.score) == highest else highest

    def _region(self, anomaly_map: FloatArray) -> Region | None:
        rows, columns = anomaly_map.shape
        if (rows, columns) not in self._regions:
            if len(self._regions) >= _MAX_SHAPES:
                self._regions.clear()
            assert self._zones is not None  # noqa: S101 - asked for where there are zones
            self._regions[rows, columns] = self._zones.region((rows, columns))
        return self._regions[rows, columns]


def _between_ms(before_ms: int, at_ms: int) -> int:
    return min(max(at_ms - before_ms, 0), _SILENCE_MS) if before_ms >= 0 else 0
