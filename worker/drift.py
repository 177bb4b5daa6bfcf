"""Whether one camera's world changed for good, as it is told and kept.

What is told of travels with the committed offset as a condition of the camera; the window of blocks does not. So
whoever goes on from there tells no drift a second time, and ends it once a window of its own has come.
"""

from contract.drift import DriftTest
from contract.drift_tracker import DriftTracker
from worker.camera_health import Told
from worker.state import FollowedCondition, Place


class DriftWatch:
    """Follows one camera's drift.

    Args:
        test: The limits; None where drift is not looked for. What was told of before then ends.
    """

    def __init__(self, test: DriftTest | None) -> None:
        self._test = test
        self._tracker = DriftTracker(test) if test is not None else None
        # First and last frame of a drift that is told of.
        self._told: tuple[Place, Place] | None = None

    @property
    def test(self) -> DriftTest | None:
        """The limits."""
        return self._test

    @property
    def is_open(self) -> bool:
        """Whether a drift is told of and not ended."""
        return self._told is not None

    def take(self, place: Place, score: float | None) -> tuple[float | None, Told | None]:
        """Take the next frame.

        Args:
            place: Where it stands.
            score: Of the whole picture; None where it does not count.

        Returns:
            Share of the window that lies beyond a limit, 0..1, where a block ended; and what is to be told.
        """
        if self._tracker is None:
            return None, self.close()
        look = self._tracker.update(place, score)
        if look is None:
            return None, None
        if look.transition == "ended":
            return look.drift.share, self.close()
        first = self._told[0] if self._told is not None else Place(*look.drift.first)
        if look.is_open and (self._told is None or look.lasts):
            self._told = first, Place(*look.last)
        told = Told("started", "drift", *self._told, look.drift) if look.transition and self._told else None
        return look.drift.share, told

    def close(self) -> Told | None:
        """End what is told of; None where nothing is."""
        told, self._told = self._told, None
        return Told("ended", "drift", *told) if told is not None else None

    def condition(self) -> FollowedCondition | None:
        """What another one needs to go on; None where that is nothing."""
        return FollowedCondition("drift", True, -1, -1, *self._told) if self._told is not None else None

    def resume(self, condition: FollowedCondition) -> None:
        """Go on with a drift that another one told of; to be called before the first frame."""
        self._told = condition.first, condition.last
        if self._test is not None:
            self._tracker = DriftTracker(self._test, is_open=True)
