"""What is kept of a partition's cameras so that another worker goes on where one ended; see `worker.state_text`."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from contract.alert import HealthState
from contract.event import Event, Following
from contract.scoring import Severity
from worker.profile import Terms
from worker.warm_up import Seen, Thresholds

AHEAD_OFFSETS: Final = 2048
"""Offsets from the committed one on among which frames may be finished."""


class Place(NamedTuple):
    """Where a frame stands.

    Attributes:
        offset: Of its record.
        captured_at_ms: Capture time, ms since 1970.
    """

    offset: int
    captured_at_ms: int


@dataclass(frozen=True, slots=True)
class CameraState:
    """A camera with an event pending; positions count its scored frames, the next of which is at 0.

    Attributes:
        camera_id: Whose it is.
        following: What its tracker keeps.
        first: Where the event began.
        peak: Where its highest score is.
        last: Its last anomalous frame.
        peak_from: Offset of the earliest frame that the score of the peak depends on.
        terms: Under which it is told.
        p_value: Probability that a normal frame scores as high as the peak, 0..1.
        severity: How much rarer than the threshold that is.
    """

    camera_id: str
    following: Following
    first: Place
    peak: Place
    last: Place
    peak_from: int
    terms: Terms
    p_value: float
    severity: Severity


@dataclass(frozen=True, slots=True)
class FollowedCondition:
    """A condition of a camera that is followed; positions count its scored frames, the next of which is at 0.

    Attributes:
        state: Which.
        is_open: Whether it is told of.
        first_position: Of its first frame.
        last_position: Of the last one so far.
        first: Where the first stands.
        last: Where the last stands.
    """

    state: HealthState
    is_open: bool
    first_position: int
    last_position: int
    first: Place
    last: Place

    @property
    def following(self) -> Following:
        """What its tracker keeps."""
        event = Event(self.first_position, self.last_position, self.first_position, 1.0)
        return Following(event, self.is_open, 1.0, self.first_position)


@dataclass(frozen=True, slots=True)
class UnwellCamera:
    """A camera whose health is followed.

    Attributes:
        camera_id: Whose it is.
        frames_unwell: Next frames whose scores do not count because of what was before.
        conditions: What is wrong.
        terms: In force for it.
    """

    camera_id: str
    frames_unwell: int
    conditions: tuple[FollowedCondition, ...]
    terms: Terms


@dataclass(frozen=True, slots=True)
class WarmUpState:
    """A camera whose thresholds are its own, or will be.

    Attributes:
        camera_id: Whose they are.
        terms: Of the profile that they are for.
        seen: What is kept of its first frames; empty once they are over.
        thresholds: What came of them; None before.
    """

    camera_id: str
    terms: Terms
    seen: Seen
    thresholds: Thresholds | None


@dataclass(frozen=True, slots=True)
class PartitionState:
    """What is kept of one partition.

    Attributes:
        read_from: Offset of the earliest frame that the next frames' clips depend on.
        cameras: Those with an event pending.
        unwell: Those whose health is followed.
        warm_ups: Those with thresholds of their own.
        ahead: Offsets from the committed one on that are finished.
    """

    read_from: int
    cameras: tuple[CameraState, ...] = ()
    unwell: tuple[UnwellCamera, ...] = ()
    warm_ups: tuple[WarmUpState, ...] = ()
    ahead: frozenset[int] = frozenset()
