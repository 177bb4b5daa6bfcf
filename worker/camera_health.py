"""A camera's health, apart from what it sees: black, overexposed, covered, turned away, frozen.

A frame that shows no more than that its camera is unwell says nothing of the scene, and neither do those after it whose
scores depend on it: for events they count as normal ones. Each condition is followed as an event of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from contract.alert import HealthState
from contract.event import EventTracker, Transition
from contract.scene import Scene
from worker.health_rule import HealthRule
from worker.profile import Terms
from worker.state import Condition, Place, UnwellCamera

STATES: Final[tuple[HealthState, ...]] = get_args(HealthState)
_THERE: Final = 0.5


class Told(NamedTuple):
    """What became of a condition.

    Attributes:
        transition: ``started`` or ``ended``.
        state: Which condition.
        first: Where it began.
        last: Where it was last seen.
    """

    transition: Transition
    state: HealthState
    first: Place
    last: Place


@dataclass(slots=True)
class _Followed:
    tracker: EventTracker
    first: Place
    last: Place


@dataclass(slots=True)
class CameraHealth:
    """Follows one camera; positions count its scored frames.

    Args:
        rule: The rule.
        scene: What it usually shows; None where that is not known: only equal frames tell then.
        frames_before: Frames before one that its score depends on.
    """

    rule: HealthRule
    scene: Scene | None
    frames_before: int
    _followed: dict[HealthState, _Followed] = field(default_factory=dict)
    _unwell_until: int = -1
    _previous: npt.NDArray[np.uint8] | None = None

    @property
    def is_pending(self) -> bool:
        """Whether a condition is told of and not ended."""
        following = (one.tracker.following for one in self._followed.values())
        return any(one is not None and one.is_open for one in following)

    def see(self, picture: npt.NDArray[np.uint8]) -> None:
        """Take a frame that was judged before; the next one is compared with it."""
        self._previous = picture

    def judge(
        self, position: int, place: Place, picture: npt.NDArray[np.uint8], *, is_suspect: bool
    ) -> tuple[list[Told], bool]:
        """Judge the next frame.

        Args:
            position: Of it.
            place: Where it stands.
            picture: Its pixels, uint8 (height, width, channels).
            is_suspect: Whether its score is high.

        Returns:
            What is to be told, and whether the frame's score counts for events.
        """
        if not self.rule.enabled:
            return [], True
        previous, self._previous = self._previous, picture
        is_equal = previous is not None and np.array_equal(previous, picture)
        looks = self.scene is not None and (is_suspect or self.rule.is_due(place.offset))
        condition = self.scene.condition(picture) if looks and self.scene is not None else None
        if condition is not None:
            self._unwell_until = position + self.frames_before
        told = []
        for state in STATES:
            if state == "frozen" or looks:
                there = is_equal if state == "frozen" else condition == state
                one = self._follow(state, position, place, there=there)
                told += [one] if one is not None else []
        return told, position > self._unwell_until

    def close(self) -> Iterator[Told]:
        """End what is told of, because the footage ends."""
        for state, one in self._followed.items():
            if one.tracker.close() is not None:
                yield Told("ended", state, one.first, one.last)
        self._followed.clear()

    def state(self, camera_id: str, position: int, terms: Terms) -> UnwellCamera | None:
        """What another one needs to go on, the camera's next frame being at a position; None where that is nothing."""
        conditions = []
        for state, one in self._followed.items():
            following = one.tracker.following
            if following is not None:
                event = following.event
                places = event.first - position, event.last - position
                conditions.append(Condition(state, following.is_open, *places, one.first, one.last))
        frames_unwell = max(0, self._unwell_until - position + 1)
        return UnwellCamera(camera_id, frames_unwell, tuple(conditions), terms) if conditions or frames_unwell else None

    def resume(self, state: UnwellCamera) -> None:
        """Go on from where another one was, the next frame at position 0."""
        for one in state.conditions:
            tracker = self._tracker(one.state)
            tracker.resume(one.following)
            self._followed[one.state] = _Followed(tracker, one.first, one.last)
        self._unwell_until = state.frames_unwell - 1

    def _follow(self, state: HealthState, position: int, place: Place, *, there: bool) -> Told | None:
        one = self._followed.get(state)
        if one is None:
            if not there:
                return None
            one = self._followed[state] = _Followed(self._tracker(state), place, place)
        if there:
            one.last = place
        transition = one.tracker.update(position, 1.0 if there else 0.0)
        if one.tracker.pending is None:
            del self._followed[state]
        if transition is None:
            return None
        if transition[0] == "ended" and state == "frozen":
            # What comes after a stretch of equal frames is compared with them.
            self._unwell_until = max(self._unwell_until, position - 1 + self.frames_before)
        return Told(transition[0], state, one.first, one.last)

    def _tracker(self, state: HealthState) -> EventTracker:
        return EventTracker(self.rule.of(state), _THERE, _THERE)
