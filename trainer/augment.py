"""Training frames in other light, and as footage starts: neither is an anomaly."""

from typing import Final

import torch
from torch import Tensor

from contract.frame import FLOW_NEUTRAL
from trainer.model import ModelConfig, pictures_and_motion

_CONTRAST: Final = 0.25
_BRIGHTNESS: Final = 0.12
_STARTS: Final = 0.1


def augment(images: Tensor, config: ModelConfig, random: torch.Generator) -> Tensor:
    """Change light, and show some clips as the first frame of a stretch is: repeated, its motion not known.

    Contrast changes by up to a quarter and brightness by up to 30 grey levels, alike in all frames of a clip.

    Args:
        images: Float of shape (batch, clip_frames * input_channels, height, width), 0..1.
        config: Says which channels are motion; a difference between frames grows with contrast, flow does not.
        random: On the CPU; the same state gives the same changes.

    Returns:
        The same shape.
    """
    pictures, motion = pictures_and_motion(images, config)
    contrast = torch.exp(_between(-_CONTRAST, _CONTRAST, images, random))
    brightness = _between(-_BRIGHTNESS, _BRIGHTNESS, images, random)
    mean = pictures.mean((1, 2, 3, 4), keepdim=True)
    lit = (pictures - mean) * contrast + mean + brightness
    if config.motion == "none":
        return lit.clamp(0, 1).flatten(1, 2)
    starts = _between(0, 1, images, random) < _STARTS
    rest = FLOW_NEUTRAL / 255 if config.motion == "flow-dis-1" else 0.0
    moved = motion * contrast if config.motion == "difference-1" else motion
    lit = torch.where(starts, lit[:, -1:], lit)
    moved = torch.where(starts, torch.full_like(moved, rest), moved)
    return torch.cat([lit, moved], 2).clamp(0, 1).flatten(1, 2)


def _between(low: float, high: float, images: Tensor, random: torch.Generator) -> Tensor:
    """One number an image, (batch, 1, 1, 1, 1)."""
    return torch.empty(len(images), 1, 1, 1, 1).uniform_(low, high, generator=random).to(images.device)
