"""Training frames in other light, size and sharpness: what differs by these alone is not an anomaly.

People who were not in the training footage differ from those who were; without this, a model scores them higher than
the held-out frames of people it has seen, and its threshold is too low for the next day (docs/decisions, 27). Frames
are not mirrored: that would make it normal to go the wrong way.
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from contract.frame import FLOW_NEUTRAL
from trainer.model import ModelConfig, pictures_and_motion

SPARE_PX: Final = 8
"""By how much crops to be resized are larger, pixels."""

_CONTRAST: Final = 0.25
_BRIGHTNESS: Final = 0.12
_NOISE: Final = 0.02
_BLUR: Final = 0.6
_LARGEST: Final = 1.2


def augment(images: Tensor, config: ModelConfig, random: torch.Generator) -> Tensor:
    """Change contrast by up to a quarter, brightness by up to 30 grey levels, sharpness and noise.

    Args:
        images: Float of shape (batch, clip_frames * input_channels, height, width), 0..1.
        config: Says which channels are motion; a difference between frames grows with contrast, flow does not.
        random: On the CPU; the same state gives the same changes.

    Returns:
        The same shape. All frames of a clip are changed alike, but for the noise.
    """
    pictures, motion = pictures_and_motion(images, config)
    contrast = torch.exp(_between(-_CONTRAST, _CONTRAST, images, random))
    brightness = _between(-_BRIGHTNESS, _BRIGHTNESS, images, random)
    softness = _between(-_BLUR, _BLUR, images, random).clamp(min=0)
    noise = torch.randn(pictures.shape, generator=random).to(images.device) * _between(0, _NOISE, images, random)
    blurred = functional.avg_pool2d(pictures.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(pictures)
    mean = pictures.mean((1, 2, 3, 4), keepdim=True)
    changed = (torch.lerp(pictures, blurred, softness) - mean) * contrast + mean + brightness + noise
    moved = motion * contrast if config.motion == "difference-1" else motion
    return torch.cat([changed, moved], 2).clamp(0, 1).flatten(1, 2)


def resize(
    crops: Tensor, position: Tensor, spare_px: int, config: ModelConfig, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cut a part of each crop, down to five sixths of what is asked for, and enlarge it to that.

    Args:
        crops: Float of shape (batch, clip_frames * input_channels, height, width), 0..1.
        position: Of the crops' places, shape (batch, 2, height, width).
        spare_px: By how much the crops are larger than what is returned.
        config: Says which channels are motion; flow grows with size.
        random: On the CPU.

    Returns:
        Crops and position, height and width smaller by ``spare_px``.
    """
    batch, _, height, width = crops.shape
    tall, wide = height - spare_px, width - spare_px
    smallest, largest = 1 / _LARGEST, min(height / tall, width / wide)
    share = torch.empty(batch).uniform_(smallest, largest, generator=random)
    sides = torch.stack([share * wide / width, share * tall / height], 1)
    centres = torch.empty(batch, 2).uniform_(-1, 1, generator=random) * (1 - sides)
    grids = torch.cat([torch.diag_embed(sides), centres[:, :, None]], 2).to(crops.device)
    grid = functional.affine_grid(grids, [batch, 1, tall, wide], align_corners=False)
    cut, places = (
        functional.grid_sample(values, grid, padding_mode="border", align_corners=False) for values in (crops, position)
    )
    if config.motion == "flow-dis-1":
        pictures, motion = pictures_and_motion(cut, config)
        rest = FLOW_NEUTRAL / 255
        motion = (motion - rest) / share.view(-1, 1, 1, 1, 1).to(crops.device) + rest
        cut = torch.cat([pictures, motion.clamp(0, 1)], 2).flatten(1, 2)
    return cut, places


def _between(low: float, high: float, images: Tensor, random: torch.Generator) -> Tensor:
    """One number an image, (batch, 1, 1, 1, 1)."""
    return torch.empty(len(images), 1, 1, 1, 1).uniform_(low, high, generator=random).to(images.device)
