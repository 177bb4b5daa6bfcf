"""A camera's health, apart from what it sees: black, overexposed, covered, turned away, frozen, infrared, silent.

A frame that shows no more than that its camera is unwell says nothing of the scene, and neither do those after it whose
scores depend on it: for events they count as normal ones. Infrared light shows the scene still, and its frames count.
Each condition is followed as an event of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from contract.alert import HealthState
from contract.drift_tracker import Drift
from contract.event import EventTracker, Transition
from contract.scene import Condition, Scene
from worker.health_rule import HealthRule
from worker.profile import Terms
from worker.state import FollowedCondition, Place, UnwellCamera

_SEEN: Final[tuple[HealthState, ...]] = get_args(Condition)
_SHOWS_NOTHING: Final = ("black", "overexposed", "covered")
_THERE: Final = 0.5


class Told(NamedTuple):
    """What became of a condition.

    Attributes:
        transition: ``started`` or ``ended``.
        state: Which condition.
        first: Where it began.
        last: Where it was last seen.
        drift: How scores differ, where that began.
    """

    transition: Transition
    state: HealthState
    first: Place
    last: Place
    drift: Drift | None = None


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
    # The last frame before it fell silent.
    _silent: Place | None = None

    @property
    def is_pending(self) -> bool:
        """Whether a condition that frames show is told of and not ended."""
        return any(state != "silent" for state in self.open_states())

    def open_states(self) -> list[HealthState]:
        """Conditions that are told of and not ended, silence among them."""
        # A copy: another thread judges.
        following = [(state, one.tracker.following) for state, one in list(self._followed.items())]
        shown: list[HealthState] = [state for state, one in following if one is not None and one.is_open]
        return [*shown, "silent"] if self._silent is not None else shown

    def see(self, picture: npt.NDArray[np.uint8]) -> None:
        """Take a frame that was judged before; the next one is compared with it."""
        self._previous = picture

    def fall_silent(self, last: Place) -> Told | None:
        """Note that no frame came for a while after the last one; None where that is told already."""
        if self._silent is not None or not self.rule.enabled:
            return None
        self._silent = last
        return Told("started", "silent", last, last)

    def judge(
        self, position: int, place: Place, picture: npt.NDArray[np.uint8], data: bytes, *, is_suspect: bool
    ) -> tuple[list[Told], bool]:
        """Judge the next frame.

        Args:
            position: Of it.
            place: Where it stands.
            picture: Its pixels, uint8 (height, width, channels).
            data: The frame as it came.
            is_suspect: Whether its score is high.

        Returns:
            What is to be told, and whether the frame's score counts for events.
        """
        if not self.rule.enabled:
            return [], True
        previous, self._previous = self._previous, picture
        is_equal = previous is not None and np.array_equal(previous, picture)
        there: dict[HealthState, bool] = {"frozen": is_equal}
        scene, rule = self.scene, self.rule
        looks_for_colour = scene is not None and scene.is_coloured and rule.is_due(place.offset, rule.colour_every)
        if scene is not None and (is_suspect or looks_for_colour or rule.is_due(place.offset, rule.look_every)):
            condition = scene.condition(picture)
            there |= {state: condition == state for state in _SEEN}
            if condition is not None:
                self._unwell_until = position + self.frames_before
            if looks_for_colour:
                there["infrared"] = condition not in _SHOWS_NOTHING and scene.has_lost_colours(data)
        heard = Told("ended", "silent", self._silent, place) if self._silent is not None else None
        self._silent = None
        told = [heard, *(self._follow(state, position, place, there=is_there) for state, is_there in there.items())]
        return [one for one in told if one is not None], position > self._unwell_until

    def close(self) -> Iterator[Told]:
        """End what is told of, because the footage ends."""
        for state, one in self._followed.items():
            if one.tracker.close() is not None:
                yield Told("ended", state, one.first, one.last)
        self._followed.clear()
        if self._silent is not None:
            yield Told("ended", "silent", self._silent, self._silent)
            self._silent = None

    def state(self, camera_id: str, position: int, terms: Terms) -> UnwellCamera | None:
        """What another one needs to go on, the camera's next frame being at a position; None where that is nothing."""
        conditions = []
        for state, one in self._followed.items():
            following = one.tracker.following
            if following is not None:
                event = following.event
                places = event.first - position, event.last - position
                conditions.append(FollowedCondition(state, following.is_open, *places, one.first, one.last))
        if self._silent is not None:
            conditions.append(FollowedCondition("silent", True, -1, -1, self._silent, self._silent))
        frames_unwell = max(0, self._unwell_until - position + 1)
        return UnwellCamera(camera_id, frames_unwell, tuple(conditions), terms) if conditions or frames_unwell else None

    def resume(self, state: UnwellCamera) -> None:
        """Go on from where another one was, the next frame at position 0."""
        for one in state.conditions:
            if one.state == "silent":
                self._silent = one.first
            if one.state in ("silent", "drift"):
                continue
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
