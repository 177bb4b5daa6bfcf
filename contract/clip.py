"""What every source of footage gives: clips of encoded frames."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One encoded frame of a clip.

    Attributes:
        index: 0-based place in the clip, counted before any range is taken out.
        captured_at_ms: Capture time, milliseconds; since the clip's start for files, since 1970 for Kafka and cameras.
        data: The JPEG or PNG.
    """

    index: int
    captured_at_ms: int
    data: bytes


class Clip(ABC):
    """A stretch of one camera's frames in order of capture.

    Attributes:
        name: Unique within its source; the file's or folder's name without its suffix.
        live: Whether the clip has no end of its own.
    """

    name: str
    live: bool = False

    @abstractmethod
    def frames(self) -> Iterator[SourceFrame]:
        """Read the clip from its start; may be called again for files and Kafka ranges.

        Raises:
            FootageError: Frames could not be read; those yielded before stand.
        """
