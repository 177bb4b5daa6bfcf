"""Motion as it would be if the footage ran faster: frames are skipped, and what moves here is faster than it ever was.

Skip-frame pseudo-anomalies are those of Astrid et al., Learning Not to Reconstruct Anomalies, BMVC 2021: what is shown
is real, its shape, its edges and its noise included, and only its pace is wrong.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from contract.frame import Preprocessing
from contract.motion import MotionChannels
from trainer.footage import Footage, Part
from trainer.model import ModelConfig

_RATES: Final = (2, 3)
_FRAMES_OF_ONE_RATE: Final = 64


@dataclass(frozen=True)
class SkippedMotion:
    """The motion that each frame of some footage would have at two or three times the footage's rate.

    Attributes:
        motion: uint8 of shape (frames, height, width, channels of motion), backed by a file.
    """

    motion: npt.NDArray[np.uint8]


def skip_frames(
    footage: Footage,
    parts: Sequence[Part],
    preprocessing: Preprocessing,
    folder: Path,
    on_frame: Callable[[int], None],
) -> SkippedMotion:
    """Compute the motion of frames from those two or three times as far before them, in turn by stretches.

    Args:
        footage: At the model's input size.
        parts: Of the footage; that of other frames is left at zero.
        preprocessing: Names the motion; there is some.
        folder: Where the file is made; it vanishes with the process.
        on_frame: Called with the number of frames so far.
    """
    shape = *footage.frames.shape[:-1], preprocessing.input_channels - preprocessing.channels
    with tempfile.TemporaryFile(dir=folder) as file:
        motion = np.memmap(file, np.uint8, "w+", shape=shape)
    starts = np.array([segment.start for segment in footage.segments])
    places = np.concatenate([part.places for part in parts])
    for count, place in enumerate(places.tolist(), start=1):
        rate = _RATES[place // _FRAMES_OF_ONE_RATE % len(_RATES)]
        start = starts[np.searchsorted(starts, place, "right") - 1]
        seen = [footage.frames[at] for at in (place - 2 * rate, place - rate, place) if at >= start]
        motion[place] = _motion_of_last(seen, preprocessing)
        on_frame(count)
    return SkippedMotion(motion)


def _motion_of_last(frames: Sequence[npt.NDArray[np.uint8]], preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    pictures = [np.asarray(frame[..., : preprocessing.channels]) for frame in frames]
    channels = MotionChannels(preprocessing)
    for picture in pictures[:-1]:
        channels.skip(picture)
    return channels.push(pictures[-1])[..., preprocessing.channels :]


def part_skipped(images: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Part images that hold skipped motion into the model's own and that motion.

    Args:
        images: Shape (batch, clip_frames * (input_channels + channels of motion), height, width).
        config: Says which channels are which.

    Returns:
        (batch, clip_frames * input_channels, height, width), and (batch, clip_frames * channels of motion, ...).
    """
    frames = images.reshape(images.shape[0], config.clip_frames, -1, *images.shape[2:])
    own = config.preprocessing.input_channels
    return frames[:, :, :own].flatten(1, 2), frames[:, :, own:].flatten(1, 2)
