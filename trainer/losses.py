"""Losses between a reconstruction and the undisturbed input."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import structural_similarity_index_measure

from trainer.model import ModelConfig, pictures_and_motion
from trainer.settings import Loss

LossFunction = Callable[[Tensor, Tensor], Tensor]

_SSIM_SHARE = 0.84
_MOTION_WEIGHT = 16.0


def loss_function(name: Loss, config: ModelConfig) -> LossFunction:
    """Choose a loss for the pictures; motion's channels are compared by their squared error.

    Args:
        name: Which.
        config: Says which channels are motion.

    Returns:
        A function of reconstruction and images, both of shape (batch, channels, height, width), 0..1, to a scalar.
    """
    losses: dict[Loss, LossFunction] = {
        "mse": functional.mse_loss,
        "l1": functional.l1_loss,
        "ssim": _ssim_loss,
        "gradient": _gradient_loss,
    }
    of_pictures = losses[name]
    if config.motion == "none":
        return of_pictures

    def of_both(reconstruction: Tensor, images: Tensor) -> Tensor:
        (redrawn, moved), (pictures, motion) = (pictures_and_motion(each, config) for each in (reconstruction, images))
        of_these = of_pictures(redrawn.flatten(1, 2), pictures.flatten(1, 2))
        return of_these + _MOTION_WEIGHT * functional.mse_loss(moved, motion)

    return of_both


def _ssim_loss(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mix 1 - SSIM with the absolute error, which keeps brightness.

    The share is that of Zhao et al., Loss Functions for Image Restoration with Neural Networks, 2017.
    """
    similarity = structural_similarity_index_measure(reconstruction, images, data_range=1.0, sigma=1.0)
    assert isinstance(similarity, Tensor)  # noqa: S101 - a tuple only comes with return_contrast_sensitivity
    return _SSIM_SHARE * (1 - similarity) + (1 - _SSIM_SHARE) * functional.l1_loss(reconstruction, images)


def _gradient_loss(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Absolute error, and that of differences between neighbours, which keeps edges sharp.

    Source: Mathieu et al., Deep Multi-Scale Video Prediction beyond Mean Square Error, ICLR 2016.
    """
    along = [functional.l1_loss(reconstruction.diff(dim=side), images.diff(dim=side)) for side in (-2, -1)]
    return functional.l1_loss(reconstruction, images) + sum(along, reconstruction.new_zeros(()))
