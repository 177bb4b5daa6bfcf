"""What moves, as further channels of a frame: computed once from a camera's frames, the same in training and live.

``difference-1``     one channel: absolute difference from the frame before, grey levels
``flow-dis-2``       two channels: displacement since two frames before, along the width and along the height, by dense
                     optical flow at the model's input size, in eighths of a pixel around 128: -16 to 15.875 pixels
``flow-dis-fast-2``  the same from fewer patches, in half to two thirds of the time

The flow is Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016, in OpenCV's fast preset, carried
on to full resolution. Where there is no frame before, nothing has moved.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from contract.frame import FLOW_FRAMES, FLOW_NEUTRAL, FLOW_STEPS_A_PIXEL, Frame, Motion, Preprocessing


class _FlowSettings(NamedTuple):
    """What differs from OpenCV's preset.

    Attributes:
        patch_stride_px: Between patches.
        descents: Steps that each patch's search takes.
        refinements: Variational iterations at each scale, the costliest part.
    """

    patch_stride_px: int
    descents: int
    refinements: int


_FLOWS: Final[dict[Motion, _FlowSettings]] = {
    "flow-dis-2": _FlowSettings(patch_stride_px=4, descents=4, refinements=1),
    "flow-dis-fast-2": _FlowSettings(patch_stride_px=6, descents=4, refinements=1),
}


class MotionChannels:
    """Adds motion to the frames of one camera, in the order in which they were captured.

    Args:
        preprocessing: Names what is added.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._motion = preprocessing.motion
        self._shape = preprocessing.height, preprocessing.width, preprocessing.input_channels
        self._earlier: deque[npt.NDArray[np.uint8]] = deque(maxlen=FLOW_FRAMES)

    def push(self, frame: Frame) -> npt.NDArray[np.uint8]:
        """Add the next frame's motion.

        Args:
            frame: uint8 of shape (height, width, channels).

        Returns:
            uint8 of shape (height, width, input_channels): the frame's own channels, then those of its motion.
        """
        moved = self.take(frame)
        moved.measure()
        return moved.frame

    def take(self, frame: Frame) -> "MovingFrame":
        """Take the next frame and leave its motion to be measured later, by any thread.

        Args:
            frame: uint8 of shape (height, width, channels).
        """
        if self._motion == "none":
            return MovingFrame(frame, lambda: None)
        earlier = tuple(self._earlier)
        grey = self.skip(frame)
        whole = np.empty(self._shape, np.uint8)
        whole[..., : frame.shape[2]] = frame
        if self._motion == "difference-1":
            return MovingFrame(whole, lambda: _write_difference(earlier, grey, whole))
        return MovingFrame(whole, lambda: _write_displacement(self._motion, earlier, grey, whole))

    def skip(self, frame: Frame) -> npt.NDArray[np.uint8]:
        """Take the next frame, whose own motion is not asked for.

        Args:
            frame: uint8 of shape (height, width, channels).

        Returns:
            It in grey, uint8 of shape (height, width).
        """
        grey = _grey(frame)
        self._earlier.append(grey)
        return grey


class MovingFrame(NamedTuple):
    """A frame whose motion is to be measured.

    Attributes:
        frame: uint8 of shape (height, width, input_channels), the channels of its motion not set yet.
        measure: Sets them.
    """

    frame: npt.NDArray[np.uint8]
    measure: Callable[[], None]


class _Flows(threading.local):
    """Each thread's own: a flow holds buffers, and serves one call at a time."""

    def __init__(self) -> None:
        self.of: dict[Motion, cv2.DISOpticalFlow] = {name: _open_flow(settings) for name, settings in _FLOWS.items()}


def _open_flow(settings: _FlowSettings) -> cv2.DISOpticalFlow:
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow.setFinestScale(0)
    flow.setPatchStride(settings.patch_stride_px)
    flow.setGradientDescentIterations(settings.descents)
    flow.setVariationalRefinementIterations(settings.refinements)
    return flow


_flows = _Flows()


def _write_difference(
    earlier: Sequence[npt.NDArray[np.uint8]], grey: npt.NDArray[np.uint8], whole: npt.NDArray[np.uint8]
) -> None:
    whole[..., -1] = cv2.absdiff(grey, earlier[-1]) if earlier else 0


def _write_displacement(
    name: Motion, earlier: Sequence[npt.NDArray[np.uint8]], grey: npt.NDArray[np.uint8], whole: npt.NDArray[np.uint8]
) -> None:
    if not earlier:
        whole[..., -2:] = FLOW_NEUTRAL
        return
    # The array given for the result is where the search starts from.
    flow = _flows.of[name].calc(earlier[0], grey, np.zeros((*grey.shape, 2), np.float32))
    # The second frame has one before it alone: what it moved in one frame, it moves twice in two.
    steps_a_pixel = FLOW_STEPS_A_PIXEL * FLOW_FRAMES / len(earlier)
    side_by_side = flow.reshape(len(flow), -1)
    # OpenCV takes the absolute value, so what is below the least level is brought to it before.
    above_least = np.maximum(side_by_side, np.float32(-FLOW_NEUTRAL / steps_a_pixel))
    levels = cv2.convertScaleAbs(above_least, alpha=steps_a_pixel, beta=FLOW_NEUTRAL).reshape(flow.shape)
    pictures = whole.shape[2] - 2
    cv2.mixChannels([levels], [whole], [0, pictures, 1, pictures + 1])


def _grey(frame: Frame) -> npt.NDArray[np.uint8]:
    picture = frame[..., 0] if frame.shape[2] == 1 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    return np.ascontiguousarray(picture, np.uint8)
