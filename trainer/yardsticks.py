"""Two scores that need no training and see no later frame: what any model has to be better than."""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from contract.frame import Frame, Preprocessing

YARDSTICK_INPUT: Final = Preprocessing(height=240, width=360, channels=1)
"""How frames are decoded for both yardsticks, whatever the model's input is."""

_SIGMA_PX: Final = 5.0
_FLOW_STEP_FRAMES: Final = 2


class FrameDifference:
    """Highest blurred absolute difference from the previous frame; one stretch of one camera."""

    def __init__(self) -> None:
        self._previous: npt.NDArray[np.uint8] | None = None

    def push(self, frame: Frame) -> float:
        """Score the next frame.

        Args:
            frame: uint8 of shape (240, 360, 1).

        Returns:
            Grey levels, 0 for the first frame.
        """
        grey, before = frame[..., 0], self._previous
        self._previous = grey
        return 0.0 if before is None else _highest(cv2.absdiff(grey, before).astype(np.float32))


class FlowMagnitude:
    """Highest blurred speed by dense optical flow between this frame and the one two before; one stretch.

    Source of the flow: Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016.
    """

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._frames: list[npt.NDArray[np.uint8]] = []

    def push(self, frame: Frame) -> float:
        """Score the next frame.

        Args:
            frame: uint8 of shape (240, 360, 1).

        Returns:
            Pixels in two frames, 0 for the first frame; the second frame is compared with the first.
        """
        grey = np.ascontiguousarray(frame[..., 0])
        self._frames = [*self._frames[-_FLOW_STEP_FRAMES:], grey]
        if len(self._frames) == 1:
            return 0.0
        flow = np.asarray(self._flow.calc(self._frames[0], grey, np.zeros((*grey.shape, 2), np.float32)))
        return _highest(np.sqrt(np.square(flow).sum(-1)))


def _highest(values: npt.NDArray[np.float32]) -> float:
    """Maximum over the picture at half size, after a blur that leaves what is about as large as a person."""
    height, width = values.shape
    half = cv2.resize(values, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return float(cv2.GaussianBlur(half, (0, 0), _SIGMA_PX).max())
