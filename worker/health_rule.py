"""When a camera counts as unwell."""

from typing import Final

from pydantic import Field

from contract.alert import HealthState
from contract.event import EventRule, rule_version
from contract.settings import FrozenModel

_NEVER: Final = 100.0


class HealthRule(FrozenModel):
    """When a camera counts as unwell."""

    enabled: bool = True
    """Whether cameras are looked after at all."""

    min_frames: int = Field(default=8, ge=1, le=10_000)
    """Frames from the first unwell one to that from which it is told."""

    gap_frames: int = Field(default=16, ge=0, le=100_000)
    """Frames that are well which an unwell stretch outlasts."""

    frozen_frames: int = Field(default=100, ge=2, le=1_000_000)
    """Equal frames from which a camera is frozen."""

    look_every: int = Field(default=8, ge=1, le=1000)
    """Of so many frames one is looked at, besides those whose scores are high."""

    colour_every: int = Field(default=64, ge=1, le=10_000)
    """Of so many frames one is looked at for colours, which infrared light has not."""

    silent_seconds: float = Field(default=60, ge=0, le=86_400)
    """Time without a frame, of a camera whose topic is read to its end, from which it is silent; 0 for never."""

    def of(self, state: HealthState) -> EventRule:
        """The rule that makes events of one condition."""
        least = self.frozen_frames if state == "frozen" else self.min_frames
        gap = 0 if state == "frozen" else self.gap_frames
        return EventRule(min_frames=least, gap_frames=gap, update_rise=_NEVER)

    def version(self, state: HealthState) -> str:
        """Name what tells of one condition, by a digest of what is in force."""
        every = {"infrared": self.colour_every, "silent": self.silent_seconds}.get(state, self.look_every)
        return f"{rule_version(self.of(state), every, 0.0)}-{state}"

    def is_due(self, offset: int, every: int) -> bool:
        """Whether a frame is one of so many; by its offset, so that a replay looks at the same ones.

        Offsets are spread: those of a camera may have a step in common.
        """
        return offset * 2_654_435_761 % 2**32 * every < 2**32
