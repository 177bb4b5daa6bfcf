"""Other light on training frames: a cloud, a lamp or a camera's gain is not an anomaly."""

from typing import Final

import torch
from torch import Tensor

from trainer.model import ModelConfig, pictures_and_motion

_CONTRAST: Final = 0.25
_BRIGHTNESS: Final = 0.12


def relight(images: Tensor, config: ModelConfig, random: torch.Generator) -> Tensor:
    """Change contrast by up to a quarter and brightness by up to 30 grey levels, alike in all frames of a clip.

    Args:
        images: Float of shape (batch, clip_frames * input_channels, height, width), 0..1.
        config: Says which channels are motion; a difference between frames grows with contrast, flow does not.
        random: On the CPU.

    Returns:
        The same shape.
    """
    pictures, motion = pictures_and_motion(images, config)
    low_to_high = (2 * torch.rand(2, len(images), 1, 1, 1, 1, generator=random) - 1).to(images.device)
    contrast, brightness = torch.exp(_CONTRAST * low_to_high[0]), _BRIGHTNESS * low_to_high[1]
    mean = pictures.mean((1, 2, 3, 4), keepdim=True)
    lit = (pictures - mean) * contrast + mean + brightness
    moved = motion * contrast if config.motion == "difference-1" else motion
    return torch.cat([lit, moved], 2).clamp(0, 1).flatten(1, 2)
