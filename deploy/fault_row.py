"""What a row of the fault matrix is, and what it works on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.broker import LocalBroker
from deploy.fault_scene import Scene


@dataclass(frozen=True)
class Row:
    """One fault as it was injected.

    Attributes:
        fault: What was done.
        injected: How many times.
        holds: Whether what must hold did.
        frames: On the frames topic.
        missing: See `deploy.fault_scene.Verified`.
        repeated: See there.
        different: See there.
        recovered_seconds: From the last fault until more was committed; None where nothing is to recover.
        seen: What else was seen.
    """

    fault: str
    injected: int
    holds: bool
    frames: int = 0
    missing: int = 0
    repeated: int = 0
    different: int = 0
    recovered_seconds: float | None = None
    seen: str = ""


@dataclass(frozen=True)
class Stage:
    """What rows are run on.

    Attributes:
        broker: That all rows share which do not harm it.
        folder: For settings and logs.
        bundle: A small model of a clip of three frames and their motion.
        threshold: Such that a tenth of the frames are anomalous.
        encoded: JPEG frames of the room.
        short: Whether each fault is injected few times over few frames.
    """

    broker: LocalBroker
    folder: Path
    bundle: Path
    threshold: float
    encoded: list[bytes]
    short: bool

    def scene(self, *, exactly_once: bool = False, **changes: Any) -> Scene:  # noqa: ANN401
        """A row's own topics."""
        broker = changes.pop("broker", self.broker)
        return Scene(broker, self.folder, self.bundle, self.threshold, self.encoded, exactly_once, **changes)

    def of(self, full: int, short: int) -> int:
        """A number for the full form or the short one."""
        return short if self.short else full


def checked(
    scene: Scene, fault: str, injected: int, recovered: float | None, *, holds: bool = True, seen: str = ""
) -> Row:
    """The row of a scene, with what the verifier finds in it.

    Args:
        scene: The scene.
        fault: What was done.
        injected: How many times.
        recovered: See `Row`.
        holds: Whether what else must hold did.
        seen: See `Row`.
    """
    found = scene.verify()
    good = holds and not (found.missing or found.repeated or found.different)
    return Row(fault, injected, good, found.frames, found.missing, found.repeated, found.different, recovered, seen)


Fault = Callable[[Stage], Row]
