"""What moves, as further channels of a frame: computed once from a camera's frames, the same in training and live.

``difference-1``  one channel: absolute difference from the frame before, grey levels
``flow-dis-2``    two channels: displacement since two frames before, along the width and along the height, by dense
                  optical flow at the model's input size, in eighths of a pixel around 128: -16 to 15.875 pixels

The flow is Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016, in OpenCV's fast preset, carried
on to full resolution by patches six pixels apart, and not refined after that. Where there is no frame before, nothing
has moved.
"""

from collections import deque
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from contract.frame import FLOW_FRAMES, FLOW_NEUTRAL, FLOW_STEPS_A_PIXEL, Frame, Preprocessing

_PATCH_STRIDE_PX: Final = 6


class MotionChannels:
    """Adds motion to the frames of one camera, in the order in which they were captured.

    Args:
        preprocessing: Names what is added.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._motion = preprocessing.motion
        self._earlier: deque[npt.NDArray[np.uint8]] = deque(maxlen=FLOW_FRAMES)
        self._flow: cv2.DISOpticalFlow | None = None

    def push(self, frame: Frame) -> npt.NDArray[np.uint8]:
        """Add the next frame's motion.

        Args:
            frame: uint8 of shape (height, width, channels).

        Returns:
            uint8 of shape (height, width, input_channels): the frame's own channels, then those of its motion.
        """
        if self._motion == "none":
            return frame
        grey = _grey(frame)
        moved = self._difference(grey) if self._motion == "difference-1" else self._displacement(grey)
        self._earlier.append(grey)
        return np.concatenate([frame, moved], axis=2)

    def skip(self, frame: Frame) -> None:
        """Take the next frame, whose own motion is not asked for.

        Args:
            frame: uint8 of shape (height, width, channels).
        """
        self._earlier.append(_grey(frame))

    def _difference(self, grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        before = self._earlier[-1] if self._earlier else grey
        return np.asarray(cv2.absdiff(grey, before), np.uint8)[..., None]

    def _displacement(self, grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if not self._earlier:
            return np.full((*grey.shape, 2), FLOW_NEUTRAL, np.uint8)
        if self._flow is None:
            self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
            self._flow.setFinestScale(0)
            self._flow.setPatchStride(_PATCH_STRIDE_PX)
            self._flow.setVariationalRefinementIterations(0)
        frames = len(self._earlier)
        # The array given for the result is where the search starts from.
        flow = self._flow.calc(self._earlier[0], grey, np.zeros((*grey.shape, 2), np.float32))
        # The second frame has one before it alone: what it moved in one frame, it moves twice in two.
        steps = np.rint(flow * (FLOW_STEPS_A_PIXEL * FLOW_FRAMES / frames)) + FLOW_NEUTRAL
        return np.asarray(np.clip(steps, 0, 255), np.uint8)


def _grey(frame: Frame) -> npt.NDArray[np.uint8]:
    picture = frame[..., 0] if frame.shape[2] == 1 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    return np.ascontiguousarray(picture, np.uint8)
