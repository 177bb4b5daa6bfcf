"""Crops of training frames, most of them where something moves or is to be seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from trainer.disturb import moving_places
from trainer.model import CELL_PX, ModelConfig

_BUSY_SHARE: Final = 0.8
_LEAST_BUSY: Final = 0.25
_EDGE_LEVELS: Final = 8.0


@dataclass(frozen=True)
class Window:
    """Where crops lie in their pictures, pixels.

    Attributes:
        height: Rows of each.
        width: Columns of each.
        corners: Top row and left column of each.
    """

    height: int
    width: int
    corners: Sequence[tuple[int, int]]

    def cut(self, sources: Sequence[npt.NDArray[np.uint8]], places: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Copy crops out of footage; what lies beside them is not read.

        Args:
            sources: Of shape (all frames, height, width, channels) each; their channels are joined.
            places: Of the frames of each crop, shape (batch, clip_frames).

        Returns:
            Shape (batch, clip_frames, height, width, channels).
        """
        channels = np.cumsum([0, *(source.shape[-1] for source in sources)])
        crops = np.empty((*places.shape, self.height, self.width, channels[-1]), np.uint8)
        for crop, frames, (top, left) in zip(crops, places, self.corners, strict=True):
            for source, start, stop in zip(sources, channels, channels[1:], strict=False):
                for picture, place in zip(crop, frames, strict=True):
                    picture[..., start:stop] = source[place, top : top + self.height, left : left + self.width]
        return crops

    def positions(self, position: Tensor) -> Tensor:
        """Cut the position of the crops' places.

        Args:
            position: Of the places of the whole picture, shape (2, height, width).

        Returns:
            Shape (batch, 2, height, width).
        """
        return torch.stack(
            [position[:, top : top + self.height, left : left + self.width] for top, left in self.corners]
        )


class CropChooser:
    """Chooses where a fit's crops lie.

    A still background is learnt from a few crops; what happens in front of it needs many. So four crops of five are
    centred on a cell in which something moves, or, without motion, in which there is something to see, if there is one.
    It is looked for once a frame.

    Args:
        frames: Footage, uint8 of shape (all frames, height, width, input_channels).
        side_px: Height and width of a crop, or that of the picture where it is smaller.
        config: Says which channels are motion.
    """

    def __init__(self, frames: npt.NDArray[np.uint8], side_px: int, config: ModelConfig) -> None:
        self._frames = frames
        self._side_px = side_px
        self._config = config
        cells = config.map_shape[0] * config.map_shape[1]
        self._busy = np.zeros((len(frames), cells), np.bool_)
        self._known = np.zeros(len(frames), np.bool_)

    def choose(self, places: npt.NDArray[np.int64], random: torch.Generator) -> Window:
        """Choose a crop of each frame.

        Args:
            places: Of the frames in the footage, shape (batch,).
            random: On the CPU.
        """
        height, width = self._config.height, self._config.width
        rows, columns = self._config.map_shape
        chance = torch.full((len(places), rows * columns), 1.0 / (rows * columns))
        busy = torch.from_numpy(self._busy_cells(places))
        found = busy.sum(1, keepdim=True)
        on_busy = (1 - _BUSY_SHARE) * chance + _BUSY_SHARE * busy / found.clamp(min=1)
        chance = torch.where(found > 0, on_busy, chance)
        cells = torch.multinomial(chance, 1, generator=random).squeeze(1)
        away = torch.randint(-self._side_px // 4, self._side_px // 4 + 1, (2, len(places)), generator=random)
        tall, wide = min(self._side_px, height), min(self._side_px, width)
        # Whole cells, so that a crop's places fall on those of the layers that halve the whole picture.
        tops = _to_cells(cells // columns * CELL_PX + away[0] - tall // 2, height - tall)
        lefts = _to_cells(cells % columns * CELL_PX + away[1] - wide // 2, width - wide)
        return Window(tall, wide, list(zip(tops.tolist(), lefts.tolist(), strict=True)))

    def _busy_cells(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        new = np.unique(places[~self._known[places]])
        if len(new):
            self._busy[new] = _busy_cells(self._frames[new], self._config)
            self._known[new] = True
        return self._busy[places]


def whole_pictures(batch: int, config: ModelConfig) -> Window:
    """Name the window that leaves nothing out."""
    return Window(config.height, config.width, [(0, 0)] * batch)


def _busy_cells(frames: npt.NDArray[np.uint8], config: ModelConfig) -> npt.NDArray[np.bool_]:
    """Cells a quarter of which moves or, without motion, has something to see: (batch, rows * columns)."""
    every_other = torch.from_numpy(np.ascontiguousarray(frames[:, ::2, ::2])).permute(0, 3, 1, 2).float() / 255
    busy = _edges(every_other) if config.motion == "none" else moving_places(every_other, config)
    shares = functional.avg_pool2d(busy.float()[:, None], CELL_PX // 2)
    return np.asarray(shares.flatten(1) > _LEAST_BUSY)


def _edges(images: Tensor) -> Tensor:
    """Where a picture is lighter or darker than around, bool (batch, height, width)."""
    grey = images.mean(1, keepdim=True)
    around = functional.avg_pool2d(grey, 3, 1, 1, count_include_pad=False)
    return ((grey - around).abs() > _EDGE_LEVELS / 255).squeeze(1)


def _to_cells(starts: Tensor, last: int) -> Tensor:
    return starts.clamp(0, last) // CELL_PX * CELL_PX
