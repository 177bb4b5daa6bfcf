"""Losses between a reconstruction and the undisturbed input."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import structural_similarity_index_measure

from trainer.settings import Loss

LossFunction = Callable[[Tensor, Tensor], Tensor]

_SSIM_SHARE = 0.84


def loss_function(name: Loss) -> LossFunction:
    """Choose a loss.

    Returns:
        A function of reconstruction and images, both of shape (batch, channels, height, width), 0..1, to a scalar.
    """
    losses: dict[Loss, LossFunction] = {"mse": functional.mse_loss, "l1": functional.l1_loss, "ssim": _ssim_loss}
    return losses[name]


def _ssim_loss(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mix 1 - SSIM with the absolute error, which keeps brightness.

    The share is that of Zhao et al., Loss Functions for Image Restoration with Neural Networks, 2017.
    """
    similarity = structural_similarity_index_measure(reconstruction, images, data_range=1.0, sigma=1.0)
    assert isinstance(similarity, Tensor)  # noqa: S101 - a tuple only comes with return_contrast_sensitivity
    return _SSIM_SHARE * (1 - similarity) + (1 - _SSIM_SHARE) * functional.l1_loss(reconstruction, images)
