"""The clip that goes with each frame: the frame itself, last, and the frames before it."""

from collections import deque

import numpy as np
import numpy.typing as npt

from contract.frame import Frame, Preprocessing
from contract.motion import MotionChannels


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
        self._frames.append(self._motion.push(frame))
        missing = self._clip_frames - len(self._frames)
        return np.stack([self._frames[0]] * missing + list(self._frames))
