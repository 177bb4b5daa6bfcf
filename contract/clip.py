"""What every source of footage gives: clips of encoded frames."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from contract.errors import ConfigError


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
        name: Unique within its source; the file's or folder's name without its suffix, ``FOLDER/STEM`` for a video of a
            folder within the source.
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


def require_end(clips: Sequence[Clip]) -> None:
    """Refuse cameras of which no frame range is asked for, before any work that needs the end of the footage.

    Raises:
        ConfigError: A clip goes on for ever.
    """
    for clip in clips:
        if clip.live and not getattr(clip, "ranges", ()):
            raise ConfigError(f"SOURCE {clip.name} has no end; say how many frames to take, such as #0:2999")
