"""The clip that goes with each frame: the frame itself, last, and the frames before it."""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from contract.frame import FLOW_FRAMES, Frame, Preprocessing
from contract.motion import MotionChannels


def frames_before(clip_frames: int, preprocessing: Preprocessing) -> int:
    """Number of a camera's frames before the next one that its clip depends on."""
    return clip_frames - 1 + (0 if preprocessing.motion == "none" else FLOW_FRAMES)


class ClipWindow:
    """Keeps one camera's last frames; the first frame stands in for those before it.

    Args:
        clip_frames: Frames in a clip, T.
        preprocessing: Says what is computed from the frames and added to them.
    """

    def __init__(self, clip_frames: int, preprocessing: Preprocessing) -> None:
        self._frames: deque[npt.NDArray[np.uint8]] = deque(maxlen=clip_frames)
        self._clip_frames = clip_frames
        self._motion = MotionChannels(preprocessing)

    def push(self, frame: Frame) -> npt.NDArray[np.uint8]:
        """Add the next frame and return its clip.

        Args:
            frame: uint8 of shape (height, width, channels).

        Returns:
            uint8 of shape (clip_frames, height, width, input_channels), oldest first.
        """
        clip = self.take(frame)
        clip.measure()
        return np.stack(clip.frames)

    def take(self, frame: Frame) -> "ComingClip":
        """Add the next frame and leave its motion to be measured later, by any thread.

        Args:
            frame: uint8 of shape (height, width, channels).
        """
        moving = self._motion.take(frame)
        self._frames.append(moving.frame)
        missing = self._clip_frames - len(self._frames)
        return ComingClip((*[self._frames[0]] * missing, *self._frames), moving.measure)


class ComingClip(NamedTuple):
    """A clip whose last frame's motion is to be measured.

    Attributes:
        frames: clip_frames arrays, uint8 of shape (height, width, input_channels), oldest first; whole once what every
            one of them waits for was measured.
        measure: Measures the motion of the last.
    """

    frames: tuple[npt.NDArray[np.uint8], ...]
    measure: Callable[[], None]
