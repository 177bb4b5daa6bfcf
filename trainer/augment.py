"""Training frames in other light, sharpness and noise, and as footage starts: none of these is an anomaly."""

from typing import Final

import torch
from torch import Tensor

from trainer.around import mean_around
from trainer.disturb import between
from trainer.model import ModelConfig, motion_at_rest, pictures_and_motion

_CONTRAST: Final = 0.25
_BRIGHTNESS: Final = 0.12
_SHARPNESS: Final = 0.6
_NOISE: Final = 0.02
_STARTS: Final = 0.1


def augment(images: Tensor, config: ModelConfig, random: torch.Generator) -> Tensor:
    """Change light, sharpness and noise, and show some clips as a stretch starts: one frame, its motion not known.

    Contrast changes by up to a quarter and brightness by up to 30 grey levels, alike in all frames of a clip; noise is
    of up to 5 levels, other in each frame.

    Args:
        images: Float of shape (batch, clip_frames * channels, height, width), 0..1; a frame's own channels, then its
            motion's, those of skipped frames too.
        config: Says which channels are motion; a difference between frames grows with contrast, flow does not.
        random: On the CPU; the same state gives the same changes.

    Returns:
        The same shape.
    """
    pictures, motion = pictures_and_motion(images, config)
    contrast = torch.exp(between(-_CONTRAST, _CONTRAST, images, random))
    brightness = between(-_BRIGHTNESS, _BRIGHTNESS, images, random)
    sharpness = between(-_SHARPNESS, _SHARPNESS, images, random)
    noise = torch.randn(pictures.shape, generator=random).to(images.device) * between(0, _NOISE, images, random)
    blurred = mean_around(pictures, 1)
    mean = pictures.mean((1, 2, 3, 4), keepdim=True)
    lit = (torch.lerp(blurred, pictures, 1 + sharpness) - mean) * contrast + mean + brightness + noise
    if config.motion == "none":
        return lit.clamp(0, 1).flatten(1, 2)
    starts = (between(0, 1, images, random) < _STARTS).flatten().nonzero().squeeze(1)
    moved = motion * contrast if config.motion == "difference-1" else motion
    made = torch.cat([lit, moved], 2).clamp_(0, 1)
    made[starts, :, : config.channels] = made[starts, -1:, : config.channels]
    made[starts, :, config.channels :] = motion_at_rest(config) / 255
    return made.flatten(1, 2)
