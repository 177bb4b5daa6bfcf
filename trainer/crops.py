"""Crops of training frames, most of them where something moves."""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from trainer.disturb import moving_places
from trainer.model import CELL_PX, ModelConfig

_MOVING_SHARE: Final = 0.8
_LEAST_MOVING: Final = 0.25


def take_crops(
    frames: Tensor, position: Tensor, side_px: int, config: ModelConfig, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Take one crop of each clip, at the same scale.

    A still background is learnt from a few crops; what happens in front of it needs many. So four crops of five are
    centred on a cell in which something moves, if there is one.

    Args:
        frames: uint8 of shape (batch, clip_frames, height, width, channels), the model's input channels first.
        position: Of the places of the whole picture, shape (2, height, width).
        side_px: Height and width of a crop, or that of the picture where it is smaller.
        config: Says which channels are motion.
        random: On the CPU.

    Returns:
        Crops (batch, clip_frames, side, side, channels) and the position of their places (batch, 2, side, side).
    """
    height, width = frames.shape[2:4]
    rows, columns = height // CELL_PX, width // CELL_PX
    chance = torch.full((len(frames), rows * columns), 1.0 / (rows * columns))
    if config.motion != "none":
        moving = _moving_cells(frames, config).cpu()
        found = moving.sum(1, keepdim=True)
        on_motion = (1 - _MOVING_SHARE) * chance + _MOVING_SHARE * moving / found.clamp(min=1)
        chance = torch.where(found > 0, on_motion, chance)
    cells = torch.multinomial(chance, 1, generator=random).squeeze(1)
    away = torch.randint(-side_px // 4, side_px // 4 + 1, (2, len(frames)), generator=random)
    tall, wide = min(side_px, height), min(side_px, width)
    # Whole cells, so that a crop's places fall on those of the layers that halve the whole picture.
    tops = _to_cells(cells // columns * CELL_PX + away[0] - tall // 2, height - tall)
    lefts = _to_cells(cells % columns * CELL_PX + away[1] - wide // 2, width - wide)
    corners = list(zip(tops.tolist(), lefts.tolist(), strict=True))
    crops = [clip[:, top : top + tall, left : left + wide] for clip, (top, left) in zip(frames, corners, strict=True)]
    places = [position[:, top : top + tall, left : left + wide] for top, left in corners]
    return torch.stack(crops), torch.stack(places)


def _moving_cells(frames: Tensor, config: ModelConfig) -> Tensor:
    """Cells of the last frame in a quarter of which something moves: bool of shape (batch, rows * columns)."""
    every_other = frames[:, -1, ::2, ::2, : config.preprocessing.input_channels].permute(0, 3, 1, 2).float() / 255
    shares = functional.avg_pool2d(moving_places(every_other, config).float()[:, None], CELL_PX // 2)
    return shares.flatten(1) > _LEAST_MOVING


def _to_cells(starts: Tensor, last: int) -> Tensor:
    return starts.clamp(0, last) // CELL_PX * CELL_PX
