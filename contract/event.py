"""When a stretch of scores is one event: a causal rule, the same live, offline and in evaluation."""

import hashlib
from dataclasses import dataclass, field
from typing import Final, Literal

from pydantic import Field

from contract.settings import FrozenModel

RULE_VERSION: Final = "1"
"""Changes whenever the same scores, rule and thresholds would give other events."""

Transition = Literal["started", "updated", "ended"]


class EventRule(FrozenModel):
    """How anomalous frames become events."""

    min_frames: int = Field(default=4, ge=1, le=10_000)
    """Consecutive anomalous frames from which an event starts."""

    gap_frames: int = Field(default=12, ge=0, le=100_000)
    """Frames below the release threshold that an event outlasts."""

    update_rise: float = Field(default=0.25, gt=0, le=100)
    """Rise of the peak score, since it was last told, that is worth an update."""

    update_frames: int = Field(default=25, ge=1, le=1_000_000)
    """Frames that must pass between two updates."""


class EventRuleChanges(FrozenModel):
    """What is to differ from a rule for events; a field that is not set stays as it is there."""

    min_frames: int | None = Field(default=None, ge=1, le=10_000)
    """Consecutive anomalous frames from which an event starts."""

    gap_frames: int | None = Field(default=None, ge=0, le=100_000)
    """Frames below the release threshold that an event outlasts."""

    update_rise: float | None = Field(default=None, gt=0, le=100)
    """Rise of the peak score, since it was last told, that is worth an update."""

    update_frames: int | None = Field(default=None, ge=1, le=1_000_000)
    """Frames that must pass between two updates."""

    def over(self, rule: EventRule) -> EventRule:
        """The rule with these changes."""
        return EventRule(**{**rule.model_dump(), **self.model_dump(exclude_none=True)})


def rule_version(rule: EventRule, threshold: float, release_threshold: float, region: bytes = b"") -> str:
    """Name what makes events of scores, such as ``1-0f3a9c21``: the code's version and a digest of what is in force.

    Args:
        rule: The rule.
        threshold: Score from which a frame is anomalous.
        release_threshold: Score below which an open event begins to end.
        region: Cells of the map that count, a byte each; empty where all do.
    """
    text = f"{rule.model_dump_json()} {threshold!r} {release_threshold!r}{region.hex()}"
    return f"{RULE_VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Event:
    """A stretch of anomalous frames of one camera; positions count the camera's scored frames.

    Attributes:
        first: Position of the first anomalous frame.
        last: Position of the last frame at or above the release threshold so far.
        peak: Position of the highest score so far.
        peak_score: That score.
        updates: Updates told so far.
    """

    first: int
    last: int
    peak: int
    peak_score: float
    updates: int = 0


@dataclass(frozen=True, slots=True)
class Following:
    """All that a tracker keeps while an event is pending.

    Attributes:
        event: The open event, or the stretch that may become one.
        is_open: Which of the two.
        told_score: Peak score when the event was last told of.
        told_at: Position of the frame then.
    """

    event: Event
    is_open: bool
    told_score: float
    told_at: int

    def before(self, position: int) -> "Following":
        """The same with positions counted from another one."""
        one = self.event
        event = Event(one.first - position, one.last - position, one.peak - position, one.peak_score, one.updates)
        return Following(event, self.is_open, self.told_score, self.told_at - position)


@dataclass(slots=True)
class EventTracker:
    """Follows one camera's scores and says when an event starts, rises and ends.

    Feed every frame once, in order of capture. It keeps a few numbers and no frame.

    Attributes:
        rule: The rule.
        threshold: Score from which a frame is anomalous.
        release_threshold: Score below which an open event begins to end.
    """

    rule: EventRule
    threshold: float
    release_threshold: float
    _candidate: Event | None = field(default=None, init=False)
    _open: Event | None = field(default=None, init=False)
    _told_score: float = field(default=0.0, init=False)
    _told_at: int = field(default=0, init=False)

    @property
    def pending(self) -> Event | None:
        """The open event, or the stretch that may become one."""
        return self._open or self._candidate

    @property
    def following(self) -> Following | None:
        """What another tracker needs to go on from here; None where no event is pending."""
        event = self.pending
        return Following(event, self._open is not None, self._told_score, self._told_at) if event else None

    def resume(self, following: Following) -> None:
        """Go on from where another tracker was; to be called before the first frame."""
        self._open, self._candidate = (following.event, None) if following.is_open else (None, following.event)
        self._told_score, self._told_at = following.told_score, following.told_at

    def update(self, position: int, score: float) -> tuple[Transition, Event] | None:
        """Take the next frame's score.

        Args:
            position: The frame's place among the camera's frames; must rise.
            score: Its anomaly score.

        Returns:
            What happened and the event as it now stands, or None.
        """
        if self._open is None:
            return self._watch(position, score)
        return self._follow(self._open, position, score)

    def close(self) -> tuple[Transition, Event] | None:
        """End the open event because the footage ends."""
        event, self._open, self._candidate = self._open, None, None
        return ("ended", event) if event else None

    def _watch(self, position: int, score: float) -> tuple[Transition, Event] | None:
        if score < self.threshold:
            self._candidate = None
            return None
        event = self._candidate or Event(position, position, position, score)
        self._candidate = event = _extended(event, position, score)
        if position - event.first + 1 < self.rule.min_frames:
            return None
        self._open, self._candidate = event, None
        self._told_score, self._told_at = event.peak_score, position
        return "started", event

    def _follow(self, event: Event, position: int, score: float) -> tuple[Transition, Event] | None:
        if score >= self.release_threshold:
            event = self._open = _extended(event, position, score)
        elif position - event.last > self.rule.gap_frames:
            self._open = None
            return "ended", event
        rose = event.peak_score - self._told_score >= self.rule.update_rise
        if rose and position - self._told_at >= self.rule.update_frames:
            event = Event(event.first, event.last, event.peak, event.peak_score, event.updates + 1)
            self._open, self._told_score, self._told_at = event, event.peak_score, position
            return "updated", event
        return None


def _extended(event: Event, position: int, score: float) -> Event:
    higher = score > event.peak_score
    return Event(event.first, position, position if higher else event.peak, max(score, event.peak_score), event.updates)
